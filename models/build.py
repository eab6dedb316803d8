"""Builds models: train, convert, export, verify. `python -m models.build --help` tells the options.

A model is built in a hidden folder beside its place and renamed into it when it is whole (`models.hidden`): an
interrupted build leaves nothing that a server could load.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gateway.core.contract import ModelContract, Parity
from models import manifest, record
from models.convert import ConversionError
from models.hidden import clean, hidden_folder, sole_builder
from models.job import WEIGHTS, save_weights
from models.train import FRAMEWORKS, Framework, Trained, TrainingError
from models.variants import DEFAULT, VARIANTS, UnknownVariantError, chosen
from models.verify import ParityError
from models.workshop import make as make_variants
from models.zoo import DEMO, MODELS, ModelDefinition
from models.zoo.dataset import Array, Rows, named, part

Report = Callable[[dict[str, Any]], None]
STEPS = ("train", "convert", "export", "verify")
SEED = 7
INTERRUPTED = 128 + signal.SIGINT


class BuildError(RuntimeError):
    """Raised where a model cannot be built; the text says why and what to do."""


# What says why a model cannot be built; whatever else is raised is a framework's, or a mistake of ours.
REASONS = (BuildError, TrainingError, ConversionError, ParityError, OSError)


def build(
    names: Sequence[str],
    root: Path,
    *,
    framework: Framework = "pytorch",
    seed: int = SEED,
    force: bool = False,
    report: Report = lambda _: None,
    models: Mapping[str, ModelDefinition] = MODELS,
) -> None:
    """Builds each model into `root/<name>`, unless the same build is there already.

    `report` is told every step's start and end. Raises BuildError, TrainingError, ConversionError or ParityError;
    the models built before stay.
    """
    unknown = [name for name in names if name not in models]
    if unknown:
        raise BuildError(f"unknown model '{unknown[0]}'; there are {', '.join(models)}")
    root.mkdir(parents=True, exist_ok=True)
    with sole_builder(root):
        clean(root)
        for name in names:
            mark = manifest.fingerprint(models[name], framework, seed)
            if not force and _is_built(root / name, mark):
                for step in STEPS:
                    report(_event(name, step, "start"))
                    report(_event(name, step, "cached", detail=_cached_detail(root / name, step)))
            else:
                _build_one(models[name], root, framework, seed, mark, report)


def build_each(names: Sequence[str], root: Path, **options: Any) -> dict[str, str]:  # noqa: ANN401 - those of `build`
    """Builds each model whatever becomes of the others; of those that could not be built, the reason."""
    failures: dict[str, str] = {}
    for name in names:
        try:
            build([name], root, **options)
        except REASONS as exc:
            failures[name] = str(exc)
        except Exception as exc:
            # Whatever a framework raises: its last words are for whoever reads the log.
            traceback.print_exc()
            failures[name] = f"{type(exc).__name__}: {exc}"
    return failures


def reference_outputs(definition: ModelDefinition, folder: Path, rows: Rows) -> tuple[Array, Array | None]:
    """The outputs of both exported files, torchscript and savedmodel, for all rows; None of one not offered."""
    import_tensorflow()
    from models.export import savedmodel, torchscript

    theirs = None
    if "tfserving" not in definition.not_offered:
        theirs = savedmodel.predict(definition, folder / "savedmodel", rows)[definition.outputs[0].name]
    archive = folder / "torchscript" / f"{definition.name}.mar"
    return torchscript.predict(archive, definition.network_rows(rows)), theirs


def _build_one(
    definition: ModelDefinition, root: Path, framework: Framework, seed: int, mark: str, report: Report
) -> None:
    from models import convert, train, verify

    import_tensorflow()
    name = definition.name
    with hidden_folder(root, name) as folder:
        with _step(report, name, "train") as detail:
            trained = train.train(definition, framework, seed)
            detail(trained.described())
        with _step(report, name, "convert") as detail:
            if framework == "pytorch":
                torch_net, keras_net = trained.net, None
                if "tfserving" not in definition.not_offered:
                    keras_net = convert.to_keras(definition, trained.net, trained.data)
                detail(definition.not_offered.get("tfserving", "PyTorch to Keras, layer by layer"))
            else:
                torch_net, keras_net = convert.to_torch(definition, trained.net, trained.data), trained.net
                detail("Keras to PyTorch, layer by layer")
        contract = _contract(definition)
        with _step(report, name, "export") as detail:
            _export(contract, definition, trained, torch_net, keras_net, folder)
            detail("torchscript in a .mar" + ("" if keras_net is None else ", savedmodel"))
        with _step(report, name, "verify") as detail:
            rows = named(trained.data.test_inputs, definition.inputs)
            ours, theirs = reference_outputs(definition, folder, rows)
            original = train.predict_torch(torch_net, train.tested(definition, trained.data))
            other = original if theirs is None else theirs
            contract = replace(contract, parity=verify.compare(definition, ours, other, contract.tolerance))
            _finish(contract, trained, ours if framework == "pytorch" else other, folder, seed, mark)
            _record_defaults(contract, definition, {"torchscript": ours, "savedmodel": theirs}, original, folder)
            _keep_variants(root / name, folder)
            detail(described(contract.parity))


def _contract(definition: ModelDefinition) -> ModelContract:
    return ModelContract(
        name=definition.name,
        version=definition.version,
        inputs=definition.inputs,
        outputs=definition.outputs,
        batch_cap=definition.batch_cap,
        class_labels=definition.class_labels,
        tolerance=definition.tolerance,
        variants={name: stack for stack, name in DEFAULT.items() if stack not in definition.not_offered},
    )


def _export(
    contract: ModelContract,
    definition: ModelDefinition,
    trained: Trained,
    torch_net: Any,  # noqa: ANN401 - a torch module
    keras_net: Any,  # noqa: ANN401 - a Keras model
    folder: Path,
) -> None:
    from models.export import archive, savedmodel, torchscript

    path = folder / "contract.json"
    path.write_text(contract.to_json(), "utf-8")
    save_weights(torch_net, folder / WEIGHTS)
    example = definition.network_rows(part(named(trained.data.test_inputs, definition.inputs), 0, 2))
    torchscript.export(
        definition.name,
        definition.version,
        torch_net,
        example,
        path,
        folder / "torchscript",
        preprocessing=archive.preprocessing(definition),
    )
    if keras_net is not None:
        savedmodel.export(definition, keras_net, folder / "savedmodel")


def _finish(contract: ModelContract, trained: Trained, outputs: Array, folder: Path, seed: int, mark: str) -> None:
    definition = trained.definition
    (folder / "contract.json").write_text(contract.to_json(), "utf-8")
    inputs = part(named(trained.data.test_inputs, definition.inputs), 0, definition.golden_rows)
    golden = {**inputs, definition.outputs[0].name: outputs[: definition.golden_rows]}
    # Without pickle: a BYTES tensor is stored as NumPy's own strings of bytes.
    plain = {name: array.astype("S") if array.dtype == object else array for name, array in golden.items()}
    np.savez(folder / "golden.npz", **plain)  # type: ignore[arg-type]
    manifest.Manifest(
        model=definition.name,
        version=definition.version,
        framework=trained.framework,
        seed=seed,
        metric={definition.metric: trained.metric},
        versions=manifest.versions(),
        fingerprint=mark,
        files=manifest.files_of(folder),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    ).save(folder)


def _record_defaults(
    contract: ModelContract,
    definition: ModelDefinition,
    outputs: Mapping[str, Array | None],
    original: Array,
    folder: Path,
) -> None:
    """Writes the default variants' records: each against the eager original; raises ParityError."""
    from models.verify import compare

    files = manifest.load(folder).files
    for name, tested in outputs.items():
        variant = VARIANTS[name]
        if tested is None:
            made = record.unavailable(definition.name, variant, definition.not_offered[variant.stack])
        else:
            parity = compare(definition, tested, original, contract.tolerance, (name, "the original"))
            own = {path: digest for path, digest in files.items() if path.startswith(f"{name}/")}
            made = record.available(definition.name, variant, replace(contract, parity=parity), folder, own, "")
        made.save(record.folder_of(folder, name))


