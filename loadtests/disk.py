"""Full disks and folders that cannot be written, in words."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from loadtests.errors import LoadTestError


class DiskFullError(LoadTestError):
    """Raised where there is no room for the records; the text says where, and how to go on."""


@contextlib.contextmanager
def telling_full(path: Path) -> Iterator[None]:
    """Inside, a full disk raises DiskFullError, and a folder that cannot be written LoadTestError."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full(path, exc.strerror or "no space left") from exc
        if exc.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise LoadTestError(f"{path}: cannot be written: {exc.strerror}; --runs names another folder") from exc
        raise


def write_whole(path: Path, text: str) -> None:
    """Writes a file, whole or not at all, and on the disk when this returns; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def full(path: Path, what: str) -> DiskFullError:
    """The error of a full disk, with the way on."""
    return DiskFullError(
        f"the disk is full: {path}: {what}. Nothing that was recorded is lost; "
        "make room, then go on with `twinserve bench run --resume` and the name of the run"
    )
