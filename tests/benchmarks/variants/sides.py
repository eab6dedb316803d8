"""What is measured of one model's variants, interleaved: alone in their processes, then through the gateway."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from gateway.codecs.oip_proto_client import encode_request
from gateway.core.messages import InferenceRequest, ModelSpec
from gateway.core.tensor import Tensor
from loadtests.golden import load_golden
from serving.local import LocalStack
from serving.settings import LaunchSettings, Ports
from tests.benchmarks.gateway import grpc_load
from tests.benchmarks.variants.alone import MARK, rows_of

BATCHES = (1, 32)
# Callers at once through the gateway, by rows of a request.
CALLERS = {1: 4, 32: 2}
METHOD = "/inference.GRPCInferenceService/ModelInfer"

Report = Callable[[str], None]


@dataclass
class Side:
    """The figures of one variant, by batch size a value a round: milliseconds of a call, requests a second."""

    name: str
    ms: dict[int, list[float]] = field(default_factory=lambda: {rows: [] for rows in BATCHES})
    per_second: dict[int, list[float]] = field(default_factory=lambda: {rows: [] for rows in BATCHES})
    load_s: float = 0.0
    peak_rss_mb: float = 0.0


@dataclass(frozen=True)
class Rounds:
    """How often and how long everything is measured."""

    rounds: int
    seconds: float
    report: Report

    def interleaved(self, names: Sequence[str]) -> Iterator[list[str]]:
        """The names in the order of each round; every other one runs backwards, so that a drift hits all alike."""
        for number in range(self.rounds):
            yield list(names) if number % 2 == 0 else list(reversed(names))
            self.report(f"    round {number + 1} of {self.rounds}")


class AloneError(RuntimeError):
    """Raised where a variant's process ended; the text has its last words."""


class Alone:
    """A variant in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def ask(self, **question: float) -> dict[str, float]:
        """The answer to a question."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self.told()

    def told(self) -> dict[str, float]:
        """The next line; raises AloneError where there is none."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                found: dict[str, float] = json.loads(line)["alone"]
                return found
        words = self._log.read_text(errors="replace").strip().splitlines()
        raise AloneError(words[-1] if words else "it ended without a word")

    def ended(self) -> dict[str, float]:
        """What it tells at its end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.told()


@contextmanager
def alone(base: Path, name: str, logs: Path) -> Iterator[Alone]:
    """The process of a variant, which ends with the block."""
    log = logs / f"{base.name}-{name}.log"
    command = [sys.executable, "-m", "tests.benchmarks.variants.alone", str(base), name]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            yield Alone(process, log)
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()


def inside(base: Path, names: Sequence[str], logs: Path, rounds: Rounds) -> tuple[dict[str, Side], dict[str, str]]:
    """Loads one after the other, then asks all in turn: the time of the model inside its server.

    Of those that do not load, the reason. Raises AloneError where one ends later.
    """
    sides: dict[str, Side] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        running = {}
        for name in names:
            one = stack.enter_context(alone(base, name, logs))
            try:
                told = one.told()
            except AloneError as exc:
                failed[name] = str(exc)
                rounds.report(f"    {name} does not load: {exc}")
                continue
            running[name] = one
            sides[name] = Side(name, load_s=told["load_s"])
            rounds.report(f"    {name}: loaded in {told['load_s']:.2f} s, first answer {told['first_ms']:.1f} ms")
        for rows in BATCHES:
            for order in rounds.interleaved(list(sides)):
                for name in order:
                    sides[name].ms[rows].append(running[name].ask(rows=rows, seconds=rounds.seconds)["ms"])
        for name, side in sides.items():
            side.peak_rss_mb = running[name].ended()["peak_rss_mb"]
    return sides, failed


def through_the_gateway(
    artifacts: Path, model: str, sides: Mapping[str, Side], folder: Path, rounds: Rounds
) -> dict[str, str]:
    """Requests a second over the gateway's gRPC, all variants on running servers; returns what these were."""
    golden = load_golden(artifacts, model)

    def message(variant: str, rows: int) -> bytes:
        arrays = rows_of(golden.inputs, rows)
        tensors = tuple(Tensor(spec.name, spec.datatype, arrays[spec.name]) for spec in golden.contract.inputs)
        return encode_request(InferenceRequest(ModelSpec(model), tensors, parameters={"variant": variant}), "")

    run = folder / "run"
    run.mkdir(exist_ok=True)
    (run / "models").unlink(missing_ok=True)
    (run / "models").symlink_to((artifacts / "models").resolve())
    settings = LaunchSettings(artifacts=run, models=model, variants="all", start_timeout_s=300)
    with LocalStack(settings, Ports.free(), report=lambda line: rounds.report(f"    {line}")) as stack:
        for rows in BATCHES:
            messages = {name: message(name, rows) for name in sides}

            def load(name: str, rows: int, sent: bytes) -> dict[str, Any]:
                return uvloop.run(grpc_load.main(stack.gateway_grpc, METHOD, CALLERS[rows], rounds.seconds, sent))

            for name, sent in messages.items():
                load(name, rows, sent)
            for order in rounds.interleaved(list(sides)):
                for name in order:
                    done = load(name, rows, messages[name])
                    sides[name].per_second[rows].append(done["requests"] / done["seconds"])
        return dict(stack.servers)
