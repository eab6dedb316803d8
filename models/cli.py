"""The commands about models: build, verify, list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.train import FRAMEWORKS
from models.variants import VARIANTS, UnknownVariantError, chosen
from models.zoo import DEMO, MODELS

if TYPE_CHECKING:
    from models.manifest import Manifest
    from models.record import Record

app = typer.Typer(no_args_is_help=True, help="Train, export, verify and list the models.")

Artifacts = Annotated[
    Path, typer.Option(envvar="TWINSERVE_ARTIFACTS", help="The folder that holds models/<name>/ for each built model.")
]
Names = Annotated[list[str] | None, typer.Argument(help=f"Which: {', '.join(MODELS)}. Default: all.")]


@app.command("build")
def build_models(
    names: Names = None,
    artifacts: Artifacts = Path("artifacts"),
    framework: Annotated[str, typer.Option(help=f"Which framework trains: {' or '.join(FRAMEWORKS)}.")] = "pytorch",
    seed: Annotated[int, typer.Option(help="Seed of the data split, the first weights and the order of training.")] = 7,
    force: Annotated[bool, typer.Option("--force", help="Build even what is built already.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try variants again that failed when they were made; nothing is trained.")
    ] = False,
    variants: Annotated[
        str, typer.Option(help="default, all, or a list such as onnx,xla; docs/variants.md tells what there is.")
    ] = "all",
) -> None:
    """Train, convert, export and verify, and make the variants; what is built already is left as it is."""
    from models.build import main

    if framework not in FRAMEWORKS:
        raise typer.BadParameter(f"'{framework}'; expected {' or '.join(FRAMEWORKS)}", param_hint="--framework")
    try:
        chosen(variants)
    except UnknownVariantError as exc:
        raise typer.BadParameter(str(exc), param_hint="--variants") from exc
    arguments = ["--root", str(artifacts / "models"), "--framework", framework, "--seed", str(seed)]
    arguments += ["--variants", variants, *(["--force"] if force else []), *(["--retry"] if retry else [])]
    for name in _known(names):
        arguments += ["--model", name]
    raise typer.Exit(main(arguments))


@app.command("verify")
def verify_models(names: Names = None, artifacts: Artifacts = Path("artifacts")) -> None:
    """Check every file's sha256, and run every available variant on the whole test set again, against the original.

    Without names: all that are built.
    """
    from models import workshop
    from models.build import quiet_frameworks

    quiet_frameworks()
    from gateway.core.contract import ContractError, ModelContract
    from models.build import reference_outputs
    from models.manifest import ManifestError, check_files
    from models.verify import ParityError, compare
    from models.zoo.dataset import named

    table = Table("Model", "Variant", "Verified")
    failures = []
    asked = _known(names)
    folders = {name: artifacts / "models" / name for name in asked}
    missing = [] if names else [name for name, folder in folders.items() if not folder.exists()]
    if missing == asked:
        failures.append(f"no model is built in {artifacts / 'models'}; {_how_to_build(*DEMO)} builds the small ones")
    for name, folder in folders.items():
        if name in missing:
            table.add_row(name, "", f"not built; {_how_to_build(name)} builds it")
            continue
        try:
            built = check_files(folder)
            contract = ModelContract.load(folder / "contract.json")
            definition = MODELS[name]
            inputs = named(definition.module("data").load(built.seed).test_inputs, definition.inputs)
            ours, theirs = reference_outputs(definition, folder, inputs)
            parity = compare(definition, ours, ours if theirs is None else theirs, contract.tolerance)
        except (ManifestError, ContractError, ParityError) as exc:
            failures.append(str(exc))
            table.add_row(name, "", "[red]failed[/red]")
            continue
        same = "" if parity.argmax_agreement is None else f", same class on {parity.argmax_agreement:.0%}"
        said = f"{len(built.files)} files unchanged, max |a-b|/(1+|b|) {parity.max_scaled:.1e}{same}"
        table.add_row(name, " and ".join(contract.variants or ()), said)

        def ended(event: dict[str, Any], name: str = name) -> None:
            if event["status"] == "failed":
                failures.append(f"{name}, {event['step']}: {event['detail']}")
            if event["status"] != "start":
                table.add_row(name, event["step"], escape(event["detail"]))

        workshop.verify([name], list(VARIANTS.values()), artifacts / "models", ended)
    Console().print(table)
    for failure in failures:
        typer.echo(failure, err=True)
    if failures:
        raise typer.Exit(1)


@app.command("list")
def list_models(
    artifacts: Artifacts = Path("artifacts"),
    as_json: Annotated[bool, typer.Option("--json", help="Every variant of every model, as JSON.")] = False,
) -> None:
    """Show the models and their variants: what is built of each, or why it is not available."""
    from models import record
    from models.manifest import ManifestError, load

    folders = [artifacts / "models" / name for name in MODELS]
    if as_json:
        shown = [known.listed() for folder in folders for known in record.load_all(folder)]
        typer.echo(json.dumps({"variants": shown}, indent=2))
        return
    table = Table("Model", "Input and output", "Built", "Metric", "Parity", "Size", show_lines=True)
    built = []
    for folder in folders:
        definition = MODELS[folder.name]
        specs = (*definition.inputs, *definition.outputs)
        tensors = escape("\n".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in specs))
        try:
            made = load(folder)
        except ManifestError:
            table.add_row(folder.name, tensors, f"no: twinserve models build {folder.name}", "", "", "")
            continue
        built.append(folder)
        table.add_row(folder.name, tensors, *_built(made, folder))
    Console().print(table)
    if built:
        variants = Table("Model", "Variant", "Datatype", "Served by", "Size", "Against the original, or why not")
        for folder in built:
            for known in record.load_all(folder):
                variants.add_row(*_variant(known))
        Console().print(variants)


def _variant(known: Record) -> tuple[str, ...]:
    served = (known.model, known.variant, known.datatype, known.served_by)
    if not known.available:
        return *served, "", escape(f"not available: {known.reason}")
    return *served, f"{(known.bytes or 0) / 1e3:.0f} kB", known.proof()


def _built(manifest: Manifest, folder: Path) -> tuple[str, ...]:
    from gateway.core.contract import ContractError, ModelContract

    size = sum((folder / file).stat().st_size for file in manifest.files if (folder / file).exists())
    metric = ", ".join(f"{name}\n{value:.4f}" for name, value in manifest.metric.items())
    try:
        parity = ModelContract.load(folder / "contract.json").parity
        apart = f"{parity.max_scaled:.1e}" if parity else "not measured"
    except ContractError:
        apart = "no contract"
    built = f"{manifest.created[:16]}\nby {manifest.framework}"
    return built, metric, apart, f"{size / 1e3:.0f} kB"


def _how_to_build(*names: str) -> str:
    return f"`twinserve models build {' '.join(names)}`"


def _known(names: list[str] | None) -> list[str]:
    for name in names or ():
        if name not in MODELS:
            raise typer.BadParameter(f"unknown model '{name}'; there are {', '.join(MODELS)}", param_hint="NAMES")
    return names or list(MODELS)