def _keep_variants(before: Path, folder: Path) -> None:
    """Takes over the variants of the build before, where they were made of the same weights."""
    if not (before / WEIGHTS).is_file() or manifest.sha256(before / WEIGHTS) != manifest.sha256(folder / WEIGHTS):
        return
    for variant in (before / manifest.VARIANTS).glob("[!.]*"):
        if not (folder / manifest.VARIANTS / variant.name).exists():
            shutil.copytree(variant, folder / manifest.VARIANTS / variant.name, copy_function=os.link)


def described(parity: Parity) -> str:
    """A parity result, for people."""
    same = "" if parity.argmax_agreement is None else f", same class on {parity.argmax_agreement:.0%}"
    return f"whole test set within tolerance: max |a-b|/(1+|b|) {parity.max_scaled:.1e}{same}"


def _is_built(folder: Path, mark: str) -> bool:
    try:
        return manifest.check_files(folder).fingerprint == mark
    except manifest.ManifestError:
        return False


def _cached_detail(folder: Path, step: str) -> str:
    built = manifest.load(folder)
    if step == "train":
        return " ".join(f"test {name} {value:.4f}" for name, value in built.metric.items()) + " (built before)"
    contract = ModelContract.load(folder / "contract.json")
    return described(contract.parity) if step == "verify" and contract.parity else "built before"


