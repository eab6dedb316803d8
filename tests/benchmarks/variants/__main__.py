"""`make bench-variants`: each variant beside its own eager, inside its server and through the gateway.

What is built is measured: `twinserve models build` builds all models and all their variants.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from models import record
from models.workshop import cpu_flags
from models.zoo import MODELS
from serving.models import find_models
from serving.processes import LaunchError
from serving.settings import LaunchSettings
from tests.benchmarks.gateway.__main__ import processor
from tests.benchmarks.variants.alone import KERAS_EAGER
from tests.benchmarks.variants.page import Measured, document, markdown
from tests.benchmarks.variants.sides import Rounds, SideError, inside, through_the_gateway

PACKAGES = ("torch", "tensorflow", "keras", "onnxruntime", "torchao", "torchserve")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and writes results.json and results.md; 0 where every available variant could be measured."""
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
    )
    if (busy := psutil.getloadavg()[0]) > 0.25 * (psutil.cpu_count() or 1):
        rounds.report(f"Other programs keep this machine busy (load average {busy:.1f}): times will spread widely.")
    found: list[Measured] = []
    servers: dict[str, str] = {}
    for name in names:
        rounds.report(name)
        try:
            measured = _measured(name, settings, folder, rounds, servers)
        except (SideError, OSError) as exc:
            rounds.report(f"    {name} could not be measured: {exc}")
            continue
        found.append(measured)
        _write(folder, found, rounds, servers)
    print(f"written: {folder / 'results.json'} and results.md, which is docs/benchmarks-variants.md of this machine")
    return 0 if len(found) == len(names) and not any(measured.failed for measured in found) else 1


def _measured(name: str, settings: LaunchSettings, folder: Path, rounds: Rounds, servers: dict[str, str]) -> Measured:
    base = settings.models_dir / name
    records = record.load_all(base)
    served = [item.variant for item in records if item.available]
    sides = list(served)
    if "savedmodel" in served:
        sides.insert(sides.index("savedmodel"), KERAS_EAGER)
    measured, failed = inside(base, sides, folder, rounds)
    through = {side: figures for side, figures in measured.items() if side != KERAS_EAGER}
    lost = {f"`{side}`, model time": reason for side, reason in failed.items()}
    try:
        running, failed = through_the_gateway(settings.artifacts, name, through, folder, rounds)
    except LaunchError as exc:
        # What was measured inside stays.
        rounds.report(f"    {name} is not measured through the gateway: {exc}")
        return Measured(name, measured, records, lost | {"requests/s of every variant": str(exc)})
    servers |= running
    return Measured(name, measured, records, lost | {f"`{side}`, requests/s": text for side, text in failed.items()})


def _write(folder: Path, found: Sequence[Measured], rounds: Rounds, servers: dict[str, str]) -> None:
    flags = cpu_flags()
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{processor()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
        f"{platform.system()} {platform.release()}",
        "vector instructions": " ".join(flags) or "not known",
        "load average at the end": f"{psutil.getloadavg()[0]:.1f}",
        "rounds": f"{rounds.rounds} interleaved, {rounds.seconds:g} s each side",
        "servers": ", ".join(dict.fromkeys(servers.values())),
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{each} {version(each)}" for each in PACKAGES)]
        ),
    }
    (folder / "results.json").write_text(json.dumps(document(found, about), indent=1) + "\n")
    (folder / "results.md").write_text(markdown(found, about, flags))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.variants", description=__doc__)
    parser.add_argument(
        "--models", type=lambda text: text.split(","), help="such as digits,minilm (default: all built)"
    )
    parser.add_argument("--quick", action="store_true", help="digits alone, two short rounds; not for publishing")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default: 8; quick: 2)")
    parser.add_argument("--seconds", type=float, help="seconds a side and round (default: 0.5; quick: 0.1)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
