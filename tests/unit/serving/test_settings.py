"""Ports and settings: defaults, the environment, free ports."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from serving.settings import FREE_PORTS, LaunchSettings, Ports, is_free


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment, put back afterwards."""
    with monkeypatch.context() as patch:
        yield patch


def test_ports_are_the_documented_ones() -> None:
    """The defaults are those of the architecture page, each told in a sentence."""
    ports = [8000, 8001, 8009, 8080, 8081, 8082, 7070, 7071, 8500, 8501, 8510, 8511]
    assert list(Ports().model_dump().values()) == ports
    assert all(field.description for model in (Ports, LaunchSettings) for field in model.model_fields.values())


def test_the_environment_chooses_a_port(environment: pytest.MonkeyPatch) -> None:
    """TWINSERVE_<NAME> replaces a default, and an argument replaces both."""
    environment.setenv("TWINSERVE_TORCHSERVE_REST_PORT", "9080")
    assert Ports().torchserve_rest_port == 9080
    assert Ports(torchserve_rest_port=9081).torchserve_rest_port == 9081


def test_a_port_is_a_port() -> None:
    """Numbers beyond 65535 are refused."""
    with pytest.raises(ValidationError, match="gateway_rest_port"):
        Ports(gateway_rest_port=70000)


def test_free_ports_are_different_and_free() -> None:
    """All of them can be listened on, below the range of outgoing connections."""
    ports = list(Ports.free().model_dump().values())
    assert len(set(ports)) == len(ports) == 12
    assert all(port in FREE_PORTS and is_free(port) for port in ports)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_something_listens_on_is_not_free(host: str) -> None:
    """Whether it listens on loopback or everywhere."""
    with socket.create_server((host, 0)) as server:
        assert not is_free(server.getsockname()[1])


def test_a_port_says_what_it_is_for_and_how_to_change_it() -> None:
    """The words of the error about a taken port."""
    assert Ports.use_of("torchserve_rest_port") == "TorchServe inference over REST"
    assert Ports.setting_of("torchserve_rest_port") == (
        "TWINSERVE_TORCHSERVE_REST_PORT (or `twinserve up --torchserve-rest-port`)"
    )


def test_folders_are_absolute(tmp_path: Path) -> None:
    """Servers run in other folders, so that relative paths would lead elsewhere."""
    settings = LaunchSettings(artifacts=tmp_path / "x" / ".." / "artifacts")
    assert settings.run_dir == tmp_path / "artifacts" / "run"
    assert LaunchSettings(artifacts=Path("artifacts")).models_dir == Path.cwd() / "artifacts" / "models"