@contextmanager
def _step(report: Report, model: str, step: str) -> Iterator[Callable[[str], None]]:
    begin, said = time.perf_counter(), ""

    def detail(text: str) -> None:
        nonlocal said
        said = text

    report(_event(model, step, "start"))
    yield detail
    report(_event(model, step, "done", time.perf_counter() - begin, said))


def _event(model: str, step: str, status: str, seconds: float = 0.0, detail: str = "") -> dict[str, Any]:
    return {
        "event": "step",
        "model": model,
        "step": step,
        "status": status,
        "seconds": round(seconds, 3),
        "detail": detail,
    }


def quiet_frameworks(*, hide_gpus: bool = True) -> None:
    """Keeps TensorFlow's start-up lines out of the output; call it before TensorFlow is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if hide_gpus:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")


def import_tensorflow() -> None:
    """Imports TensorFlow without the lines that its C++ code writes before it can be told to be quiet."""
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        import tensorflow  # noqa: F401
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def main(arguments: Sequence[str] | None = None, check: Callable[[], None] = lambda: None) -> int:
    """The command line; returns the exit status. `check` is called at every step and may raise to end the build."""
    parser = argparse.ArgumentParser(prog="python -m models.build", description="Train and export the models.")
    parser.add_argument("--root", type=Path, default=Path("artifacts/models"), help="where to (default: %(default)s)")
    parser.add_argument(
        "--model", action="append", choices=sorted(MODELS), help=f"one of them; default: {', '.join(DEMO)}"
    )
    parser.add_argument(
        "--framework", choices=FRAMEWORKS, default="pytorch", help="which trains (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="(default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="build even what is built already")
    parser.add_argument(
        "--variants", default="default", help="default, all, or a list such as onnx,xla (default: %(default)s)"
    )
    parser.add_argument("--retry", action="store_true", help="try variants again that failed when they were made")
    parser.add_argument("--events", action="store_true", help="one JSON line an event on standard output")
    options = parser.parse_args(arguments)
    quiet_frameworks()
    building = ""

    def report(event: dict[str, Any]) -> None:
        nonlocal building
        check()
        building = event["model"]
        (_as_json if options.events else _as_text)(event)

    def fail(message: str, status: int = 1) -> int:
        if options.events:
            print(json.dumps({"event": "error", "model": building, "message": message}), flush=True)
        else:
            print(f"models.build: {message}", file=sys.stderr)
        return status

    try:
        wanted, names = chosen(options.variants), options.model or DEMO
        how = {"framework": options.framework, "seed": options.seed, "force": options.force}
        failures = build_each(names, options.root, **how, report=report)
        built = [name for name in names if name not in failures]
        if built and any(not variant.default for variant in wanted):
            again = {"force": options.force, "retry": options.retry}
            make_variants(built, wanted, options.root, **again, report=report)
    except (UnknownVariantError, OSError) as exc:
        return fail(str(exc))
    except KeyboardInterrupt:
        return fail("interrupted; nothing was left half built", INTERRUPTED)
    except Exception as exc:
        traceback.print_exc()
        return fail(f"{type(exc).__name__}: {exc}")
    if failures:
        building = next(iter(failures))
        told = [why if why.startswith(f"{name}:") else f"{name}: {why}" for name, why in failures.items()]
        return fail("; ".join(told))
    return 0


def _as_json(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


def _as_text(event: dict[str, Any]) -> None:
    if event["status"] != "start":
        ahead = f"; {event['progress']}" if "progress" in event else ""
        print(f"{event['model']}: {event['step']} {event['detail']} ({event['seconds']:.1f} s{ahead})", flush=True)


class _Termination:
    """SIGTERM as an exit, so that the folder being built is removed on the way out.

    An exit that is raised while a framework is being imported can get lost in it; it is then raised again at the next
    step.
    """

    def __init__(self) -> None:
        self.status = 0

    def __call__(self, number: int, _: object) -> None:
        self.status = 128 + number
        sys.exit(self.status)

    def check(self) -> None:
        """Raises the exit that was asked for, if any."""
        if self.status:
            sys.exit(self.status)


if __name__ == "__main__":
    termination = _Termination()
    signal.signal(signal.SIGTERM, termination)
    result = main(check=termination.check)
    sys.exit(termination.status or result)
