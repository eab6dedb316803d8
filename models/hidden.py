"""Folders that are filled out of sight and then take their place at once."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX, REPLACED = ".building-", "-old"


@contextmanager
def hidden_folder(root: Path, name: str) -> Iterator[Path]:
    """A hidden folder that takes its place as `root/name` when the body ends well, and is removed where it does not."""
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-", dir=root))
    folder.chmod(0o755)
    target, replaced = root / name, root / f"{PREFIX}{name}{REPLACED}"
    try:
        yield folder
        if target.exists():
            # Two renames: for an instant there is no model, but never half a one.
            target.rename(replaced)
        folder.rename(target)
    finally:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        for left in (folder, replaced):
            shutil.rmtree(left, ignore_errors=True)


def clean(root: Path) -> None:
    """Removes what killed builds left; a folder that was about to be replaced gets its place back."""
    for left in root.glob(f"{PREFIX}*"):
        name = left.name.removeprefix(PREFIX).removesuffix(REPLACED)
        if left.name.endswith(REPLACED) and not (root / name).exists():
            left.rename(root / name)
        else:
            shutil.rmtree(left)


@contextmanager
def sole_builder(root: Path) -> Iterator[None]:
    """Holds a lock; a second builder waits for the first and then finds the work done."""
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
