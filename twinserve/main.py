"""The `twinserve` command: its verbs come from the four packages; only `demo` and `predict` are its own.

Each verb imports what it needs when it runs: `twinserve --help` and the gateway load no framework.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import models.cli
import serving.cli
from gateway import __version__
from gateway.__main__ import main as run_gateway

app = typer.Typer(
    name="twinserve",
    help="The same trained model on TorchServe and on TensorFlow Serving, one gateway in front, numbers one can trust.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    add_completion=False,
)
app.add_typer(models.cli.app, name="models", help="Train, export, verify and list the models.")
serving.cli.register(app)

Artifacts = Annotated[Path, typer.Option(help="Where models, logs and reports are kept.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"twinserve {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    artifacts: Artifacts = Path("artifacts"),
    framework: Annotated[str, typer.Option(help="Which framework trains: pytorch or keras.")] = "pytorch",
    seconds: Annotated[float, typer.Option(min=1.0, help="How long each load cell measures, in seconds.")] = 4.0,
    users: Annotated[int, typer.Option(min=1, max=64, help="How many users ask at once in a load cell.")] = 4,
) -> None:
    """The main job: train, convert, export, verify, serve, predict, load, report."""
    from twinserve.demo import DemoFailedError, DemoOptions, run

    console = Console()
    try:
        run(DemoOptions(artifacts, framework, seconds, users), console)
    except DemoFailedError as exc:
        console.print(f"[red]The demo stopped:[/red] {exc}", markup=True, highlight=False)
        raise typer.Exit(1) from exc
    except KeyboardInterrupt as exc:
        console.print("Interrupted; every process was ended.")
        raise typer.Exit(130) from exc


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="The model's name, such as digits.")],
    inputs: Annotated[
        str,
        typer.Option(
            "--inputs",
            "-i",
            help="JSON: {name: nested list}; @FILE reads a file, @- standard input. Default: golden rows.",
        ),
    ] = "",
    rows: Annotated[int, typer.Option(min=1, help="How many golden rows to send where no inputs are given.")] = 1,
    stack: Annotated[str | None, typer.Option(help="torchserve or tfserving; default: the gateway's policy.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="One endpoint by its name in gateway.yaml.")] = None,
    version: Annotated[int | None, typer.Option(help="The model's version; default: the newest.")] = None,
    protocol: Annotated[str, typer.Option(help="rest or grpc.")] = "rest",
    address: Annotated[str | None, typer.Option(help="The gateway: a URL for rest, HOST:PORT for grpc.")] = None,
    artifacts: Artifacts = Path("artifacts"),
) -> None:
    """Ask a running gateway for a prediction, and say what answered."""
    from twinserve.client import PredictError, Question, predict_grpc, predict_rest

    try:
        values = _inputs(inputs) if inputs else _golden(artifacts, model, rows)
        question = Question(model, values, stack, endpoint, version)
        if protocol == "grpc":
            answer = predict_grpc(address or "127.0.0.1:8001", question)
        elif protocol == "rest":
            answer = predict_rest(address or "http://127.0.0.1:8000", question)
        else:
            raise typer.BadParameter(f"'{protocol}' is neither rest nor grpc", param_hint="--protocol")
    except PredictError as exc:
        typer.echo(f"twinserve predict: {exc}", err=True)
        raise typer.Exit(1) from exc
    typer.echo(json.dumps({name: array.tolist() for name, array in answer.outputs.items()}))
    typer.echo(f"served by: {answer.served_by}\ntiming:    {answer.timing}", err=True)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def gateway(context: typer.Context) -> None:
    """Run the gateway alone: `twinserve gateway --config gateway.yaml`."""
    raise typer.Exit(run_gateway(context.args))


def _inputs(text: str) -> dict[str, Any]:
    if text.startswith("@"):
        text = sys.stdin.read() if text == "@-" else Path(text[1:]).read_text()
    try:
        values = json.loads(text)
    except ValueError as exc:
        raise typer.BadParameter(f"not JSON: {exc}", param_hint="--inputs") from exc
    if not isinstance(values, dict):
        raise typer.BadParameter("expected an object {name: nested list}", param_hint="--inputs")
    return values


def _golden(artifacts: Path, model: str, rows: int) -> dict[str, Any]:
    from loadtests.errors import LoadTestError
    from loadtests.golden import load_golden

    try:
        return {name: array[:rows] for name, array in load_golden(artifacts, model).inputs.items()}
    except LoadTestError as exc:
        raise typer.BadParameter(f"no golden rows to send: {exc}; or give --inputs", param_hint="MODEL") from exc


def main() -> None:
    """The console script's entry."""
    app()


if __name__ == "__main__":
    main()
