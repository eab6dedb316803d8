"""The `twinserve bench` commands: campaigns, their reports, and questions to everything ever measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from loadtests.campaign.options import Options
    from loadtests.store.runs import Rows

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
    typer.Option(
        "--format", help="html (the default), markdown, json, csv or svg (a picture); may be given several times."
    ),
]
AllowUnlike = Annotated[
    bool, typer.Option("--allow-unlike", help="Compare in spite of unlike ledgers; the title says so.")
]
RUNS = Path("runs")
_PIPED_WIDTH = 200
FAILED = 1
# Of `compare`, where 1 says that something is slower.
REFUSED = 2
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
    from loadtests.campaign.reading import text_of

    options = _options(artifacts, runs, format, plan_only=plan)
    with _failing("run"):
        if campaign is None:
            outcome = session.resume(resume, options, _console())
        else:
            outcome = session.run(text_of(campaign), campaign.stem, str(campaign), options, _console())
        raise typer.Exit(outcome.code)


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="A run: its folder, or its name under --runs.")],
    runs: RunsOption = RUNS,
    allow_unlike: AllowUnlike = False,
    format: FormatOption = None,  # noqa: A002 - the option's name
) -> None:
    """Rebuild the report of a run from its raw data alone."""
    from loadtests.campaign.folder import RunFolder
    from loadtests.campaign_report import write

    with _failing("report"):
        folder = RunFolder.existing(runs, run)
        folder.mark_dead()
        for path in write(folder.path, tuple(format or ("html",)), allow_unlike=allow_unlike):
            typer.echo(path)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A run: what the other one is compared with.")],
    b: Annotated[str, typer.Argument(help="A run: did anything become slower in it?")],
    runs: RunsOption = RUNS,
    allow_unlike: AllowUnlike = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two campaigns, with a verdict for every target that both have.

    Exit codes: 0 nothing is slower, 1 something is, 2 the ledgers are unlike, 3 nothing could be decided.
    """
    from loadtests.analysis.regression import compare_runs
    from loadtests.campaign.folder import RunFolder
    from loadtests.campaign.tables import regression_table

    with _failing("compare", REFUSED):
        found = compare_runs(
            RunFolder.existing(runs, a).path, RunFolder.existing(runs, b).path, allow_unlike=allow_unlike
        )
        if as_json:
            typer.echo(json.dumps(found.to_json(), indent=2))
        else:
            for part in regression_table(found):
                _console().print(part, highlight=False)
        raise typer.Exit(found.exit_code)


@app.command()
def history(
    model: Annotated[str, typer.Argument(help="The model, such as digits.")],
    runs: RunsOption = RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a model's figures over all runs ever made, oldest first."""
    from loadtests.analysis.history import history as history_of

    with _failing("history"):
        _print_rows(history_of(runs, model), as_json=as_json)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT; the views are requests, cells and runs.")],
    runs: RunsOption = RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask your own SQL of every request of every run (DuckDB); nothing can be changed."""
    from loadtests.analysis.sql import sql as answer

    with _failing("sql"):
        _print_rows(answer(runs, query), as_json=as_json)


@app.command()
def worker(
    master: Annotated[str, typer.Option("--master", metavar="HOST", help="The host of the master, or HOST:PORT.")],
    processes: Annotated[int, typer.Option(min=1, help="How many generators run here.")] = 1,
) -> None:
    """Generate load for a master on another host: `locust -f loadtests/locustfile.py --master` there."""
    from loadtests.engine.distributed import work

    with _failing("worker"):
        raise typer.Exit(work(master, processes=processes))


def _print_rows(rows: Rows, *, as_json: bool) -> None:
    from loadtests.campaign.tables import rows_table

    for text in rows.left_out:
        typer.echo(f"Warning: {text}", err=True)
    if as_json:
        # DuckDB's decimals are numbers, everything else that JSON does not know is text.
        found = [dict(zip(rows.columns, row, strict=True)) for row in rows.rows]
        typer.echo(json.dumps(found, default=lambda value: float(value) if isinstance(value, Decimal) else str(value)))
    else:
        _console().print(rows_table(rows.columns, rows.rows), highlight=False)


def _options(artifacts: Path | None, runs: Path, formats: list[str] | None, *, plan_only: bool = False) -> Options:
    from loadtests.campaign.options import Options
    from serving.settings import LaunchSettings

    settings = LaunchSettings() if artifacts is None else LaunchSettings(artifacts=artifacts)
    # The command as it would be typed again.
    command = ("twinserve", *sys.argv[1:])
    return Options(
        settings.artifacts.resolve(), runs, command, formats=tuple(formats or ("html",)), plan_only=plan_only
    )


def _console() -> Any:  # noqa: ANN401 - rich is imported when a command runs
    from rich.console import Console

    # Into a file or a pipe a table goes as wide as it needs.
    return Console() if sys.stdout.isatty() else Console(width=_PIPED_WIDTH)


@contextmanager
def _failing(command: str, code: int = FAILED) -> Iterator[None]:
    """Tells an error in words, with an exit code."""
    from loadtests.errors import LoadTestError

    try:
        yield
    except LoadTestError as exc:
        _stop(f"twinserve bench {command}: {exc}", code, typer.echo, exc)
    except BrokenPipeError:
        raise  # whoever reads the output has had enough
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        words = f"{where}{exc.strerror or exc}; see that the disk has room and the folder may be read and written"
        _stop(f"twinserve bench {command}: {words}", code, typer.echo, exc)
    except KeyboardInterrupt as exc:
        # Whoever was under way says how far it was; else nothing was.
        early = " before anything was measured; every process was ended" if command in ("quick", "run") else ""
        _stop(str(exc) or f"Interrupted{early}.", INTERRUPTED, typer.echo, exc)


def _stop(text: str, code: int, echo: Callable[..., None], cause: BaseException) -> NoReturn:
    echo(text, err=True)
    raise typer.Exit(code) from cause
