"""`docker-compose.yml`, built and run for real: `make test-docker`. Skipped, with its reason, where no engine is."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.golden import load_golden
from serving.settings import Ports
from twinserve.client import Question, predict_grpc, predict_rest

pytestmark = pytest.mark.docker

ROOT = Path(__file__).resolve().parents[2]
# The stand-in's image: the public one can be pulled on few of the machines that run tests.
IMAGE = "twinserve/savedmodel-server"


def compose_command() -> list[str] | None:
    """`docker compose`, else `docker-compose`; None without either, or without an engine."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        return None
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and not subprocess.run([*command, "version"], capture_output=True, check=False).returncode
        ):
            return command
    return None


@pytest.fixture(scope="module")
def ports(built_models: Path) -> Iterator[Ports]:
    """The compose project, built and up, its gateway on free ports; down again afterwards."""
    command = compose_command()
    if command is None:
        pytest.skip("no Docker engine with compose can be reached")
    free = Ports.free()
    environment = {
        **os.environ,
        "TFSERVING_IMAGE": IMAGE,
        "GATEWAY_REST_PORT": str(free.gateway_rest_port),
        "GATEWAY_GRPC_PORT": str(free.gateway_grpc_port),
    }
    project = [*command, "-p", "twinserve-test"]

    def run(*arguments: str) -> None:
        subprocess.run([*project, *arguments], check=True, cwd=ROOT, env=environment)

    run("--profile", "stand-in", "build")
    try:
        run("up", "-d")
        until_ready(f"http://127.0.0.1:{free.gateway_rest_port}")
        yield free
    finally:
        run("down", "--timeout", "30")


def until_ready(url: str) -> None:
    """Returns when the gateway answers for both models; its containers are healthy by then."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=2):
                return
        except OSError:
            time.sleep(0.25)
    raise AssertionError("the gateway is not ready after a minute")


@pytest.mark.parametrize("model", ["simplenn", "digits"])
@pytest.mark.parametrize("stack", ["torchserve", "tfserving"])
@pytest.mark.parametrize("door", ["rest", "grpc"])
def test_both_stacks_answer_in_containers(ports: Ports, model: str, stack: str, door: str) -> None:
    """The golden answers come from both stacks over both doors, and name the server that gave them."""
    golden = load_golden(ROOT / "artifacts", model)
    question = Question(model, {name: array[:8] for name, array in golden.inputs.items()}, stack=stack)
    if door == "rest":
        answer = predict_rest(f"http://127.0.0.1:{ports.gateway_rest_port}", question)
    else:
        answer = predict_grpc(f"127.0.0.1:{ports.gateway_grpc_port}", question)
    assert golden.fault(0, 8, answer.outputs) is None
    server = "TorchServe 0.12.0" if stack == "torchserve" else "savedmodel-server 1.0 (stand-in)"
    assert f'server="{server}"' in answer.served_by


def test_no_model_server_is_reachable_from_outside(ports: Ports) -> None:
    """Only the gateway publishes ports."""
    reply = subprocess.run(
        ["docker", "ps", "--filter", "name=twinserve-test", "--format", "{{.Names}} {{.Ports}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    published = [line for line in reply.stdout.splitlines() if "->" in line]
    assert len(published) == 1
    assert "gateway" in published[0]
    assert "0.0.0.0" not in published[0]
