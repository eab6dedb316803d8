"""Makes the variants of built models: decides what is to be made, and has it made in processes of their own.

One process for each model and stack; where it dies, the variant that it was at is recorded with what is known of its
end, and a new process goes on with the rest.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from models import manifest, record
from models.hidden import clean, sole_builder
from models.job import WEIGHTS
from models.variants import Stack, Variant
from models.zoo import MODELS, ModelDefinition

Report = Callable[[dict[str, Any]], None]
Command = Callable[..., list[str]]
# A variant that takes longer hangs; the slowest, a heavy model through AOTInductor, takes minutes.
LIMIT_S = 1200.0
PACKAGES: Mapping[Stack, tuple[str, ...]] = {
    "torchserve": ("numpy", "torch", "torch-model-archiver"),
    "tfserving": ("numpy", "tensorflow", "keras"),
}
# What shapes every variant beside its exporter and the network's own folders, and how it is proven.
COMMON = (
    "gateway/core/contract.py",
    "models/job.py",
    "models/train.py",
    "models/verify.py",
    "models/zoo/dataset.py",
    "models/zoo/torch_layers.py",
)
SOURCES: Mapping[Stack, tuple[str, ...]] = {
    "torchserve": (*COMMON, "serving/torchserve"),
    "tfserving": (*COMMON, "models/convert.py", "models/zoo/keras_layers.py"),
}


@dataclass(frozen=True, slots=True)
class Order:
    """One variant of one model to make, or to verify where there is no digest."""

    model: str
    variant: Variant
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.variant.name}={self.digest}" if self.digest else self.variant.name


def worker_command(base: Path, orders: Sequence[Order], *, verify: bool) -> list[str]:
    """The command of a process that works through orders of one model and stack."""
    command = [sys.executable, "-m", "models.worker", "--base", str(base), *(["--verify"] if verify else [])]
    return command + [str(order) for order in orders]


def make(
    names: Sequence[str],
    variants: Sequence[Variant],
    root: Path,
    *,
    force: bool = False,
    retry: bool = False,
    report: Report = lambda _: None,
    command: Command = worker_command,
    limit_s: float = LIMIT_S,
) -> None:
    """Makes the variants of the models that are built below `root`; those that are made already are left.

    Whether one that was not available can be had by now is asked again; one that was tried and failed is left, unless
    `retry` says to try it again, or `force` to make all anew. `report` is told of each; one that takes longer than
    `limit_s` is given up. The default variants are the build itself, and not made here. No variant's failure is
    raised: its record says why it is not available.
    """
    with sole_builder(root):
        orders = []
        for name in names:
            (root / name / manifest.VARIANTS).mkdir(exist_ok=True)
            clean(root / name / manifest.VARIANTS)
            for variant in variants:
                if not variant.default:
                    orders += _to_make(MODELS[name], variant, root / name, report, force=force, retry=retry)
        _run(orders, root, report, partial(command, verify=False), limit_s, made=True)


def _to_make(
    definition: ModelDefinition, variant: Variant, base: Path, report: Report, *, force: bool, retry: bool
) -> list[Order]:
    """The order for one variant; none, and what is known is told, where it is made already or not offered."""
    order = Order(definition.name, variant, digest_of(definition, variant, base))
    reason = definition.not_offered.get(variant.stack)
    if reason is not None:
        record.unavailable(order.model, variant, reason, order.digest).save(record.folder_of(base, variant.name))
    known = record.load(base, variant)
    again = force or not (known.available or (known.failed and not retry))
    if (again and reason is None) or not _holds(base, known, order.digest):
        return [order]
    said = f"not available: {known.reason}" + ("; --retry tries it again" if known.failed else "")
    report(_event(order, "start"))
    report(_event(order, "cached", detail="made before" if known.available else said))
    return []


def verify(names: Sequence[str], variants: Sequence[Variant], root: Path, report: Report) -> None:
    """Proves the variants that are available anew; `report` is told of each, as `failed` where one does not hold."""
    orders = [
        Order(name, variant)
        for name in names
        for variant in variants
        if not variant.default and record.load(root / name, variant).available
    ]
    _run(orders, root, report, partial(worker_command, verify=True), LIMIT_S, made=False)


def digest_of(definition: ModelDefinition, variant: Variant, base: Path) -> str:
    """Changes with all that could change the variant, or whether it can be had: weights, sources, versions, machine."""
    packages = (*PACKAGES[variant.stack], *variant.packages, *manifest.packages_of(definition))
    versions = {name: manifest.version_of(name) for name in packages}
    machine = [platform.machine(), Path("/dev/nvidia0").exists()]
    if variant.cpu_bound:
        machine += [cpu_flags(), os.environ.get("TWINSERVE_AOT_CPU", "")]
    settings = [repr(variant), repr(definition), manifest.sha256(base / WEIGHTS), versions, machine]
    sources = (
        *SOURCES[variant.stack],
        *exporter_sources(variant.exporter),
        *definition.folders,
    )
    return manifest.digest_of(settings, [source for source in sources if (manifest.ROOT / source).exists()])


def exporter_sources(exporter: str, root: Path = manifest.ROOT) -> list[str]:
    """The file of an exporter and of every other that it imports, in turn."""
    found: set[str] = set()
    waiting = [exporter]
    while waiting:
        source = f"models/export/{waiting.pop()}.py"
        if source in found or not (root / source).is_file():
            continue
        found.add(source)
        text = (root / source).read_text("utf-8")
        waiting += re.findall(r"models\.export\.(\w+)", text)
        waiting += [
            name for names in re.findall(r"from models\.export import (.+)", text) for name in names.split(", ")
        ]
    return sorted(found)


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The vector instructions of this machine's CPU, sorted; empty where the system does not tell."""
    try:
        found = re.search(r"^flags\s*:(.*)$", path.read_text(), re.MULTILINE)
    except OSError:
        return []
    return sorted(flag for flag in (found[1].split() if found else []) if flag.startswith(("avx", "amx", "fma")))


