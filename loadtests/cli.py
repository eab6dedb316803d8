"""The `twinserve bench` commands: campaigns, their reports, and questions to everything ever measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from loadtests.campaign.session import Options

app = typer.Typer(
    name="bench",
    help="Load tests whose figures one can trust: campaigns, reports, comparisons.",
    no_args_is_help=True,
)

ArtifactsOption = Annotated[
    Path | None,
    typer.Option("--artifacts", help="Where the models are. Default: TWINSERVE_ARTIFACTS, else ./artifacts."),
]
RunsOption = Annotated[
    Path, typer.Option("--runs", envvar="TWINSERVE_RUNS", help="The folder of all runs.", show_default=True)
]
FormatOption = Annotated[
    list[str] | None,
    typer.Option("--format", help="html (the default), markdown, json, csv or picture; may be given several times."),
]
AllowUnlike = Annotated[
    bool, typer.Option("--allow-unlike", help="Compare in spite of unlike ledgers; the title says so.")
]
RUNS = Path("runs")
FAILED = 1
INTERRUPTED = 130


@app.command()
def quick(
    model: Annotated[str, typer.Option(help="The built model that is asked.")] = "simplenn",
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How many interleaved rounds.")] = 6,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second in every cell.")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="Decides the order and every arrival.")] = 7,
    artifacts: ArtifactsOption = None,
    runs: RunsOption = RUNS,
    format: FormatOption = None,  # noqa: A002 - the option's name
) -> None:
    """A first look in minutes: both stacks, REST and gRPC, direct and via the gateway; figures, no verdict."""
    from loadtests.campaign.quick import quick_campaign
    from loadtests.campaign.session import run as run_campaign

    text = quick_campaign(model, rounds=rounds, rate=rate, seed=seed)
    with _failing("quick"):
        outcome = run_campaign(text, "quick", "the quick campaign", _options(artifacts, runs, format), _console())
        raise typer.Exit(outcome.code)


@app.command()
def run(
    campaign: Annotated[Path | None, typer.Argument(help="The campaign file, such as campaign.yaml.")] = None,
    resume: Annotated[str, typer.Option("--resume", metavar="ID", help="Go on with an interrupted run.")] = "",
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be measured and how long it takes; no more.")
    ] = False,
    artifacts: ArtifactsOption = None,
    runs: RunsOption = RUNS,
    format: FormatOption = None,  # noqa: A002 - the option's name
) -> None:
    """Run a campaign: it says first how long it takes. Ctrl-C once finishes the round and reports, twice stops.

    Exit codes: 0 all valid, 2 a latency objective was missed, 3 a cell is INVALID, 1 it could not be run.
    """
    if (campaign is None) == (not resume):
        raise typer.BadParameter("give a campaign file, or --resume ID", param_hint="CAMPAIGN")
    from loadtests.campaign import session

    options = _options(artifacts, runs, format, plan_only=plan)
    with _failing("run"):
        if campaign is None:
            outcome = session.resume(resume, options, _console())
        else:
            outcome = session.run(_text(campaign), campaign.stem, str(campaign), options, _console())
        raise typer.Exit(outcome.code)


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="A run: its folder, or its name under --runs.")],
    runs: RunsOption = RUNS,
    format: FormatOption = None,  # noqa: A002 - the option's name
) -> None:
    """Rebuild the report of a run from its raw data alone."""
    from loadtests.campaign.folder import RunFolder
    from loadtests.campaign_report import write

    with _failing("report"):
        for path in write(RunFolder.existing(runs, run).path, tuple(format or ("html",))):
            typer.echo(path)


def _options(artifacts: Path | None, runs: Path, formats: list[str] | None, *, plan_only: bool = False) -> Options:
    from loadtests.campaign.session import Options
    from serving.settings import LaunchSettings

    settings = LaunchSettings() if artifacts is None else LaunchSettings(artifacts=artifacts)
    # The command as it would be typed again.
    command = ("twinserve", *sys.argv[1:])
    return Options(
        settings.artifacts.resolve(), runs, command, formats=tuple(formats or ("html",)), plan_only=plan_only
    )


def _console() -> Any:  # noqa: ANN401 - rich is imported when a command runs
    from rich.console import Console

    return Console()


def _text(path: Path) -> str:
    from loadtests.errors import LoadTestError

    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise LoadTestError(f"cannot read the campaign '{path}': {exc}") from exc


@contextmanager
def _failing(command: str) -> Iterator[None]:
    """Tells an error in words, with exit code 1."""
    from loadtests.errors import LoadTestError

    try:
        yield
    except LoadTestError as exc:
        _stop(f"twinserve bench {command}: {exc}", FAILED, typer.echo, exc)
    except KeyboardInterrupt as exc:
        _stop("Interrupted before anything was measured; every process was ended.", INTERRUPTED, typer.echo, exc)


def _stop(text: str, code: int, echo: Callable[..., None], cause: BaseException) -> NoReturn:
    echo(text, err=True)
    raise typer.Exit(code) from cause
