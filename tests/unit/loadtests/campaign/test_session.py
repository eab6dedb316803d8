"""A campaign from its text to its report, with an engine that takes no time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from loadtests.campaign import session
from loadtests.campaign.folder import RunFolder
from loadtests.campaign.lock import sole_campaign
from loadtests.campaign.manifest import manifest_of
from loadtests.campaign.options import Options
from loadtests.campaign.outcome import INVALID, SLO_MISSED, VALID, Outcome
from loadtests.campaign.plan import plan_of
from loadtests.campaign.reading import CampaignError, campaign_of
from loadtests.campaign_report.data import read_campaign
from loadtests.cell_spec import CellSpec
from loadtests.disk import telling_full
from loadtests.errors import LoadTestError
from tests.unit.loadtests.builders import toy_model, write_toy
from tests.unit.loadtests.campaign.worlds import FakeEngine, campaign_text, target, toy_server

# The record of a cell in the method that the campaigns follow, and what this project adds to it.
_SCHEMA = """
    schema campaign round order_in_round stack topology protocol config scenario rate_offered seed t_start T scheduled
    outcomes achieved goodput slo_ms attainment L S D parts n_min_ok stable little_err client_cpu_max dropped cgroup
    energy_j parity valid reasons hdr_path sha256 manifest_id
    model variant target path upstream_protocol server stand_in
"""


@pytest.fixture
def address() -> Iterator[str]:
    """A server of the toy model."""
    with toy_server() as listening:
        yield listening


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """A folder of its own for everything, the lock too."""
    artifacts = write_toy(tmp_path / "artifacts")
    return Options(artifacts, tmp_path / "runs", ("twinserve", "bench", "run", "c.yaml"), tmp_path / "lock")


def run(text: str, options: Options, engine: FakeEngine | None = None, console: Console | None = None) -> Outcome:
    """Runs a campaign."""
    return session.run(text, "c", "c.yaml", options, console or Console(quiet=True), (engine or FakeEngine()).seams())


def lines_of(outcome: Outcome) -> list[dict[str, Any]]:
    """The lines of its cells.jsonl."""
    assert outcome.run is not None
    return RunFolder(outcome.run).cells()


def document(run: Path | None, name: str) -> dict[str, Any]:
    """A JSON file of a run."""
    assert run is not None
    return dict(json.loads((run / name).read_text()))


def test_a_whole_campaign_leaves_everything_that_its_figures_are_made_of(address: str, options: Options) -> None:
    """Lines, sealed rounds, health, resources, manifest, ledger, parity and a state that says complete."""
    outcome = run(campaign_text(address), options)
    assert outcome.run is not None
    lines = lines_of(outcome)
    assert [(line["round"], line["order_in_round"]) for line in lines] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {line["target"] for line in lines} == {"a", "a (A/A)"}
    assert all(line["valid"] and line["campaign"] == outcome.run.name for line in lines), lines[0]["reasons"]
    assert outcome.code == VALID
    state = RunFolder(outcome.run).state()
    assert (state.status, state.sealed, len(state.done)) == ("complete", (0, 1), 4)
    assert pq.read_table(outcome.run / "raw" / "1.parquet").num_rows == 1000
    manifest = document(outcome.run, "manifest.json")
    assert manifest["command"] == "twinserve bench run c.yaml"
    assert manifest["reproduce"].endswith(f"; twinserve bench run {outcome.run / 'campaign.yaml'}")
    assert (manifest["tier"], manifest["seed"], manifest["rounds"]) == ("quick", 7, 2)
    assert list(document(outcome.run, "ledger.json")["targets"]) == ["toy/a"]
    parity = document(outcome.run, "parity.json")["targets"]["toy/a"]
    assert (parity["checked"], parity["bad"]) == (64, 0)
    assert json.loads((outcome.run / "campaign.yaml").read_text())["seed"] == 7


def test_every_line_has_the_fields_of_the_schema_and_is_tied_to_its_files(address: str, options: Options) -> None:
    """The generator's account by its SHA-256, the manifest by its own, the price of the target in the cost."""
    priced = [{"name": "a", "protocol": "predict", "address": address, "config": "tuned", "price_per_hour": 0.36}]
    outcome = run(campaign_text(address, targets=priced, rounds=1, utilisation=0.5), options)
    assert outcome.run is not None
    manifest = document(outcome.run, "manifest.json")
    for line in lines_of(outcome):
        assert line.keys() >= set(re.findall(r"\w+", _SCHEMA))
        account = (outcome.run / line["hdr_path"]).read_bytes()
        assert line["sha256"] == hashlib.sha256(account).hexdigest()
        assert (line["campaign"], line["manifest_id"]) == (outcome.run.name, manifest["id"])
        assert (line["config"], line["cost_per_1m"]) == ("tuned", pytest.approx(2.0, rel=0.01))
        assert line["cgroup"]["cpu_s"] is not None


