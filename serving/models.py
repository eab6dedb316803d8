"""The built models and their variants, as `models/` leaves them under artifacts/models/."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from models import manifest, record
from models.variants import DEFAULT, VARIANTS, UnknownVariantError, Variant, chosen
from serving.loadable import Machine, why_not
from serving.processes import TAIL_LINES, LaunchError

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BuiltVariant:
    """A variant beside the default ones, served as a model of its own; `folder` is absolute."""

    name: str
    stack: str
    served_name: str
    folder: Path

    @property
    def archive(self) -> Path:
        """The .mar of one for TorchServe; a TensorFlow server takes the folder, with its numbered versions."""
        return self.folder / f"{self.served_name}.mar"


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """One model with its default variants, and those of the others that are to be served. Paths are absolute.

    `unavailable` has, for each variant that is not served, the reason.
    """

    name: str
    folder: Path
    variants: tuple[BuiltVariant, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)

    @property
    def contract(self) -> Path:
        """Its data contract."""
        return self.folder / "contract.json"

    @property
    def archive(self) -> Path:
        """The .mar for TorchServe."""
        return self.folder / "torchscript" / f"{self.name}.mar"

    @property
    def saved_model(self) -> Path:
        """The folder of numbered SavedModels for TensorFlow Serving."""
        return self.folder / "savedmodel"

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks that serve a default variant of it, by its contract: both where that does not say."""
        try:
            said = json.loads(self.contract.read_text()).get("variants")
        except (OSError, ValueError, AttributeError):
            said = None
        return tuple(stack for stack in DEFAULT if stack in said.values()) if said else tuple(DEFAULT)

    def on(self, stack: str) -> tuple[BuiltVariant, ...]:
        """The variants to be served there, beside the default one."""
        return tuple(variant for variant in self.variants if variant.stack == stack)

    def missing(self) -> list[str]:
        """What a complete build has and this one lacks; empty for a complete one."""
        stacks = self.stacks
        needed = (self.contract, self.archive) if "torchserve" in stacks else (self.contract,)
        parts = [path for path in needed if not path.is_file()]
        if "tfserving" in stacks and not any(self.saved_model.glob("*/saved_model.pb")):
            parts.append(self.saved_model / "1" / "saved_model.pb")
        return [str(path.relative_to(self.folder)) for path in parts]


def find_models(models_dir: Path) -> tuple[BuiltModel, ...]:
    """The models with a contract, by name; raises LaunchError for one whose build is not complete."""
    built = []
    # A hidden folder is a build that goes on, or was interrupted.
    for contract in sorted(models_dir.glob("[!.]*/contract.json")):
        model = BuiltModel(contract.parent.name, contract.parent.resolve())
        if missing := model.missing():
            raise LaunchError(
                f"model '{model.name}' in {model.folder} is incomplete: {', '.join(missing)} is missing; "
                f"`twinserve models build {model.name}` builds it again"
            )
        built.append(model)
    return tuple(built)


def to_serve(
    found: Iterable[BuiltModel],
    names: str,
    variants: str,
    report: Callable[[str], None] = lambda _: None,
    here: Machine | None = None,
) -> tuple[BuiltModel, ...]:
    """Those of the built models that `names` lists, all where it is empty, each with its variants of `variants`.

    `variants` is `default`, `all` or a list such as `onnx,xla`. Every file is held against the sha256 that it was built
    with before a server is given it: raises LaunchError where the model's own have changed, and for unknown names. A
    variant that cannot be had, or not be loaded on the machine `here` (this one), is left out; `report` is told why.
    """
    models = {model.name: model for model in found}
    asked = [name.strip() for name in names.split(",") if name.strip()] or list(models)
    for name in asked:
        if name not in models:
            raise LaunchError(
                f"model '{name}' is not built; there are {', '.join(models) or 'none'}; "
                f"`twinserve models build {name}` builds it"
            )
    try:
        wanted = chosen(variants)
    except UnknownVariantError as exc:
        raise LaunchError(str(exc)) from exc
    machine = here or Machine.this()
    return tuple(_with_variants(models[name], wanted, report, machine) for name in asked)


def _with_variants(
    model: BuiltModel, wanted: Iterable[Variant], report: Callable[[str], None], here: Machine
) -> BuiltModel:
    _check_own_files(model)
    names = {variant.name for variant in wanted}
    served, unavailable, left_out = [], dict[str, str](), dict[str, list[str]]()
    for variant in VARIANTS.values():
        if variant.default and variant.stack in model.stacks:
            continue
        folder = record.folder_of(model.folder, variant.name)
        built = BuiltVariant(variant.name, variant.stack, variant.served_name(model.name), folder)
        reason = _why_not(model, variant, asked=variant.name in names) or why_not(variant, built.archive, here)
        if reason is None:
            served.append(built)
            continue
        unavailable[variant.name] = reason
        if variant.name in names and not variant.default:
            left_out.setdefault(reason, []).append(variant.name)
    for reason, alike in left_out.items():
        report(f"left out: {model.name} as {', '.join(alike)}: {reason}")
    return replace(model, variants=tuple(served), unavailable=unavailable)


def _why_not(model: BuiltModel, variant: Variant, *, asked: bool) -> str | None:
    """Why a variant is not served; None where it is."""
    its = record.load(model.folder, variant)
    if not its.available:
        return its.reason or "not available"
    if not asked:
        return f"not served; `twinserve up --variants {variant.name}` serves it"
    try:
        record.check_files(model.folder, its)
    except record.RecordError as exc:
        return str(exc)
    return None


def _check_own_files(model: BuiltModel) -> None:
    """Raises LaunchError where a file of the model's own build is not as it was built."""
    if not (model.folder / manifest.FILE).exists():
        # Put together by hand: there is nothing to hold it against.
        return
    try:
        manifest.check_files(model.folder)
    except manifest.ManifestError as exc:
        raise LaunchError(str(exc)) from exc


def build_command(models_dir: Path) -> list[str]:
    """The command that builds the models, in a process of its own: frameworks stay out of the launcher."""
    return [sys.executable, "-m", "models.build", "--root", str(models_dir), "--events"]


def build_models(command: list[str], on_event: Callable[[Event], None]) -> None:
    """Runs `build_command`, telling each event; raises LaunchError with the build's own reason.

    It writes one JSON object a line: {"event": "step", "model", "step", "status", "detail"?}, or {"event": "error",
    "model"?, "message"}.
    """
    failure = ""
    # Frameworks talk a lot on the error output; it matters only where the build fails.
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(  # noqa: S603 - our own module, no shell
            command, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            for event in _events(process.stdout or ()):
                if event.get("event") == "error":
                    failure = str(event.get("message"))
                else:
                    on_event(event)
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.terminate()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if process.returncode:
            errors.seek(0)
            last = errors.read().splitlines()[-TAIL_LINES:]
            raise LaunchError("\n".join([f"building the models failed: {failure or 'its last words'}", *last]))


def finished_step(event: Event) -> str:
    """A finished step in words; empty for one that has only begun."""
    if event.get("status") == "start":
        return ""
    words = (event.get("step"), event.get("model"), event.get("detail") or event.get("status"))
    return " ".join(str(word) for word in words if word)


def _events(lines: Iterable[str]) -> Iterator[Event]:
    for line in lines:
        if line.startswith("{"):
            yield json.loads(line)
