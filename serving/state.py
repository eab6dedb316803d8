"""What runs now, in artifacts/run/state.json, so that other commands find it: status, logs, down."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import psutil

from serving import reaper

FILE = "state.json"


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that is never confused with a later one of the same number: `began` differs."""

    pid: int
    began: str

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process that has the number now."""
        return cls(pid, _began(pid) or "")

    def runs(self) -> bool:
        """Whether this very process still runs."""
        return _began(self.pid) == self.began

    def memory(self) -> int:
        """Resident bytes of the process and its children; 0 where it has ended."""
        try:
            process = psutil.Process(self.pid)
            return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
        except psutil.Error:
            return 0


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server that was started. `description` is empty until it is ready; `health` is a URL that answers 200."""

    name: str
    process: ProcessId
    url: str
    health: str
    ports: tuple[int, ...]
    log: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class RunState:
    """A run of the servers: its launcher, how far it is, and what it started."""

    launcher: ProcessId
    status: Literal["starting", "ready", "failed"]
    gateway_rest: str
    gateway_grpc: str
    servers: tuple[ServerState, ...] = ()
    message: str = ""
    gateway_admin: str = ""

    def runs(self) -> bool:
        """Whether the run goes on; where the launcher has ended or failed, so have its servers."""
        return self.status != "failed" and self.launcher.runs()

    def save(self, run_dir: Path) -> None:
        """Writes the file in one step: a reader sees the old state or the new one."""
        part = run_dir / f"{FILE}.part"
        part.write_text(json.dumps(asdict(self), indent=2) + "\n")
        part.replace(run_dir / FILE)

    def failed(self, message: str) -> RunState:
        """This run, ended by an error."""
        return replace(self, status="failed", message=message)

    @staticmethod
    def remove(run_dir: Path) -> None:
        """Removes the file: nothing runs, and nothing went wrong."""
        (run_dir / FILE).unlink(missing_ok=True)

    @classmethod
    def load(cls, run_dir: Path) -> RunState | None:
        """The last state written; None where there is none, or none that this version can read."""
        try:
            return cls._from(json.loads((run_dir / FILE).read_text()))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @classmethod
    def _from(cls, document: dict[str, Any]) -> Self:
        servers = tuple(
            ServerState(**{**item, "process": ProcessId(**item["process"]), "ports": tuple(item["ports"])})
            for item in document["servers"]
        )
        return cls(**{**document, "launcher": ProcessId(**document["launcher"]), "servers": servers})


def running(run_dir: Path) -> RunState | None:
    """The run that goes on now; None where there is none."""
    state = RunState.load(run_dir)
    return state if state is not None and state.runs() else None


def _began(pid: int) -> str | None:
    if Path("/proc/self/stat").exists():
        return reaper.start_time(pid)
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