def test_lines_are_made_again_from_the_other_files_of_the_run(address: str, options: Options) -> None:
    """Whoever lost cells.jsonl has it back with the report."""
    search = [{"name": "s", "kind": "server", "duration_s": 5, "warm_up_s": 3}]
    engine = FakeEngine(latency=lambda spec: 0.001 if spec.load.steps[0].rate <= 80 else 0.1)
    outcome = run(campaign_text(address, slo_ms=10, scenarios=search, price_per_hour=1, rounds=1), options, engine)
    assert outcome.run is not None
    lines = {line["cell"]: line for line in lines_of(outcome)}
    (outcome.run / "cells.jsonl").unlink()
    read_campaign(outcome.run)
    assert {line["cell"]: line for line in lines_of(outcome)} == lines


def test_a_disk_that_fills_up_stops_the_run_and_loses_nothing(address: str, options: Options) -> None:
    """It is said in words, what was measured is kept, and the run goes on where there is room again."""

    def fill(spec: CellSpec) -> None:
        if spec.round == 1:
            with telling_full(options.runs):
                raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(LoadTestError, match=r"the disk is full: .*Nothing that was recorded is lost(.|\n)*--resume"):
        run(campaign_text(address), options, FakeEngine(before=fill))
    folder = RunFolder(next(options.runs.iterdir()))
    state, kept = folder.state(), folder.cells()
    assert (state.status, state.sealed, len(kept)) == ("failed", (0,), 2)
    assert pq.read_table(folder.path / "raw" / "0.parquet").num_rows == 1000
    outcome = session.resume(folder.id, options, Console(quiet=True), FakeEngine().seams())
    assert lines_of(outcome)[:2] == kept
    assert len(lines_of(outcome)) == 4


def test_a_run_that_is_part_of_another_command_is_made_again_by_that(tmp_path: Path) -> None:
    """A name with a space in it is still one word of the command."""
    campaign = campaign_of(campaign_text("x:1"), "c")
    words, plan = ("twinserve", "demo", "--seconds", "2"), plan_of(campaign, {"toy": [target()]})
    hosted = manifest_of(campaign, plan, tmp_path / "runs" / "1", words, {}, launched=True, hosted=True)
    assert hosted["reproduce"].endswith("; twinserve demo --seconds 2")
    own = manifest_of(campaign, plan, tmp_path / "my runs" / "1", words, {}, launched=True)
    assert (own["run"], own["reproduce"].count(f" '{tmp_path}/my runs/1/campaign.yaml'")) == ("1", 1)


def test_the_servers_use_of_the_machine_is_in_every_line(address: str, options: Options) -> None:
    """The toy server is a thread of this process: its CPU time and memory are those of the process."""
    line = lines_of(run(campaign_text(address, rounds=1), options))[0]
    (server,) = line["resources"]["servers"]
    assert (server["kind"], server["status"]) == ("process", "measured")
    assert server["rss_peak"] > 10_000_000
    assert server["cpu_s_per_1k"] is not None
    assert line["resources"]["gpu"]["status"] in ("measured", "not measured")


def test_nothing_is_left_where_a_server_is_down(options: Options) -> None:
    """It stops before anything is measured, and says which and what to do."""
    engine = FakeEngine()
    with pytest.raises(LoadTestError, match=r"nothing answers at 127\.0\.0\.1:1 .*start the server"):
        run(campaign_text("127.0.0.1:1"), options, engine)
    assert (engine.measured, options.runs.exists()) == ([], False)


def test_nothing_is_left_where_a_server_has_not_the_model(options: Options) -> None:
    """What it answers is told."""
    with toy_server(status=404) as address, pytest.raises(LoadTestError, match="has no model 'toy': HTTP 404"):
        run(campaign_text(address), options)
    assert not options.runs.exists()


