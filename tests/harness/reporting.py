"""How long the report of ten million requests takes, and how large it is."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.harness.findings import Finding
from tests.unit.loadtests.synthetic import Law, plan, server_load, target, write_run

MOST_S, MOST_BYTES = 10.0, 3_000_000
_ROUNDS, _RATE = 10, 1000.0
# In a process of its own, as `twinserve bench report` is: the imports count.
_REPORT = """
import sys, time
from pathlib import Path
began, used = time.perf_counter(), time.process_time()
from loadtests.campaign_report import write
write(Path(sys.argv[1]))
print(time.perf_counter() - began, time.process_time() - used)
"""


def reported(folder: Path, say: Callable[[str], None], share: float = 1.0) -> list[Finding]:
    """The report of a synthetic run of 160 cells; `share` of 10^7 requests."""
    say("a report of ten million requests")
    stacks = [("torchserve", "direct"), ("tfserving", "direct"), ("torchserve", "gateway"), ("tfserving", "gateway")]
    targets = [
        target(f"{path}/{stack}-{wire}", stack=stack, path=path, wire=wire)
        for stack, path in stacks
        for wire in ("rest", "grpc")
    ][:7]
    laws = {own.name: Law(median_ms=0.3, gateway_ms=0.8 if own.path == "gateway" else None) for own in targets}
    cells = plan([(name, server_load(_RATE * share, 60)) for name in ("one", "other")], targets, rounds=_ROUNDS)
    run = write_run(folder / "large", cells, laws, lines=False)
    done = subprocess.run([sys.executable, "-c", _REPORT, str(run)], capture_output=True, text=True, check=True)
    wall, used = (float(word) for word in done.stdout.split())
    size = (run / "report.html").stat().st_size
    page = (run / "report.html").read_text("utf-8")
    requests = re.search(r"([\d,]+) requests measured", page)
    law = f"report of {requests[1] if requests else '?'} requests"
    return [
        Finding(law, "time, from the start of the process", "", f"{wall:.1f} s ({used:.1f} s of CPU)",
                f"at most {MOST_S:g} s", wall <= MOST_S),
        Finding(law, "size", "", f"{size / 1e6:.2f} MB", f"at most {MOST_BYTES / 1e6:g} MB", size <= MOST_BYTES),
    ]  # fmt: skip
