"""The servers of a campaign: those that run, those that it starts, and one that is started again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from loadtests.addresses import Addresses
from loadtests.campaign.fleet import Fleet, addresses_of, fleet_of, variants_of
from loadtests.cell_spec import STACKS, TRANSPORTS
from loadtests.errors import LoadTestError
from serving.local import LocalStack
from serving.settings import LaunchSettings, Ports
from serving.state import ProcessId, RunState, ServerState
from tests.unit.loadtests.builders import write_toy
from tests.unit.serving.tiny import left_running, tiny

PORTS = Ports(gateway_rest_port=1, gateway_grpc_port=2, torchserve_rest_port=3, torchserve_grpc_port=4)


def state(status: str = "ready", pid: int = 0) -> RunState:
    """What `twinserve up` would have written."""
    own = ProcessId.of(pid or os.getpid())
    listening = {"torchserve": (11, 12, 13, 14, 15), "tfserving": (21, 22), "gateway": (31, 32, 33)}
    servers = tuple(ServerState(name, own, "", "", ports, "", f"{name} 1.0") for name, ports in listening.items())
    return RunState(own, status, "", "", servers)  # type: ignore[arg-type]


def test_servers_that_run_are_used_as_they_are(tmp_path: Path) -> None:
    """Their addresses, names and processes are in the launcher's state; none of them can be restarted."""
    settings = LaunchSettings(artifacts=tmp_path)
    settings.run_dir.mkdir()
    state().save(settings.run_dir)
    with fleet_of(tmp_path, needed=True, report=lambda _: None) as fleet:
        ways = [(name, transport) for name in ("gateway", *STACKS) for transport in TRANSPORTS]
        ports = [fleet.addresses.of(*way).rpartition(":")[2] for way in ways]
        assert ports == ["31", "32", "11", "14", "22", "21"]
        assert fleet.servers["tfserving"] == "tfserving 1.0"
        assert (fleet.pids["gateway"], fleet.management) == (os.getpid(), "127.0.0.1:12")
        fleet.check()
        with pytest.raises(LoadTestError, match="was not started by this campaign"):
            fleet.restart("torchserve")
    state("starting").save(settings.run_dir)
    with pytest.raises(LoadTestError, match="are starting"), fleet_of(tmp_path, needed=True, report=lambda _: None):
        pass


def test_a_campaign_of_addresses_alone_starts_nothing(tmp_path: Path) -> None:
    """Nor does it need built models."""
    with fleet_of(tmp_path, needed=False, report=lambda _: None) as fleet:
        assert (fleet.stack, fleet.pids) == (None, {})


def test_without_models_no_server_is_started(tmp_path: Path) -> None:
    """The launcher's own words."""
    with pytest.raises(LoadTestError, match="no built model"), fleet_of(tmp_path, needed=True, report=lambda _: None):
        pass


def test_addresses_are_those_that_the_servers_will_have() -> None:
    """Before they run."""
    found = addresses_of(None, PORTS, "127.0.0.1")
    assert (found.gateway_rest, found.torchserve_grpc) == ("127.0.0.1:1", "127.0.0.1:4")


def test_a_server_of_the_campaigns_own_is_started_again_and_ends_with_it(tmp_path: Path) -> None:
    """It is another process at the same address, and its readiness is timed."""
    port = Ports.free().gateway_rest_port
    settings = LaunchSettings(artifacts=tmp_path, start_timeout_s=20, stop_grace_s=2)
    with LocalStack(settings, stages=[[tiny("a", port)]]) as stack:
        first = stack.children[0].pid
        fleet = Fleet(Addresses(), pids={"a": first}, stack=stack)
        again = fleet.restart("a")
        assert again.ready_s > 0
        assert fleet.pids["a"] == stack.children[0].pid != first
        assert stack.servers == {"a": "a 1.0"}
        with pytest.raises(LoadTestError, match="no server 'b' was started; there are: a"):
            fleet.restart("b")
        groups = [first, fleet.pids["a"]]
        stack.children[0].process.kill()
        stack.children[0].process.wait()
        with pytest.raises(LoadTestError, match="a was ended by SIGKILL"):
            fleet.check()
    assert left_running(groups) == []


def test_a_server_that_ended_is_told_after_its_cell() -> None:
    """Of servers that somebody else started."""
    with pytest.raises(LoadTestError, match="tfserving has ended while it was measured"):
        Fleet(Addresses(), pids={"tfserving": 2**22 + 1}).check()


def test_every_model_with_a_contract_is_known(tmp_path: Path) -> None:
    """With its variants, as far as they are available; a contract that is none is told."""
    models = write_toy(tmp_path) / "models"
    assert variants_of(models) == {"toy": {}}
    for name, available in (("onnx", True), ("tensorrt", False)):
        (folder := models / "toy" / "variants" / name).mkdir(parents=True)
        record = {"variant": name, "stack": "torchserve", "available": available}
        (folder / "variant.json").write_text(json.dumps(record))
    assert variants_of(models) == {"toy": {"onnx": "torchserve"}}
    assert variants_of(tmp_path / "none") == {}
    (models / "toy" / "contract.json").write_text("{}")
    with pytest.raises(LoadTestError, match=r"contract\.json"):
        variants_of(models)
