"""One campaign at a time on a host: two would measure each other."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from loadtests.errors import LoadTestError

LOCK = Path(tempfile.gettempdir()) / "twinserve-bench.lock"


class CampaignRunsError(LoadTestError):
    """Raised where another campaign runs on this host."""


@contextmanager
def sole_campaign(run: str, path: Path = LOCK) -> Iterator[None]:
    """Holds the host's lock, which says who holds it; raises CampaignRunsError.

    The kernel releases it when this process ends, however it ends: a file that was left behind blocks nobody.
    """
    descriptor = _opened(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CampaignRunsError(
                f"another campaign runs on this host{_holder(path)}: two at once would measure each other. "
                "Wait for it, or end it with Ctrl-C"
            ) from None
        with suppress(OSError):  # of another user: the lock counts, the words are a courtesy
            os.ftruncate(descriptor, 0)
            about = {"pid": os.getpid(), "run": run, "since": datetime.now(UTC).isoformat(timespec="seconds")}
            os.write(descriptor, json.dumps(about).encode())
        yield
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY)
    with suppress(OSError):
        os.fchmod(descriptor, 0o666)  # whoever runs the next campaign
    return descriptor


def _holder(path: Path) -> str:
    try:
        about = json.loads(path.read_text())
        return f" (process {about['pid']}, run {about['run']}, since {about['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