def test_a_model_that_is_not_built_stops_before_anything_is_asked(address: str, options: Options) -> None:
    """With the line and the models that there are."""
    with pytest.raises(CampaignError, match="no built model 'toyy' .did you mean 'toy'.*built are: toy"):
        run(campaign_text(address, models=["toyy"]), options)


def test_wrong_answers_make_every_cell_of_the_target_invalid(options: Options) -> None:
    """It is told at once, measured all the same, and never compared."""
    with toy_server(lambda x: toy_model(x) + 1) as address:
        console = Console(record=True, quiet=False, file=open(os.devnull, "w"), width=200)  # noqa: SIM115
        outcome = run(campaign_text(address, rounds=1), options, console=console)
        console.file.close()
    assert outcome.code == INVALID
    assert "64 of 64 golden answers differ" in console.export_text()
    assert all("golden answers that differ" in line["reasons"][0] for line in lines_of(outcome))


def test_a_missed_objective_has_an_exit_code_of_its_own(address: str, options: Options) -> None:
    """Valid figures, and too slow."""
    outcome = run(campaign_text(address, slo_ms=1, rounds=1), options)
    assert (outcome.code, "was missed in 2, by: " in outcome.text) == (SLO_MISSED, True)


def test_a_search_tries_rates_until_it_knows(address: str, options: Options) -> None:
    """Doubling and bisecting; the next round begins where the last one ended."""
    engine = FakeEngine(latency=lambda spec: 0.001 if spec.load.steps[0].rate <= 300 else 0.1)
    search = [{"name": "s", "kind": "server", "duration_s": 5, "warm_up_s": 3}]
    outcome = run(campaign_text(address, slo_ms=10, scenarios=search), options, engine)
    lines = [line for line in lines_of(outcome) if line["target"] == "a"]
    first = [line["rate_offered"] for line in lines if line["round"] == 0]
    assert first[:4] == [50, 100, 200, 400]
    best = max(line["rate_offered"] for line in lines if line["meets_slo"])
    assert 285 <= best <= 300
    assert next(line["rate_offered"] for line in lines if line["round"] == 1) == pytest.approx(best, rel=0.05)
    assert outcome.code == VALID
    assert RunFolder(outcome.run or Path()).state().status == "complete"


def test_a_search_ends_where_the_generator_is_what_is_slow(address: str, options: Options) -> None:
    """Tries that tell nothing of the server are made again, then ended; the run is complete, its cells are INVALID."""
    search = [{"name": "s", "kind": "server", "duration_s": 5, "warm_up_s": 3}]
    engine = FakeEngine(latency=lambda _: 0.1, cpu=0.99)
    outcome = run(campaign_text(address, slo_ms=10, scenarios=search, rounds=1), options, engine)
    assert [line["rate_offered"] for line in lines_of(outcome) if line["target"] == "a"] == [50] * 3 + [25] * 3
    assert outcome.code == INVALID
    assert RunFolder(outcome.run or Path()).state().status == "complete"


def test_ctrl_c_once_finishes_the_round_and_reports(address: str, options: Options) -> None:
    """The run can be resumed, and then measures only what is left."""
    reported: list[Path] = []
    engine = FakeEngine(before=_interrupt_in(0, 0))
    outcome = session.run(
        campaign_text(address, rounds=3), "c", "c", options, Console(quiet=True), engine.seams(reported)
    )
    assert {line["round"] for line in lines_of(outcome)} == {0}
    assert outcome.run is not None
    state = RunFolder(outcome.run).state()
    assert (state.status, state.sealed, len(reported)) == ("interrupted", (0,), 1)
    again = FakeEngine()
    done = session.resume(outcome.run.name, options, Console(quiet=True), again.seams())
    assert [spec.round for spec in again.measured] == [1, 1, 2, 2]
    assert RunFolder(outcome.run).state().status == "complete"
    assert len(lines_of(done)) == 6
    assert document(outcome.run, "manifest.json")["resumed"][0]["changed"] == []


def test_a_second_ctrl_c_stops_and_the_cell_under_way_does_not_count(address: str, options: Options) -> None:
    """What came before it is sealed and reported; a resumed run measures it anew."""
    engine = FakeEngine(before=_interrupt_in(1, 1, SIGTERM=True))
    outcome = run(campaign_text(address, rounds=3), options, engine)
    assert outcome.run is not None
    assert [(line["round"], line["order_in_round"]) for line in lines_of(outcome)] == [(0, 0), (0, 1), (1, 0)]
    assert pq.read_table(outcome.run / "raw" / "1.parquet").num_rows == 500
    again = FakeEngine()
    session.resume(outcome.run.name, options, Console(quiet=True), again.seams())
    assert [(spec.round, spec.order_in_round) for spec in again.measured] == [(1, 1), (2, 0), (2, 1)]
    assert pq.read_table(outcome.run / "raw" / "1.parquet").num_rows == 1000


