"""What the rows share: how long and how often is measured, where files are, and servers that end with the block."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gateway.settings import ModelSettings
from serving.local import LocalStack
from serving.models import BuiltModel, find_models
from serving.processes import Server
from serving.settings import LaunchSettings
from tests.benchmarks.gateway import processes
from tests.benchmarks.gateway.servers import MODEL, ROW

T = TypeVar("T")
BATCHING = {"max_size": 64, "max_bytes": 16_777_216}
PREDICT_BODY = json.dumps({"inputs": {"features": [ROW]}}).encode()


@dataclass(frozen=True, slots=True)
class Bench:
    """One run: `rounds` interleaved rounds of `seconds` each side, with files in `folder`."""

    folder: Path
    models_dir: Path
    rounds: int
    seconds: float
    warm_up: float
    soak_requests: int
    report: Callable[[str], None]

    @contextmanager
    def running(self, *stages: Sequence[Server]) -> Iterator[dict[str, int]]:
        """The process ids by name while the servers run; those of one stage start together."""
        settings = LaunchSettings(artifacts=self.folder, start_timeout_s=180, stop_grace_s=5)
        with LocalStack(settings, stages=stages) as stack:
            for name, program in stack.servers.items():
                self.report(f"    {name}: {program}")
            yield {child.server.name: child.pid for child in stack.children}

    def interleaved(self, *sides: Callable[[], T]) -> list[tuple[T, ...]]:
        """Every side once a round; every other round in the opposite order, so that a drift hits both alike."""
        found: list[tuple[T, ...]] = []
        for number in range(self.rounds):
            order = range(len(sides)) if number % 2 == 0 else range(len(sides) - 1, -1, -1)
            measured = {index: sides[index]() for index in order}
            found.append(tuple(measured[index] for index in range(len(sides))))
            self.report(f"    round {number + 1} of {self.rounds}: {', '.join(map(_shown, found[-1]))}")
        return found

    def model(self) -> BuiltModel:
        """simplenn as it was built; raises LaunchError through `find_models` where it is incomplete."""
        for model in find_models(self.models_dir):
            if model.name == MODEL:
                return model
        raise SystemExit(f"model '{MODEL}' is not built in {self.models_dir}: `make models` builds it")

    def models(
        self, endpoint: str, *, batching: bool = False, contract: Path | None = None, name: str = MODEL
    ) -> dict[str, Any]:
        """The `models` part of a gateway's configuration, with one target."""
        model: dict[str, Any] = {
            "contract": str(contract or self.model().contract),
            "targets": [{"endpoint": endpoint}],
        }
        if has_batching():
            model["batching"] = BATCHING if batching else {**BATCHING, "max_size": 1}
        return {name: model}


def cpu_per(pid: int, work: Callable[[], T], count: Callable[[T], int]) -> tuple[float, T]:
    """Processor microseconds of a process tree for each unit of `work` that `count` finds in its result."""
    before = processes.cpu_seconds(pid)
    done = work()
    return (processes.cpu_seconds(pid) - before) / count(done) * 1e6, done


def has_batching() -> bool:
    """Whether this gateway can batch."""
    return "batching" in ModelSettings.model_fields


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
