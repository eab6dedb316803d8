"""A configuration on its way to a worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.plan import Configuration, configuration_of
from gateway.settings import load
from gateway.workers.assignment import Assignment
from tests.builders import contract

FILE = """
server: {rest_port: 0, grpc_port: 0, workers: 2}
endpoints:
  ts: {stack: torchserve, rest: "http://127.0.0.1:1", management: "http://127.0.0.1:2", slots: 3, payload: json,
       template: {instances: $rows}, token_file: key_file.json}
  none: {stack: noop, slots: 4}
models:
  doubler:
    contract: contract.json
    policy: sticky
    sticky: {header: x-user}
    batching: false
    mirror: {endpoint: none, share: 0.5}
    targets: [{endpoint: ts, weight: 2}, {endpoint: none, weight: 0}]
"""


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    (tmp_path / "gateway.yaml").write_text(FILE)
    (tmp_path / "contract.json").write_text(contract().to_json())
    return configuration_of(load(tmp_path / "gateway.yaml"))


def test_a_configuration_arrives_as_it_was_read(configuration: Configuration) -> None:
    """What was given and what was not, too; no file is read again."""
    sent = Assignment(3, configuration, 8000, 8001)
    found = Assignment.from_json(sent.to_json())
    assert found == sent
    assert found.configuration.settings.server.model_fields_set == configuration.settings.server.model_fields_set


def test_a_worker_serves_its_part_on_the_ports_that_are_held(configuration: Configuration) -> None:
    """Whatever ports the file names: 0 would be another one in each worker."""
    shares = [Assignment(0, configuration, 8000, 8001).of_worker(number).settings for number in (1, 2)]
    assert [(share.server.rest_port, share.server.grpc_port) for share in shares] == [(8000, 8001)] * 2
    assert [share.endpoints["ts"].slots for share in shares] == [2, 1]


def test_the_environment_wins_over_the_file_in_a_worker_as_well(
    configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says is in the configuration already, and divided only once."""
    monkeypatch.setenv("GATEWAY_LIMITS__IN_FLIGHT", "100")
    settings = load(None, {"endpoints": {"none": {"stack": "noop"}}, "server": {"workers": 4}})
    found = Assignment.from_json(Assignment(0, Configuration(settings, {}), 1, 2).to_json())
    assert found.of_worker(1).settings.limits.in_flight == 25