def test_a_run_that_was_killed_between_a_line_and_its_state_measures_that_cell_again(
    address: str, options: Options
) -> None:
    """And has one line of it in the end."""

    def die(spec: CellSpec) -> None:
        if spec.round == 1:
            raise SystemExit(9)

    with pytest.raises(SystemExit):
        run(campaign_text(address), options, FakeEngine(before=die))
    folder = RunFolder(next(options.runs.iterdir()))
    assert folder.state().status == "failed"
    torn = folder.cells()[0] | {"round": 1}
    folder.append_line(torn)
    with folder.cells_file.open("a") as file:
        file.write('{"torn')
    outcome = session.resume(str(folder.path), options, Console(quiet=True), FakeEngine().seams())
    assert [(line["round"], line["order_in_round"]) for line in lines_of(outcome)] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_generator_that_fails_leaves_a_run_that_can_go_on(address: str, options: Options) -> None:
    """The error says how."""

    def fail(spec: CellSpec) -> None:
        if spec.round == 1:
            raise LoadTestError("the generator did not start")

    with pytest.raises(LoadTestError, match="did not start(.|\n)*--resume"):
        run(campaign_text(address), options, FakeEngine(before=fail))
    state = RunFolder(next(options.runs.iterdir())).state()
    assert (state.status, len(state.done)) == ("failed", 2)


def test_what_a_failure_left_of_a_cell_is_no_record_of_it(address: str, options: Options) -> None:
    """The stream that was cut off in the middle goes; the next attempt writes its own."""
    engine = FakeEngine()

    def fail(spec: CellSpec) -> None:
        if spec.round == 1:
            folder = RunFolder(next(options.runs.iterdir()))
            (folder.streams(1) / f"{spec.slug}.0.arrow").write_bytes(b"half")
            raise LoadTestError("the server died")

    engine.before = fail
    with pytest.raises(LoadTestError, match="the server died"):
        run(campaign_text(address), options, engine)
    assert list(next(options.runs.iterdir()).glob("raw/*/*.arrow")) == []


def test_two_campaigns_on_one_host_refuse_each_other(address: str, options: Options) -> None:
    """The second says who is first; a lock that a dead process left behind stops nobody."""
    with sole_campaign("first", options.lock), pytest.raises(LoadTestError, match=rf"process {os.getpid()}, run first"):
        run(campaign_text(address), options)
    options.lock.write_text('{"pid": 1, "run": "dead", "since": "long ago"}')
    assert run(campaign_text(address, rounds=1), options).code == VALID


def test_ctrl_c_in_the_report_loses_nothing_and_says_so(address: str, options: Options) -> None:
    """The run is complete; what to do for its report is told."""

    def interrupted(run: Path, formats: object = ()) -> list[Path]:
        raise KeyboardInterrupt

    seams = replace(FakeEngine().seams(), write_report=interrupted)
    with pytest.raises(KeyboardInterrupt, match="while the report was written.*`twinserve bench report"):
        session.run(campaign_text(address, rounds=1), "c", "c", options, Console(quiet=True), seams)
    assert RunFolder(next(options.runs.iterdir())).state().status == "complete"


def test_a_complete_run_is_not_resumed(address: str, options: Options) -> None:
    """Its report can be made anew."""
    outcome = run(campaign_text(address, rounds=1), options)
    with pytest.raises(LoadTestError, match="is complete; `twinserve bench report"):
        session.resume(str(outcome.run), options, Console(quiet=True), FakeEngine().seams())
    with pytest.raises(LoadTestError, match="'nothing' is no run"):
        session.resume("nothing", options, Console(quiet=True), FakeEngine().seams())


def _interrupt_in(number: int, place: int, *, SIGTERM: bool = False) -> Any:  # noqa: N803 - the signal's name
    def before(spec: CellSpec) -> None:
        if (spec.round, spec.order_in_round) == (number, place):
            os.kill(os.getpid(), signal.SIGTERM if SIGTERM else signal.SIGINT)

    return before
