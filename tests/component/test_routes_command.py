"""`python -m gateway` as a process of its own, reloaded by its signal and looked at by `twinserve routes`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.builders import contract
from twinserve.main import app

CONFIG = """
server: {rest_port: 0, grpc_port: 0, admin_port: 0}
endpoints: {one: {stack: noop}, two: {stack: noop}}
models:
  doubler: {contract: contract.json, policy: POLICY, targets: [{endpoint: one, weight: 3}, {endpoint: two}]}
"""
RUN = CliRunner()


@dataclass
class Process:
    """A running gateway, its file and its operator's port."""

    process: subprocess.Popen[str]
    file: Path
    admin: str

    def write(self, policy: str) -> None:
        self.file.write_text(CONFIG.replace("POLICY", policy))

    def routes(self, *arguments: str) -> Result:
        return RUN.invoke(app, ["routes", *arguments, "--admin", self.admin], env={"COLUMNS": "200"})

    def until(self, *arguments: str, found: Callable[[Any], bool]) -> Any:
        """What a command prints as JSON, once `found` says so; fails after 20 s."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            told = json.loads(self.routes(*arguments, "--json").stdout)
            if found(told):
                return told
            time.sleep(0.05)
        raise AssertionError(told)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Process]:
    """A gateway with policy `weighted`, ended by SIGTERM with status 0."""
    (tmp_path / "contract.json").write_text(contract().to_json())
    file = tmp_path / "gateway.yaml"
    file.write_text(CONFIG.replace("POLICY", "weighted"))
    command = [sys.executable, "-m", "gateway", "--config", str(file)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if "operator's port is" in line)
        found = re.search(r"operator's port is (http://127\.0\.0\.1:\d+)", line)
        assert found is not None
        world = Process(process, file, found[1])
        world.until("list", found=lambda told: "ready" in str(told["routes"]))
        yield world
    finally:
        process.terminate()
        status = process.wait(20)
        process.stderr.close()
    assert status == 0


def test_sighup_reads_the_file_again(gateway: Process) -> None:
    """A contract has changed, of which the file's own watch knows nothing; the signal ends nothing."""
    changed = contract().to_json().replace('"batch_cap": 32', '"batch_cap": 16')
    (gateway.file.parent / "contract.json").write_text(changed)
    gateway.process.send_signal(signal.SIGHUP)
    assert gateway.process.stderr is not None
    line = json.loads(next(line for line in gateway.process.stderr if "the configuration was reloaded" in line))
    assert line["message"].startswith("the configuration was reloaded (signal)")
    assert gateway.process.poll() is None


def test_an_invalid_file_is_told_in_the_log_as_an_error(gateway: Process) -> None:
    """The gateway goes on with what it has."""
    gateway.write("wighted")
    assert gateway.process.stderr is not None
    line = json.loads(next(line for line in gateway.process.stderr if "is not usable" in line))
    assert line["level"] == "error"
    assert "models.doubler.policy: Input should be 'failover'" in line["message"]
    assert gateway.until("list", found=lambda told: True)["routes"]["doubler"]["policy"] == "weighted"


def test_list_shows_every_target_and_how_it_is(gateway: Process) -> None:
    """One row each, with policy, weight, state, breaker and slots."""
    reply = gateway.routes("list")
    assert reply.exit_code == 0
    rows = [re.sub(r" +", " ", line) for line in reply.stdout.splitlines() if "null backend" in line]
    assert rows == [
        "│ doubler │ weighted │ one (null backend) │ 3 │ ready │ closed │ 0/4 / 0 │",
        "│ │ │ two (null backend) │ 1 │ ready │ closed │ 0/4 / 0 │",
    ]


def test_explain_tells_the_rule_and_the_order(gateway: Process) -> None:
    """For a selection and for none."""
    reply = gateway.routes("explain", "doubler")
    assert reply.stdout.startswith(
        "doubler: policy weighted: drawn by weight, anew for each request: this is one draw\n"
    )
    assert "not fit: it has no version 9" in gateway.routes("explain", "doubler", "--version", "9").stdout
    told = json.loads(gateway.routes("explain", "doubler", "--endpoint", "two", "--json").stdout)
    assert [target["endpoint"] for target in told["order"]] == ["two"]
    assert told["rule"].startswith("the client's choice of endpoint 'two' left these")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["explain", "nope"], "unknown model 'nope'"),
        (["explain", "doubler", "--label", "new"], "has no label 'new'"),
        (["explain", "doubler", "--header", "x"], "expected name=value"),
    ],
)
def test_what_the_gateway_refuses_is_told_in_its_words(gateway: Process, arguments: list[str], expected: str) -> None:
    """The status is 1, and nothing is a traceback."""
    reply = gateway.routes(*arguments)
    assert reply.exit_code == 1
    assert expected in reply.stderr


@pytest.mark.parametrize(
    ("address", "expected"),
    [("http://127.0.0.1:1", "is its server.admin_port on?"), ("localhost:8009", "expected http://HOST:PORT")],
)
def test_a_gateway_that_is_not_there_is_told_with_what_to_do(address: str, expected: str) -> None:
    """It may not run, or its port may be off."""
    reply = RUN.invoke(app, ["routes", "list", "--admin", address])
    assert reply.exit_code == 1
    assert expected in reply.stderr.replace("\n", " ")
