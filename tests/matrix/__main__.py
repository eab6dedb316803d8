"""`make matrix`: runs the matrix, and writes the pages that show it."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from tests.matrix import mlserver, page, stack
from tests.matrix.run import Results, run


def main() -> int:
    """Writes each page; the exit status tells whether every answer was right."""
    wrong = written(page.PAGE, stack.running, page.render)
    if mlserver.PROGRAM.exists():
        wrong += written(mlserver.PAGE, mlserver.running, mlserver.render)
    else:
        print(f"{mlserver.PAGE.name} stays as it is: there is no MLServer here; `make test-clients` installs it")
    return min(wrong, 1)


def written(
    path: Path,
    servers: Callable[[Path, Path], AbstractAsyncContextManager[stack.Running]],
    render: Callable[[Results], str],
) -> int:
    """Runs the matrix on these servers and writes its page; returns how many answers were wrong, which it prints."""
    with tempfile.TemporaryDirectory() as work:
        results = asyncio.run(run(servers(page.ROOT / "artifacts", Path(work))))
    path.write_text(render(results))
    wrong = results.all_faults()
    print("\n".join([*wrong, f"{path.relative_to(page.ROOT)}: {len(results.cells)} answers, {len(wrong)} wrong"]))
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
