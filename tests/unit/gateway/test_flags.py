"""Servers named on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from gateway.flags import add_flags, settings_of
from gateway.settings import Settings, SettingsError


def settings(*arguments: str, file: Path | None = None) -> Settings:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser)
    return settings_of(parser.parse_args(arguments), file)


def addresses(found: Settings, endpoint: str) -> dict[str, str | None]:
    spec = found.endpoints[endpoint]
    return {"rest": spec.rest, "grpc": spec.grpc, "management": spec.management, "transport": spec.transport}


@pytest.mark.parametrize(
    ("arguments", "endpoint", "expected"),
    [
        (["--torchserve", "h"], "torchserve", ("http://h:8080", None, "http://h:8081", "rest")),
        (["--torchserve", "https://h:9"], "torchserve", ("https://h:9", None, "https://h:10", "rest")),
        (
            ["--torchserve", "h:8085", "--torchserve-management", "m:8085"],
            "torchserve",
            ("http://h:8085", None, "http://m:8085", "rest"),
        ),
        (["--tfserving", "h"], "tfserving", (None, "h:8500", None, "grpc")),
        (["--tfserving", "[::1]:9000"], "tfserving", (None, "[::1]:9000", None, "grpc")),
        (["--tfserving", "http://h"], "tfserving", ("http://h:8501", None, None, "rest")),
        (["--oip", "http://h:9/"], "oip", ("http://h:9", None, None, "rest")),
        (["--oip", "http://h:9", "--oip", "grpc://h:8"], "oip2", (None, "h:8", None, "grpc")),
    ],
)
def test_an_address_becomes_an_endpoint(
    arguments: list[str], endpoint: str, expected: tuple[str | None, str | None, str | None, str]
) -> None:
    """Without a port, the server's own default; without a scheme, the protocol that is best for it."""
    rest, grpc, management, transport = expected
    assert addresses(settings(*arguments), endpoint) == {
        "rest": rest, "grpc": grpc, "management": management, "transport": transport,
    }  # fmt: skip


def test_models_keys_and_ports_go_where_they_belong() -> None:
    """Names are for the server that cannot list its own; ports and workers are the gateway's."""
    found = settings(
        *("--torchserve", "h", "--torchserve-key-file", "key_file.json", "--tfserving", "h", "--oip", "http://h:9"),
        *("--model", "a", "--model", "b", "--rest-port", "0", "--grpc-port", "9001", "--workers", "3"),
    )
    assert found.endpoints["torchserve"].token_file == Path("key_file.json")
    assert {name: spec.models for name, spec in found.endpoints.items()} == {
        "torchserve": None,
        "tfserving": ("a", "b"),
        "oip": None,
    }
    assert (found.server.rest_port, found.server.grpc_port, found.server.workers) == (0, 9001, 3)
    assert settings("--oip", "http://h:9", "--model", "a").endpoints["oip"].models == ("a",)


def test_flags_add_to_a_file(tmp_path: Path) -> None:
    """Such as one with the contracts of TorchServe's models; an endpoint of the same name is a contradiction."""
    file = tmp_path / "gateway.yaml"
    file.write_text("models: {m: {contract: m.json, targets: [{endpoint: torchserve}]}}")
    found = settings("--torchserve", "h", file=file)
    assert found.models["m"].contract == tmp_path / "m.json"
    file.write_text("endpoints: {torchserve: {stack: noop}}")
    with pytest.raises(SettingsError, match="has an endpoint 'torchserve' too"):
        settings("--torchserve", "h", file=file)
    assert list(settings("--rest-port", "1", file=file).endpoints) == ["torchserve"]


def test_without_servers_the_file_is_gateway_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder where the gateway is started."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"gateway.yaml: No such file"):
        settings()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--oip", "h:9"], "expected http:// or grpc://"),
        (["--oip", "http://h"], "expected http:// or grpc://"),
        (["--torchserve", "grpc://h"], "expected HOST or HOST:PORT"),
        (["--tfserving", "h:port"], "expected HOST or HOST:PORT"),
        (["--tfserving", "http://h/v1"], "expected HOST or HOST:PORT"),
        (["--model", "m"], "add --tfserving or --oip"),
        (["--torchserve", "h", "--model", "m"], "add --tfserving or --oip"),
        (["--tfserving", "h", "--torchserve-key-file", "k"], "--torchserve-key-file is for a TorchServe"),
        (["--torchserve-management", "h:1"], "--torchserve-management is for a TorchServe"),
    ],
)
def test_a_wrong_option_says_what_is_expected(arguments: list[str], expected: str) -> None:
    """Nothing is guessed."""
    with pytest.raises((SettingsError, argparse.ArgumentError), match=expected):
        settings(*arguments)
