"""What is measured of one model's variants, interleaved: alone in their processes, then through the gateway."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
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
# An interval says little of fewer rounds.
LEAST_ROUNDS = 3
# Callers at once through the gateway, by rows of a request.
CALLERS = {1: 4, 32: 2}
# A heavy model answers 32 rows in seconds, on a busy machine in many.
CALL_LIMIT_S = 120.0
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
    """How often and how long everything is measured.

    Each side has `seconds` in a round. Beyond LEAST_ROUNDS there are as many as fit into `limit_s`, for one batch size.
    """

    rounds: int
    seconds: float
    report: Report
    limit_s: float = math.inf

    def interleaved(self, names: Sequence[str], what: str) -> Iterator[list[str]]:
        """The names in the order of each round; every other one runs backwards, so that a drift hits all alike.

        `what` is measured, for the report of how far it is.
        """
        begin = time.monotonic()
        for number in range(self.rounds):
            yield list(names) if number % 2 == 0 else list(reversed(names))
            done = number + 1
            each = max(time.monotonic() - begin, 1e-6) / done
            left = min(self.rounds, max(LEAST_ROUNDS, int(min(self.limit_s / each, self.rounds)))) - done
            ahead = f"; about {each * left:.0f} s left of these" if left > 0 else ""
            self.report(f"    {what}, round {done} of {done + max(left, 0)}{ahead}")
            if left <= 0:
                return


class SideError(RuntimeError):
    """Raised where a variant gives no figure; the text says why, with its last words where its process ended."""


def take_turns(
    what: str, figures: Mapping[str, dict[int, list[float]]], rounds: Rounds, ask: Callable[[str, int], float]
) -> dict[str, str]:
    """Fills `figures` by name and batch size, a value of `ask` a round; of those that fail, the reason.

    One that raises SideError is asked no more. Its values of a batch size whose rounds are not whole are dropped: they
    could not be held against the others' of the same rounds.
    """
    failed: dict[str, str] = {}
    for rows in BATCHES:
        size = f"{rows} row{'s' if rows > 1 else ''}"
        for order in rounds.interleaved(list(figures), f"{what}, {size}"):
            for name in order:
                if name in failed:
                    continue
                try:
                    figures[name][rows].append(ask(name, rows))
                except SideError as exc:
                    figures[name][rows].clear()
                    failed[name] = f"from a batch of {rows} on: {exc}"
                    rounds.report(f"    {name} is left out {failed[name]}")
    return failed


class Alone:
    """A variant in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def ask(self, **question: float) -> dict[str, float]:
        """The answer to a question."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended: what it said last is read below
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        return self.told()

    def told(self) -> dict[str, float]:
        """The next line; raises SideError where there is none."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                found: dict[str, float] = json.loads(line)["alone"]
                return found
        words = self._log.read_text(errors="replace").strip().splitlines()
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        raise SideError(f"its process ended with {how}" + (f"; its last words: {words[-1]}" if words else ""))

    def ended(self) -> dict[str, float]:
        """What it tells at its end."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
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
                with suppress(BrokenPipeError):
                    stream.close()


def inside(base: Path, names: Sequence[str], logs: Path, rounds: Rounds) -> tuple[dict[str, Side], dict[str, str]]:
    """Loads one after the other, then asks all in turn: the time of the model inside its server.

    Of those that do not load, or end later, the reason; the latter keep what was measured of them.
    """
    sides: dict[str, Side] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        running = {}
        for name in names:
            one = stack.enter_context(alone(base, name, logs))
            try:
                told = one.told()
            except SideError as exc:
                failed[name] = f"it does not load: {exc}"
                rounds.report(f"    {name} does not load: {exc}")
                continue
            running[name] = one
            sides[name] = Side(name, load_s=told["load_s"])
            rounds.report(f"    {name}: loaded in {told['load_s']:.2f} s, first answer {told['first_ms']:.1f} ms")

        def ask(name: str, rows: int) -> float:
            return running[name].ask(rows=rows, seconds=rounds.seconds)["ms"]

        failed |= take_turns("model time", {name: side.ms for name, side in sides.items()}, rounds, ask)
        for name in sides.keys() - failed.keys():
            try:
                sides[name].peak_rss_mb = running[name].ended()["peak_rss_mb"]
            except SideError as exc:
                failed[name] = f"at its end: {exc}"
    return sides, failed


def through_the_gateway(
    artifacts: Path, model: str, sides: Mapping[str, Side], folder: Path, rounds: Rounds
) -> tuple[dict[str, str], dict[str, str]]:
    """Requests a second over the gateway's gRPC, the variants of all `sides` on running servers.

    Returns what these were, and of the variants that failed the reason. Raises LaunchError.
    """
    golden = load_golden(artifacts, model)

    def message(variant: str, rows: int) -> bytes:
        arrays = rows_of(golden.inputs, rows)
        tensors = tuple(Tensor(spec.name, spec.datatype, arrays[spec.name]) for spec in golden.contract.inputs)
        return encode_request(InferenceRequest(ModelSpec(model), tensors, parameters={"variant": variant}), "")

    run = folder / "run"
    run.mkdir(exist_ok=True)
    (run / "models").unlink(missing_ok=True)
    (run / "models").symlink_to((artifacts / "models").resolve())
    settings = LaunchSettings(artifacts=run, models=model, variants=",".join(sides), start_timeout_s=300)
    with LocalStack(settings, Ports.free(), report=lambda line: rounds.report(f"    {line}")) as stack:
        long: set[tuple[str, int]] = set()

        def ask(name: str, rows: int) -> float:
            # Where a call takes longer than a side's whole turn, it needs no other before it, once it was made.
            ahead = 0 if (name, rows) in long else 1
            done = _load(stack.gateway_grpc, rows, rounds.seconds, message(name, rows), ahead)
            if done["requests"] <= CALLERS[rows]:
                long.add((name, rows))
            return done["requests"] / done["seconds"]

        failed = take_turns("requests/s", {name: side.per_second for name, side in sides.items()}, rounds, ask)
        return dict(stack.servers), failed


def _load(address: str, rows: int, seconds: float, sent: bytes, ahead: int) -> dict[str, float]:
    """How many answers came in how many seconds; raises SideError where a call fails."""
    load = grpc_load.main(address, METHOD, CALLERS[rows], seconds, sent, ahead=ahead, timeout_s=CALL_LIMIT_S)
    try:
        return uvloop.run(load)
    except (grpc.aio.AioRpcError, ExceptionGroup) as exc:
        first = exc.exceptions[0] if isinstance(exc, ExceptionGroup) else exc
        if not isinstance(first, grpc.aio.AioRpcError):
            raise
        raise SideError(f"{first.code().name}: {first.details()}") from exc
