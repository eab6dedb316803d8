"""`make bench-variants`: each variant beside its own eager, inside its server and through the gateway.

What is built is measured: `twinserve models build` builds all models and all their variants.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from models import record
from models.variants import VARIANTS
from models.workshop import cpu_flags
from models.zoo import MODELS
from serving.models import find_models
from serving.processes import LaunchError
from serving.settings import LaunchSettings
from tests.benchmarks.gateway.__main__ import processor
from tests.benchmarks.variants.alone import KERAS_EAGER
from tests.benchmarks.variants.page import Measured, document, page, section
from tests.benchmarks.variants.sides import Rounds, SideError, inside, through_the_gateway

PAGE = Path("docs/benchmarks-variants.md")
PACKAGES = ("torch", "tensorflow", "keras", "onnxruntime", "torchao", "torchserve")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes, model by model; 0 where every available variant could be measured."""
    options = _options(arguments)
    settings = LaunchSettings()
    folder = settings.artifacts.resolve() / "bench-variants"
    folder.mkdir(parents=True, exist_ok=True)
    built = [model.name for model in find_models(settings.models_dir)]
    names = [name for name in options.models or (["digits"] if options.quick else list(MODELS)) if name in built]
    for name in set(options.models or MODELS) - set(built):
        print(f"{name} is not built: `twinserve models build {name}` builds it", file=sys.stderr)
    rounds = Rounds(
        rounds=options.rounds or (2 if options.quick else 8),
        seconds=options.seconds or (0.1 if options.quick else 0.5),
        report=lambda line: print(line, file=sys.stderr, flush=True),
        limit_s=options.limit,
    )
    if (busy := psutil.getloadavg()[0]) > 0.25 * (psutil.cpu_count() or 1):
        rounds.report(f"Other programs keep this machine busy (load average {busy:.1f}): times will spread widely.")
    results = Results(folder, folder / "page.md" if options.quick else PAGE, rounds)
    whole, begin = True, time.monotonic()
    for number, name in enumerate(names, 1):
        rounds.report(f"{name} ({number} of {len(names)}), {time.monotonic() - begin:.0f} s after the start")
        try:
            whole &= not _measure(name, options.variants, settings, results).failed
        except (SideError, OSError) as exc:
            rounds.report(f"    {name} could not be measured: {exc}")
            whole = False
    print(f"written: {folder}/MODEL.json and {results.page}, after {time.monotonic() - begin:.0f} s")
    return 0 if whole else 1


@dataclass(frozen=True)
class Results:
    """Where each model's figures go, as soon as they are there: a file for programs, and a section of the page."""

    folder: Path
    page: Path
    rounds: Rounds

    def _rounds(self, measured: Measured) -> str:
        """How many rounds everything had: fewer where they took long."""
        had = {
            len(values)
            for side in measured.sides.values()
            for part in (side.ms, side.per_second)
            for values in part.values()
        } - {0}
        count = f"{min(had)} to {max(had)}" if len(had) > 1 else f"{max(had, default=0)}"
        return f"{count} interleaved, {self.rounds.seconds:g} s each side, or one call where that takes longer"

    def write(self, measured: Measured, servers: Mapping[str, str]) -> None:
        """Writes one model's; what the page says of the others stays."""
        flags = cpu_flags()
        about = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "machine": f"{processor()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
            f"{platform.system()} {platform.release()}",
            "vector instructions": " ".join(flags) or "not known",
            "load average at the end": f"{psutil.getloadavg()[0]:.1f}",
            "rounds": self._rounds(measured),
            "servers": ", ".join(dict.fromkeys(servers.values())),
            "versions": ", ".join(
                [f"Python {platform.python_version()}", *(f"{each} {version(each)}" for each in PACKAGES)]
            ),
        }
        path = self.folder / f"{measured.model}.json"
        path.write_text(json.dumps(document(measured, about), indent=1) + "\n")
        before = self.page.read_text("utf-8") if self.page.is_file() else ""
        self.page.write_text(page({measured.model: section(measured, about, flags)}, before), "utf-8")


def _measure(name: str, variants: Sequence[str] | None, settings: LaunchSettings, results: Results) -> Measured:
    """Measures one model and writes what was measured, after each half."""
    base = settings.models_dir / name
    records = record.load_all(base)
    sides = [item.variant for item in records if item.available and item.variant in (variants or VARIANTS)]
    if "savedmodel" in sides:
        sides.insert(sides.index("savedmodel"), KERAS_EAGER)
    found, failed = inside(base, sides, results.folder, results.rounds)
    lost = {f"`{side}`, model time": reason for side, reason in failed.items()}
    not_yet = lost | {"requests/s of every variant": "the run ended before"}
    results.write(Measured(name, found, records, not_yet), {})
    through = {side: figures for side, figures in found.items() if side != KERAS_EAGER}
    servers: dict[str, str] = {}
    try:
        servers, failed = through_the_gateway(settings.artifacts, name, through, results.folder, results.rounds)
        lost |= {f"`{side}`, requests/s": text for side, text in failed.items()}
    except LaunchError as exc:
        # What was measured inside stays.
        results.rounds.report(f"    {name} is not measured through the gateway: {exc}")
        lost |= {"requests/s of every variant": str(exc)}
    measured = Measured(name, found, records, lost)
    results.write(measured, servers)
    return measured


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.variants", description=__doc__)
    parser.add_argument(
        "--models", type=lambda text: text.split(","), help="such as digits,minilm (default: all built)"
    )
    parser.add_argument(
        "--variants", type=lambda text: text.split(","), help="such as eager,onnx (default: all that are available)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="digits alone unless --models is given, two short rounds; not for the page"
    )
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default: 8; quick: 2)")
    parser.add_argument(
        "--limit",
        type=float,
        default=75.0,
        help="seconds for the rounds of one model and batch size, in the server and again through the gateway, beyond"
        " three rounds (default: %(default)g)",
    )
    parser.add_argument("--seconds", type=float, help="seconds a side and round (default: 0.5; quick: 0.1)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
