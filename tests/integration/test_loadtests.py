"""Whole cells against tiny servers that answer rightly, wrongly or not at all; and Locust by hand."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from loadtests.cell_spec import CellSpec, Load, Protocol, Step
from loadtests.engine.distributed import worker_command
from loadtests.engine.run import run_cell
from loadtests.raw import read_rows
from tests.unit.loadtests.builders import toy_target, write_toy
from tests.unit.loadtests.fakes import Behaviour, grpc_server, http_server

ROOT = Path(__file__).resolve().parents[2]
SERVERS = {"rest": http_server, "grpc": grpc_server}
DOORS: list[tuple[str, Protocol]] = [
    ("torchserve", "torchserve-rest"),
    ("torchserve", "torchserve-grpc"),
    ("tfserving", "tfserving-rest"),
    ("tfserving", "tfserving-grpc"),
    ("torchserve", "predict"),
    ("torchserve", "oip-grpc"),
]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model's golden data."""
    return write_toy(tmp_path_factory.mktemp("artifacts"))


def _measured(
    behaviour: Behaviour, artifacts: Path, out: Path, protocol: Protocol = "torchserve-rest", **target: Any
) -> pa.Table:
    """Half a second of two clients in a closed loop."""
    load = Load("offline", "closed", (Step(0, 0.5),), warm_up_seconds=0.2, warm_up_requests=0, concurrency=2)
    with SERVERS["grpc" if protocol.endswith("grpc") else "rest"](behaviour) as address:
        spec = CellSpec("cell", toy_target(protocol=protocol, address=address, **target), "s", load)
        run_cell(spec, artifacts=artifacts, raw=out / "raw", health=out / "health.json", log=out / "log")
    rows = read_rows(out / "raw" / "cell.0.arrow")
    return rows.filter(rows["measured"])


def _outcomes(rows: pa.Table) -> Counter[str]:
    return Counter(rows["outcome"].to_pylist())


@pytest.mark.parametrize(("stack", "protocol"), DOORS)
def test_right_answers_are_measured(stack: str, protocol: Protocol, artifacts: Path, tmp_path: Path) -> None:
    """Each of the six protocols: every request is answered, checked and timed, and carries its pin."""
    behaviour, pins = Behaviour(), {"x-endpoint": "ts"}
    rows = _measured(behaviour, artifacts, tmp_path, protocol, stack=stack, pins=pins)
    assert set(_outcomes(rows)) == {"ok"}
    assert rows.num_rows > 20
    assert pins.items() <= behaviour.seen[0].items()


@pytest.mark.parametrize("protocol", ["torchserve-rest", "torchserve-grpc"])
def test_wrong_answers_are_failures(protocol: Protocol, artifacts: Path, tmp_path: Path) -> None:
    """A server that is wrong every tenth time has a tenth of failures, each with its reason."""
    found = _outcomes(rows := _measured(Behaviour(wrong=True), artifacts, tmp_path, protocol))
    assert set(found) == {"ok", "wrong_answer"}
    assert 0.05 < found["wrong_answer"] / rows.num_rows < 0.15
    assert any("beyond the contract's tolerance" in (text or "") for text in rows["detail"].to_pylist())


@pytest.mark.parametrize("protocol", ["torchserve-rest", "torchserve-grpc"])
def test_a_server_that_dies_gives_failures_in_time(protocol: Protocol, artifacts: Path, tmp_path: Path) -> None:
    """The run ends when it should, and what was lost is counted as lost connections."""
    found = _outcomes(_measured(Behaviour(dies_after=50), artifacts, tmp_path, protocol))
    assert found["conn_error"] > 0
    assert set(found) <= {"ok", "conn_error"}


def test_an_answer_of_another_endpoint_is_wrong(artifacts: Path, tmp_path: Path) -> None:
    """Whoever answered is in the record."""
    header = {"x-served-by": 'endpoint=tf; stack=tfserving; server="savedmodel-server 1.0 (stand-in)"; version=1'}
    rows = _measured(Behaviour(served_by=header), artifacts, tmp_path, "oip-grpc", pins={"x-endpoint": "ts"})
    assert set(_outcomes(rows)) == {"wrong_answer"}
    assert set(rows["server"].to_pylist()) == {"savedmodel-server 1.0 (stand-in)"}


def _by_hand(artifacts: Path, address: str) -> dict[str, str]:
    both = {f"TWINSERVE_TFSERVING_{transport}": address for transport in ("REST", "GRPC")}
    return {**os.environ, "TWINSERVE_MODEL": "toy", "TWINSERVE_ARTIFACTS": str(artifacts), **both}


@pytest.mark.parametrize(("user", "transport"), [("TfServingRestUser", "rest"), ("TfServingGrpcUser", "grpc")])
def test_the_locustfile_works_by_hand(user: str, transport: str, artifacts: Path, tmp_path: Path) -> None:
    """Plain Locust: hosts and model come from TWINSERVE_* variables, users by class name."""
    with SERVERS[transport](Behaviour()) as address:
        command = [*(sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"))]
        # On a busy machine the first question may take longer than the run.
        for seconds in (3, 10, 30):
            done = subprocess.run(
                [*command, user, "--headless", "-u", "2", "-r", "2", "-t", f"{seconds}s", "--only-summary"],
                cwd=tmp_path,
                env=_by_hand(artifacts, address),
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            if f"tfserving-{transport}" in (output := done.stderr + done.stdout):
                break
    assert done.returncode == 0, output
    assert f"tfserving-{transport}" in output


@contextmanager
def _running(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_workers_of_other_hosts_share_the_load_of_a_master(artifacts: Path, tmp_path: Path) -> None:
    """Two `bench worker` join Locust's master, which waits for both and sums up what they sent."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    master = [
        *(sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"), "TfServingRestUser"),
        *("--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", str(port)),
        *("--headless", "--expect-workers", "2", "-u", "4", "-r", "4", "-t", "4s", "--only-summary"),
    ]
    with http_server(Behaviour()) as address:
        environment = _by_hand(artifacts, address)
        join = worker_command(f"127.0.0.1:{port}")
        with (
            _running(master, tmp_path, environment) as told,
            _running(join, tmp_path, environment) as one,
            _running(join, tmp_path, environment) as other,
        ):
            output, _ = told.communicate(timeout=180)
            assert (told.returncode, one.wait(60), other.wait(60)) == (0, 0, 0), output
    assert '"TfServingRestUser": 4' in output
    total = re.search(r"Aggregated\s+(\d+)\s+(\d+)\(", output)
    assert total is not None, output
    assert int(total[1]) > 0
    assert total[2] == "0"
