"""The `twinserve bench` commands: what they say where something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtests.analysis.regression import Change, Regression
from loadtests.analysis.series import METRICS
from loadtests.analysis.statistics import Interval, Verdict
from loadtests.campaign.tables import figure, regression_table, rows_table
from loadtests.cli import app
from tests.unit.loadtests.builders import write_toy
from tests.unit.loadtests.campaign.worlds import campaign_text

CLI = CliRunner()


@pytest.mark.parametrize("command", ["quick", "run", "report", "compare", "history", "sql", "worker"])
def test_every_command_explains_itself(command: str) -> None:
    """`--help` works without loading anything."""
    result = CLI.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_a_wrong_campaign_is_told_by_its_lines(tmp_path: Path) -> None:
    """On the error output, with exit code 1; nothing is left."""
    (tmp_path / "c.yaml").write_text("models: [toy]\nscenarios:\n  - {name: s, kind: sever}\ntargets: [all]\n")
    result = CLI.invoke(
        app, ["run", str(tmp_path / "c.yaml"), "--artifacts", str(tmp_path), "--runs", str(tmp_path / "r")]
    )
    assert result.exit_code == 1
    assert "line 3: scenarios[0].kind: 'sever' is not allowed (did you mean 'server'?)" in result.output
    assert not (tmp_path / "r").exists()


def test_a_plan_is_told_without_measuring_anything(tmp_path: Path) -> None:
    """Even of servers that do not run."""
    (tmp_path / "c.yaml").write_text(campaign_text("127.0.0.1:1"))
    where = ["--artifacts", str(write_toy(tmp_path)), "--runs", str(tmp_path / "runs")]
    result = CLI.invoke(app, ["run", str(tmp_path / "c.yaml"), "--plan", *where])
    assert result.exit_code == 0, result.output
    assert "Campaign c: 1 cells and 1 A/A control, 2 interleaved rounds, seed 7: about " in result.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run"], "give a campaign file, or --resume ID"),
        (["run", "none.yaml"], "cannot read the campaign 'none.yaml'"),
        (["run", "--resume", "none"], "'none' is no run; there is no run in runs"),
        (["report", "none"], "'none' is no run"),
        (["compare", "none", "none"], "'none' is no run"),
        (["history", "toy"], "model 'toy' was never measured"),
        (["sql", "DROP TABLE cells"], "give one SELECT"),
        (["worker", "--master", "a b"], "expected HOST or HOST:PORT"),
    ],
)
def test_what_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    """In words, never by a traceback."""
    monkeypatch.chdir(tmp_path)
    result = CLI.invoke(app, words)
    assert result.exit_code in (1, 2)
    assert told in result.output


def test_an_answer_of_sql_is_a_table_or_json(tmp_path: Path) -> None:
    """A dash for nothing, three digits of a number."""
    where = ["--runs", str(tmp_path)]
    assert CLI.invoke(app, ["sql", "SELECT 1.23456 AS a, NULL AS b", "--json", *where]).output.strip() == (
        '[{"a": 1.23456, "b": null}]'
    )
    assert "1.23456" in CLI.invoke(app, ["sql", "SELECT 1.23456 AS a", *where]).output
    assert [figure(value) for value in (None, 0.123456, 12345.6, "<b>[red]")] == ["-", "0.123", "12,346", "<b>\\[red]"]
    assert rows_table(["a"], [[1], [2]]).row_count == 2


def test_a_damaged_run_is_left_out_of_answers_with_a_warning(tmp_path: Path) -> None:
    """The answer of all others stands; the warning is no part of it."""
    (tmp_path / "R1").mkdir()
    (tmp_path / "R1" / "state.json").write_text("{")
    result = CLI.invoke(app, ["sql", "SELECT count(*) AS n FROM runs", "--json", "--runs", str(tmp_path)])
    assert (result.exit_code, result.stdout.strip()) == (0, '[{"n": 0}]')
    assert "Warning: run R1 is left out: " in result.stderr


def test_an_error_of_the_system_is_told_in_words(tmp_path: Path) -> None:
    """Such as a name that no file can have; what else a disk does comes the same way."""
    result = CLI.invoke(app, ["report", "x" * 300, "--runs", str(tmp_path)])
    assert result.exit_code == 1
    assert "File name too long; see that the disk has room" in result.output


def test_a_comparison_shows_its_verdicts_and_what_was_left_out() -> None:
    """Each change with its interval; unlike ledgers, and what only one run has."""
    verdict = Verdict("inconclusive", Interval(1.02, 0.97, 1.08), 0.2, 0.2, 0.05, 6, 40)
    changes = (
        Change("toy", "s", "a", METRICS["p99"], 2.0, 2.04, verdict, ""),
        Change("toy", "s", "b", METRICS["p99"], None, None, None, "the ledgers differ"),
    )
    parts = list(regression_table(Regression("B against A", changes, ("x",), (), ("toy/a: threads: 1 against 2",))))
    assert parts[0] == "[bold]B against A[/bold]"
    assert parts[2:] == [
        "Unlike: toy/a: threads: 1 against 2",
        "Unlike set-ups are not compared; --allow-unlike does, and says so in the title.",
        "Only in A: x",
    ]
