"""What a campaign is told beside its file: where its models are, where its run goes, and who else is there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.campaign import lock
from serving.local import LocalStack


@dataclass(frozen=True, slots=True)
class Host:
    """Another command that a campaign is part of: it holds the host's lock and runs the servers.

    `tell` hears which cell is measured; nothing is printed. Ctrl-C then ends the campaign at once, as a
    KeyboardInterrupt: there is more than a round to end.
    """

    stack: LocalStack
    tell: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """Where a campaign finds its models and leaves its run; without `formats` there is no report yet."""

    artifacts: Path
    runs: Path
    command: Sequence[str] = tuple(sys.argv)
    lock: Path = lock.LOCK
    formats: Sequence[str] = ("html",)
    plan_only: bool = False
    host: Host | None = None
