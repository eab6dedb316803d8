"""The command line against a gateway of its own, with the null backend behind it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.builders import contract
from twinserve.client import PredictError, Question, predict_grpc, predict_rest
from twinserve.main import app

CONFIG = """
server: {rest_port: 0, grpc_port: 0}
endpoints: {nothing: {stack: noop}}
models: {doubler: {contract: contract.json, targets: [{endpoint: nothing}]}}
"""
RUN = CliRunner()


@dataclass(frozen=True)
class Gateway:
    """Where the gateway under test listens."""

    rest: str
    grpc: str


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """`twinserve gateway` as a process of its own, ended by SIGTERM with status 0."""
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "contract.json").write_text(contract().to_json())
    (folder / "gateway.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "twinserve", "gateway", "--config", str(folder / "gateway.yaml")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if "listening on" in line)
        found = re.search(r"listening on (http://\S+) and grpc://(127\.0\.0\.1:\d+)", line)
        assert found is not None
        _until_ready(found[1])
        yield Gateway(found[1], found[2])
    finally:
        process.terminate()
        status = process.wait(20)
        process.stderr.close()
    assert status == 0


def test_a_start_that_fails_says_so_in_one_line(gateway: Gateway, tmp_path: Path) -> None:
    """gRPC's own core, which knows of the taken port too, does not write between the gateway's lines."""
    (tmp_path / "contract.json").write_text(contract().to_json())
    port = gateway.grpc.rpartition(":")[2]
    (tmp_path / "gateway.yaml").write_text(CONFIG.replace("grpc_port: 0", f"grpc_port: {port}"))
    command = [sys.executable, "-m", "gateway", "--config", str(tmp_path / "gateway.yaml")]
    reply = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert reply.stderr == f"gateway: cannot listen on {gateway.grpc}; choose another server.grpc_port\n"
    assert reply.returncode == 3


def _until_ready(url: str) -> None:
    for _ in range(500):
        try:
            predict_rest(url, Question("doubler", {"x": [[0, 0]]}))
        except PredictError:
            continue
        return
    raise AssertionError("the gateway did not become ready")


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_predict_prints_outputs_and_what_answered(gateway: Gateway, protocol: str) -> None:
    """Outputs go to standard output as JSON, the rest to standard error."""
    address = gateway.rest if protocol == "rest" else gateway.grpc
    reply = RUN.invoke(
        app, ["predict", "doubler", "-i", '{"x": [[1, 2]]}', "--protocol", protocol, "--address", address]
    )
    assert reply.exit_code == 0
    assert reply.stdout == '{"y": [[0.0, 0.0]]}\n'
    assert 'server="null backend"' in reply.stderr


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
@pytest.mark.parametrize(
    ("model", "inputs", "expected"),
    [
        ("nope", '{"x": [[1, 2]]}', "unknown model 'nope'"),
        ("doubler", '{"z": [[1, 2]]}', "no input 'z'"),
        ("doubler", '{"x": [[1]]}', "has shape"),
    ],
)
def test_a_refusal_is_told_in_its_own_words(
    gateway: Gateway, protocol: str, model: str, inputs: str, expected: str
) -> None:
    """The gateway's text reaches the user over both transports, and the status is 1."""
    address = gateway.rest if protocol == "rest" else gateway.grpc
    reply = RUN.invoke(app, ["predict", model, "-i", inputs, "--protocol", protocol, "--address", address])
    assert reply.exit_code == 1
    assert expected in reply.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["predict", "doubler", "-i", "{"], "not JSON"),
        (["predict", "doubler", "-i", "@/nowhere.json"], "cannot read '/nowhere.json'"),
        (["demo", "--framework", "jax"], "'jax' is not one of 'pytorch', 'keras'"),
        (["predict", "doubler", "-i", "[1]"], "expected an object"),
        (["predict", "doubler", "-i", "{}", "--protocol", "smoke"], "'smoke' is not one of 'rest', 'grpc'"),
        (["predict", "doubler", "-i", "{}", "--address", "localhost"], "expected http://HOST:PORT"),
        (["predict", "doubler", "--artifacts", "/nowhere"], "twinserve models build"),
        (["predict", "doubler", "-i", '{"x": 1}', "--address", "http://127.0.0.1:1"], "`twinserve up` starts one"),
    ],
)
def test_a_wrong_call_says_what_to_do(arguments: list[str], expected: str) -> None:
    """Nothing is a traceback."""
    reply = RUN.invoke(app, arguments)
    assert reply.exit_code != 0
    assert expected in " ".join(re.sub(r"[│╭╰─╮╯]", " ", reply.stderr).split())


def test_a_gateway_that_cannot_be_reached_over_grpc_is_named() -> None:
    """The address is in the message."""
    with pytest.raises(PredictError, match=r"UNAVAILABLE: .*\(gateway at 127.0.0.1:1\)"):
        predict_grpc("127.0.0.1:1", Question("doubler", {"x": [[1.0, 2.0]]}), timeout_s=5)


def test_help_is_for_strangers() -> None:
    """Each verb is listed with a sentence."""
    text = RUN.invoke(app, ["--help"]).stdout
    for verb in ("demo", "doctor", "models", "up", "down", "status", "logs", "predict", "routes", "gateway"):
        assert re.search(rf"│ {verb} +\S", text), verb


def test_a_wrong_configuration_ends_with_its_reason(tmp_path: Path) -> None:
    """The gateway's exit status is 3 and its last line says why."""
    config = tmp_path / "gateway.yaml"
    config.write_text("endpoints: {a: {stack: triton}}")
    command = [sys.executable, "-m", "gateway", "--config", str(config)]
    reply = subprocess.run(command, capture_output=True, text=True, check=False)
    assert reply.returncode == 3
    assert "endpoints.a.stack" in reply.stderr
    assert "Traceback" not in reply.stderr
