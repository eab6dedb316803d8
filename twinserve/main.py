"""The `twinserve` command: its verbs come from the four packages; only `demo` and `predict` are its own.

Each verb imports what it needs when it runs: `twinserve --help` and the gateway load no framework.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

import loadtests.cli
import models.cli
import serving.cli
import twinserve.routes
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
app.add_typer(loadtests.cli.app, name="bench", help="Load tests: campaigns, their reports, comparisons.")
app.add_typer(twinserve.routes.app, name="routes", help="Show where a running gateway sends requests, and why.")
serving.cli.register(app)

Artifacts = Annotated[Path, typer.Option(envvar="TWINSERVE_ARTIFACTS", help="Where models, logs and reports are kept.")]


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
    framework: Annotated[Literal["pytorch", "keras"], typer.Option(help="Which framework trains.")] = "pytorch",
    seconds: Annotated[float, typer.Option(min=1.0, help="How long each load cell measures, in seconds.")] = 4.0,
    users: Annotated[int, typer.Option(min=1, max=64, help="How many users ask at once in a load cell.")] = 4,
) -> None:
    """The main job: train, convert, export, verify, serve, predict, load, report."""
    from twinserve.demo import DemoFailedError, DemoOptions, run

    console = Console()
    try:
        run(DemoOptions(artifacts, framework, seconds, users), console)
    except DemoFailedError as exc:
        console.print(f"[red]The demo stopped:[/red] {escape(str(exc))}", highlight=False)
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
    stack: Annotated[
        str | None, typer.Option(help="torchserve, tfserving or oip; default: the gateway's policy.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="One endpoint by its name in gateway.yaml.")] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="One variant, such as torchscript, int8-dynamic or xla; `twinserve models list` shows them."),
    ] = None,
    version: Annotated[int | None, typer.Option(help="The model's version; default: the newest.")] = None,
    label: Annotated[str | None, typer.Option(help="A version label of gateway.yaml, instead of a version.")] = None,
    protocol: Annotated[Literal["rest", "grpc"], typer.Option(help="How to ask.")] = "rest",
    address: Annotated[
        str | None,
        typer.Option(
            help="The gateway: a URL for rest, HOST:PORT for grpc. Default: the one that `twinserve up` runs."
        ),
    ] = None,
    artifacts: Artifacts = Path("artifacts"),
) -> None:
    """Ask a running gateway for a prediction, and say what answered."""
    from twinserve.client import PredictError, Question, predict_grpc, predict_rest

    try:
        values = _inputs(inputs) if inputs else _golden(artifacts, model, rows)
        question = Question(
            model, values, stack=stack, endpoint=endpoint, variant=variant, version=version, label=label
        )
        if protocol == "grpc":
            answer = predict_grpc(address or _running_gateway(artifacts, protocol), question)
        else:
            answer = predict_rest(address or _running_gateway(artifacts, protocol), question)
    except PredictError as exc:
        typer.echo(f"twinserve predict: {exc}", err=True)
        raise typer.Exit(1) from exc
    typer.echo(json.dumps({name: array.tolist() for name, array in answer.outputs.items()}))
    typer.echo(f"served by: {answer.served_by}\ntiming:    {answer.timing}", err=True)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def gateway(context: typer.Context) -> None:
    """Run the gateway alone, by a file or in front of servers that already run; `gateway check FILE` validates one."""
    raise typer.Exit(run_gateway(context.args, "twinserve gateway"))


def _inputs(text: str) -> dict[str, Any]:
    if text.startswith("@"):
        text = _read(text[1:])
    try:
        values = json.loads(text)
    except ValueError as exc:
        raise typer.BadParameter(f"not JSON: {exc}", param_hint="--inputs") from exc
    if not isinstance(values, dict):
        raise typer.BadParameter("expected an object {name: nested list}", param_hint="--inputs")
    return values


def _read(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise typer.BadParameter(f"cannot read '{name}': {exc}", param_hint="--inputs") from exc


def _running_gateway(artifacts: Path, protocol: str) -> str:
    """Where the gateway of `twinserve up` listens; where none is recorded, where it would."""
    from serving.settings import LaunchSettings, Ports
    from serving.state import RunState

    settings = LaunchSettings(artifacts=artifacts)
    state = RunState.load(settings.run_dir)
    if state is not None and state.runs():
        return state.gateway_grpc if protocol == "grpc" else state.gateway_rest
    ports = Ports()
    return (
        f"{settings.host}:{ports.gateway_grpc_port}"
        if protocol == "grpc"
        else f"http://{settings.host}:{ports.gateway_rest_port}"
    )


def _golden(artifacts: Path, model: str, rows: int) -> dict[str, Any]:
    from loadtests.errors import LoadTestError
    from loadtests.golden import load_golden

    try:
        return {name: array[:rows] for name, array in load_golden(artifacts, model).inputs.items()}
    except LoadTestError as exc:
        raise typer.BadParameter(f"no golden rows to send: {exc}; or give --inputs", param_hint="MODEL") from exc


def main() -> None:
    """The console script's entry. A wrong TWINSERVE_... variable is told like a wrong option."""
    try:
        app()
    except ValidationError as exc:
        for error in exc.errors():
            name = "_".join(map(str, error["loc"])).upper()
            typer.echo(f"twinserve: TWINSERVE_{name} is '{error['input']}': {error['msg']}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
