"""Whole cells: headless Locust in its own process against tiny servers that answer rightly, wrongly or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.cells import Cell
from loadtests.errors import LoadTestError
from loadtests.results import CellResult
from loadtests.run import run_cell
from tests.unit.loadtests.builders import toy_cell, write_toy
from tests.unit.loadtests.fakes import Behaviour, grpc_server, http_server

ROOT = Path(__file__).resolve().parents[2]
SERVERS = {"rest": http_server, "grpc": grpc_server}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model's golden data."""
    return write_toy(tmp_path_factory.mktemp("artifacts"))


def _run(cell: Cell, artifacts: Path, out: Path, *, seconds: float = 0.5, timeout: float = 5.0) -> CellResult:
    return run_cell(
        cell, artifacts=artifacts, users=2, seconds=seconds, out_dir=out, warm_up=0.2, request_timeout=timeout
    )


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
@pytest.mark.parametrize(
    ("stack", "path"), [("torchserve", "direct"), ("tfserving", "direct"), ("torchserve", "gateway")]
)
def test_right_answers_are_measured(stack: str, path: str, protocol: str, artifacts: Path, tmp_path: Path) -> None:
    """Each of the six protocols: every request is answered, checked and timed; a gateway cell sends its pin."""
    behaviour = Behaviour()
    with SERVERS[protocol](behaviour) as address:
        cell = toy_cell(path=path, stack=stack, protocol=protocol, address=address)
        result = _run(cell, artifacts, tmp_path)
    assert result.failures == 0, result.examples
    assert result.requests == len(result.latencies_ms) > 50
    assert 0.4 < result.window_s < 1.5
    assert all(0 < latency < 1000 for latency in result.latencies_ms)
    assert result.server == cell.server
    assert cell.pins.items() <= behaviour.seen[0].items()
    assert (tmp_path / f"{cell.slug}.log").exists()


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_wrong_answers_are_failures_and_never_figures(protocol: str, artifacts: Path, tmp_path: Path) -> None:
    """A server that is wrong every tenth time has a tenth of failures, and their times are nowhere."""
    with SERVERS[protocol](Behaviour(wrong=True)) as address:
        result = _run(toy_cell(protocol=protocol, address=address), artifacts, tmp_path)
    assert result.failures == result.outcomes["wrong_answer"]
    assert 0.05 < result.failures / result.requests < 0.15
    assert len(result.latencies_ms) == result.requests - result.failures
    assert "beyond the contract's tolerance" in result.examples["wrong_answer"][0]


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_server_that_dies_gives_failures_in_time(protocol: str, artifacts: Path, tmp_path: Path) -> None:
    """The run ends when it should, and what was lost is counted as lost connections."""
    with SERVERS[protocol](Behaviour(dies_after=150)) as address:
        result = _run(toy_cell(protocol=protocol, address=address), artifacts, tmp_path, seconds=1.0)
    assert result.outcomes["conn_error"] > 0
    assert result.failures == result.outcomes["conn_error"]
    assert result.window_s < 5


def test_a_server_that_hangs_gives_timeouts(artifacts: Path, tmp_path: Path) -> None:
    """Requests that were sent in the warm-up and never answered are failures too."""
    with http_server(Behaviour(hangs=True)) as address:
        result = _run(toy_cell(address=address), artifacts, tmp_path, timeout=0.6)
    assert result.outcomes["timeout"] == result.requests > 0
    assert result.latencies_ms == ()


def test_statuses_and_the_wrong_endpoint_are_failures(artifacts: Path, tmp_path: Path) -> None:
    """An error status is counted by its class; an answer from another endpoint than the pinned one is wrong."""
    with http_server(Behaviour(status=503)) as address:
        refused = _run(toy_cell(address=address), artifacts, tmp_path, seconds=0.2)
    assert refused.outcomes["shed"] == refused.requests > 0
    header = {"x-served-by": 'endpoint=tf; stack=tfserving; server="savedmodel-server 1.0 (stand-in)"; version=1'}
    with grpc_server(Behaviour(served_by=header)) as address:
        cell = toy_cell(path="gateway", stack="torchserve", protocol="grpc", address=address)
        astray = _run(cell, artifacts, tmp_path, seconds=0.2)
    assert astray.outcomes["wrong_answer"] == astray.requests > 0
    assert astray.server == "savedmodel-server 1.0 (stand-in)"


def test_locusts_own_failure_says_what_happened(artifacts: Path, tmp_path: Path) -> None:
    """The error holds the end of Locust's log and where the rest of it is."""
    with pytest.raises(LoadTestError, match=r"expected host:port(.|\n)*last lines name the reason"):
        _run(toy_cell(address="ftp://nowhere"), artifacts, tmp_path)


def test_the_locustfile_works_by_hand(artifacts: Path, tmp_path: Path) -> None:
    """Plain Locust without a cell file: hosts and model come from TWINSERVE_* variables, users by class name."""
    with http_server(Behaviour()) as address:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py")),
                *("TfServingRestUser", "--headless", "-u", "2", "-r", "2", "-t", "1s", "--only-summary"),
            ],
            cwd=tmp_path,
            env={
                **os.environ,
                "TWINSERVE_MODEL": "toy",
                "TWINSERVE_ARTIFACTS": str(artifacts),
                "TWINSERVE_TFSERVING_REST": address,
            },
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "tfserving-rest" in done.stderr + done.stdout
