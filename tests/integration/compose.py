"""The compose project of the tests that need Docker: up once for all of them, its ports free ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.docker import DockerStack
from serving.processes import LaunchError
from serving.settings import LaunchSettings, Ports

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "twinserve-test"
# The stand-in's image: the public one can be pulled on few of the machines that run tests.
STAND_IN = "twinserve/savedmodel-server"
# The stack's own configuration with what the dashboards also show: a mirror.
CONFIG = """\
server: {host: 0.0.0.0, rest_port: 8000, grpc_port: 8001, admin_port: null}
endpoints:
  ts:
    {stack: torchserve, transport: rest, rest: "http://torchserve:8080", management: "http://torchserve:8081", slots: 2}
  tf: {stack: tfserving, transport: grpc, grpc: "tfserving:8500", rest: "http://tfserving:8501", slots: 4}
models:
  simplenn:
    contract: /models/simplenn/contract.json
    targets: [{endpoint: ts}, {endpoint: tf}]
    cross_stack: true
  digits:
    contract: /models/digits/contract.json
    policy: round_robin
    targets: [{endpoint: ts}, {endpoint: tf}]
    cross_stack: true
    mirror: {endpoint: tf, share: 1.0}
"""


@dataclass(frozen=True, slots=True)
class Composed:
    """A running project."""

    stack: DockerStack
    services: list[str]
    rest: str
    grpc: str
    prometheus: str


@contextmanager
def composed(artifacts: Path, folder: Path) -> Iterator[Composed]:
    """The project, built where it is not, up and healthy; down again afterwards. Skips where no engine answers."""
    ports, others = Ports.free(), Ports.free()
    config = folder / "gateway.yaml"
    config.write_text(CONFIG, "utf-8")
    environment = {
        "TFSERVING_IMAGE": STAND_IN,
        "GATEWAY_CONFIG": str(config),
        "PROMETHEUS_PORT": str(others.gateway_rest_port),
        "GRAFANA_PORT": str(others.gateway_grpc_port),
    }
    settings = LaunchSettings(artifacts=artifacts)
    try:
        stack = DockerStack(settings, ports, report=print, project=PROJECT, environment=environment)
    except LaunchError as exc:
        pytest.skip(str(exc))
    # An image from before a change would be started as it is.
    stack.build()
    try:
        services = stack.up()
        yield Composed(
            stack,
            services,
            f"http://127.0.0.1:{ports.gateway_rest_port}",
            f"127.0.0.1:{ports.gateway_grpc_port}",
            f"http://127.0.0.1:{others.gateway_rest_port}",
        )
    finally:
        stack.down()