def _holds(base: Path, known: record.Record, digest: str) -> bool:
    try:
        record.check_files(base, known)
    except record.RecordError:
        return False
    return known.digest == digest


def _run(orders: Sequence[Order], root: Path, report: Report, command: Command, limit_s: float, *, made: bool) -> None:
    """Works through orders; where a process ends early, `made` says to record that for the variant it was at."""
    progress = _Progress(len(orders), report)
    groups: dict[tuple[str, str], list[Order]] = {}
    for order in orders:
        groups.setdefault((order.model, order.variant.stack), []).append(order)
    for (model, _), group in groups.items():
        rest = group
        while rest:
            done, reason = _run_some(rest, command(root / model, rest), progress, limit_s)
            rest = rest[done:]
            if not rest:
                break
            # Orders are worked through in turn: the first that has not ended is the one that ended the process.
            lost, *rest = rest
            if made:
                # Without a digest: the next build tries again.
                failed = record.unavailable(model, lost.variant, reason)
                failed.save(record.folder_of(root / model, lost.variant.name))
            progress.ends(lost, "failed", f"not available: {reason}")


def _run_some(orders: Sequence[Order], command: list[str], progress: _Progress, limit_s: float) -> tuple[int, str]:
    """Runs one process for orders; returns how many of them it worked through, and how it ended."""
    done = 0
    with _worker(command, limit_s) as worker:
        for event in worker.events():
            if event["status"] == "start":
                progress.starts(orders[done])
            else:
                progress.ends(orders[done], event["status"], event["detail"])
                done += 1
        return done, worker.end()


class _Worker:
    """A running worker process."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str], limit_s: float) -> None:
        self._process = process
        self._errors = errors
        self._limit_s = limit_s
        self._overdue = False

    def events(self) -> Iterator[dict[str, Any]]:
        """Its events until it ends; a variant that takes too long ends it."""
        timer = self._timer()
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        try:
            for line in self._process.stdout:
                if line.startswith('{"variant":'):
                    timer.cancel()
                    yield json.loads(line)
                    timer = self._timer()
        finally:
            timer.cancel()

    def end(self) -> str:
        """How the process ended, with its last words."""
        if self._overdue:
            return f"it took longer than {self._limit_s:g} s and was stopped"
        code = self._process.wait()
        how = f"with {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        self._errors.seek(0)
        words = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return f"the process that made it ended {how}" + (f": {words[-1][:300]}" if words else "")

    def _timer(self) -> threading.Timer:
        timer = threading.Timer(self._limit_s, self._stop)
        timer.daemon = True
        timer.start()
        return timer

    def _stop(self) -> None:
        self._overdue = True
        self._process.kill()


@contextmanager
def _worker(command: list[str], limit_s: float) -> Iterator[_Worker]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(manifest.ROOT), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(  # noqa: S603 - our own module, no shell
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        try:
            yield _Worker(process, errors, limit_s)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


class _Progress:
    """Tells what happens, with how many there are and about how much time is left."""

    def __init__(self, total: int, report: Report) -> None:
        self._total, self._done = total, 0
        self._report = report
        self._begin = self._started = time.perf_counter()

    def starts(self, order: Order) -> None:
        self._started = time.perf_counter()
        self._report(_event(order, "start"))

    def ends(self, order: Order, status: str, detail: str) -> None:
        now = time.perf_counter()
        self._done += 1
        left = (now - self._begin) / self._done * (self._total - self._done)
        ahead = f"{self._done} of {self._total}" + (f", about {left:.0f} s left" if left else "")
        self._report({**_event(order, status, now - self._started, detail), "progress": ahead})


def _event(order: Order, status: str, seconds: float = 0.0, detail: str = "") -> dict[str, Any]:
    return {
        "event": "step",
        "model": order.model,
        "step": order.variant.name,
        "status": status,
        "seconds": round(seconds, 3),
        "detail": detail,
    }
