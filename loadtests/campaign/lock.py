"""One measurement at a time on a host, a campaign or a demo: two would measure each other."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from loadtests.errors import LoadTestError

# One name for every user of the host, whatever TMPDIR says; in /tmp nobody may move another's file.
LOCK = Path("/tmp/twinserve-bench.lock")  # noqa: S108 - opened without following links


class CampaignRunsError(LoadTestError):
    """Raised where another campaign runs on this host."""


@contextmanager
def sole_campaign(run: str, path: Path = LOCK) -> Iterator[None]:
    """Holds the host's lock, which says who holds it; raises CampaignRunsError, or LoadTestError where it has none.

    The kernel releases it when this process ends, however it ends: a file that was left behind blocks nobody.
    """
    descriptor = _opened(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CampaignRunsError(
                f"another campaign or demo runs on this host{_holder(path)}: two at once would measure each other. "
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
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except PermissionError:
            # Of another user: Linux then refuses to open it for creation, and to lock it reading is enough.
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as exc:
        raise LoadTestError(
            f"{path}: {exc.strerror}: the lock that keeps two campaigns apart cannot be opened; "
            "remove what is there, if it is not a campaign's"
        ) from exc
    with suppress(OSError):
        os.fchmod(descriptor, 0o666)  # whoever runs the next campaign
    return descriptor


def _holder(path: Path) -> str:
    try:
        about = json.loads(path.read_text())
        return f" (process {about['pid']}, run {about['run']}, since {about['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
