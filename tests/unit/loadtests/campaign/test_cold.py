"""A cold start's instants, and its record."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from loadtests.addresses import Addresses
from loadtests.analysis.cell import summarise
from loadtests.campaign.cold import Asked, ask_after, cold_start, write_rows
from loadtests.campaign.fleet import Fleet, Restarted
from loadtests.campaign.folder import RunFolder, State
from loadtests.campaign.gpu import GpuMeter
from loadtests.campaign.ledger import key_of
from loadtests.campaign.measure import Costs, Measurer
from loadtests.campaign.plan import plan_of
from loadtests.campaign.processes import ProcessMeter
from loadtests.campaign.reading import campaign_of
from loadtests.campaign.resources import Meter
from loadtests.cell_spec import CellSpec
from loadtests.errors import LoadTestError
from loadtests.golden import load_golden
from loadtests.raw import read_rows
from loadtests.replies import Outcome
from serving.local import LocalStack
from serving.settings import LaunchSettings, Ports
from tests.unit.loadtests.builders import write_toy
from tests.unit.loadtests.campaign.worlds import FakeEngine, campaign_text, target, toy_server
from tests.unit.serving.tiny import tiny


def spec_at(address: str) -> CellSpec:
    """A cold start of a server at an address."""
    cold = [{"name": "c", "kind": "cold", "duration_s": 0.3}]
    text = campaign_text(address, scenarios=cold, targets=["torchserve-rest"])
    return plan_of(campaign_of(text, "c"), {"toy": [target(address=address, stack="torchserve")]}).cells[0]


def asked(times_ms: list[float], first: float = 2.0, outcome: Outcome = Outcome.OK) -> list[Asked]:
    """Answers that took so long, the first one sent `first` seconds after the start."""
    found, now = [], first
    for took in times_ms:
        found.append(Asked(0, now, now + took / 1e3, outcome, "", 10, 20))
        now += took / 1e3
    return found


def test_the_first_answer_and_the_steady_state_are_instants_since_the_start() -> None:
    """Steady is the end of the first answer after which a window's median is near the last ones'."""
    start = cold_start(1.5, asked([800, 20, 12, *[2.0] * 100]))
    assert (start.ready_s, start.first_answer_s) == (1.5, pytest.approx(2.8))
    assert start.steady_s == pytest.approx(2.8)
    assert (start.first_request_ms, start.steady_request_ms) == (pytest.approx(800), pytest.approx(2.0))
    slow = cold_start(1.5, asked([*[20.0] * 50, *[2.0] * 200]))
    assert slow.steady_s is not None
    assert 2.0 + 0.02 * 38 < slow.steady_s < 2.0 + 0.02 * 52


def test_what_was_not_reached_is_not_told() -> None:
    """No right answer, or too few to call them steady."""
    never = cold_start(1.5, asked([5.0] * 3, outcome=Outcome.HTTP_5XX))
    assert (never.first_answer_s, never.steady_s) == (None, None)
    few = cold_start(1.5, asked([5.0] * 3))
    assert few.first_answer_s is not None
    assert few.steady_s is None


def test_a_cold_start_leaves_a_record_like_any_other_cell(tmp_path: Path) -> None:
    """Answers are checked, times count from the start of the process, and the analysis makes a line of it."""
    golden = load_golden(write_toy(tmp_path), "toy")
    now = iter(range(100))
    with toy_server() as address:
        spec = spec_at(address)
        answers = ask_after(
            Restarted(began=-3.0, ready_s=2.0), spec, golden, stop=lambda: False, clock=lambda: next(now) / 100
        )
    assert answers[0].sent == pytest.approx(3.02)
    assert {each.outcome for each in answers} == {Outcome.OK}
    write_rows(answers, spec, tmp_path / "x.0.arrow", 123.0)
    rows = read_rows(tmp_path / "x.0.arrow")
    assert rows.num_rows == len(answers)
    with pa.OSFile(str(tmp_path / "x.0.arrow")) as file, pa.ipc.open_stream(file) as stream:
        assert stream.schema.metadata == {b"t0_unix": b"123.0"}
    line = summarise(spec, rows, {"workers": [], "scheduled": len(answers)}, None, None)
    assert (line["kind"], line["outcomes"]["ok"]) == ("cold", len(answers))


class NeverBack(Fleet):
    """Servers that are not started again: the error says which was asked for."""

    def restart(self, name: str) -> Restarted:
        """Nothing is ended."""
        raise LoadTestError(f"{name} is not started again")


@pytest.mark.parametrize(
    ("stack", "variant", "server"),
    [
        ("torchserve", "onnx", "torchserve"),
        ("tfserving", "xla", "tfserving"),
        ("tfserving", "savedmodel-nograppler", "tfserving-nograppler"),
    ],
)
def test_the_server_of_the_variant_is_the_one_that_is_started_again(
    tmp_path: Path, stack: str, variant: str, server: str
) -> None:
    """One variant has a server of its own beside its stack's."""
    spec = spec_at("127.0.0.1:1")
    spec = replace(spec, target=replace(spec.target, stack=stack, variant=variant))
    with pytest.raises(LoadTestError, match=f"^{server} is not started again"):
        measurer_of(tmp_path, spec, NeverBack(Addresses()), []).measure(spec, FakeEngine().run_cell)


def measurer_of(world: Path, spec: CellSpec, fleet: Fleet, meters: list[Meter]) -> Measurer:
    """What measures one cold start; the toy is built and the run is left in `world`."""
    return Measurer(
        folder=RunFolder.create(world / "runs", "c"),
        state=State((spec,)),
        seams=FakeEngine().seams(),
        artifacts=write_toy(world),
        fleet=fleet,
        meters={key_of(spec.target): meters},
        gpu=GpuMeter(None, "none here"),
        parities={},
        costs={key_of(spec.target): Costs()},
        tier="quick",
        stop=threading.Event(),
        say=lambda _: None,
    )


def test_after_a_cold_start_the_new_process_is_the_one_that_is_measured(tmp_path: Path) -> None:
    """In its own cell, which lasts from readiness on, and in every cell after it."""
    port = Ports.free().gateway_rest_port
    settings = LaunchSettings(artifacts=tmp_path / "run", start_timeout_s=20, stop_grace_s=2)
    spec = spec_at(f"127.0.0.1:{port}")
    with LocalStack(settings, stages=[[tiny("torchserve", port)]]) as stack:
        first = stack.children[0].pid
        meter = ProcessMeter("torchserve", first)
        fleet = Fleet(Addresses(), pids={"torchserve": first}, stack=stack)
        measurer = measurer_of(tmp_path, spec, fleet, [meter])
        measurer.measure(spec, FakeEngine().run_cell)
        assert meter.pid == stack.children[0].pid != first
    (line,) = measurer.folder.cells()
    (server,) = line["resources"]["servers"]
    assert (server["status"], server["restarts"]) == ("measured", 0)
    # The tiny server answers, but not the toy's questions.
    assert line["cold"]["ready_s"] > 0
    assert line["cold"]["first_answer_s"] is None
