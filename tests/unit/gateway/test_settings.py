"""The configuration file and its errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.process_settings import LimitSettings, ServerSettings, TelemetrySettings, TracingSettings
from gateway.settings import (
    EndpointSettings,
    HandlerSettings,
    ModelSettings,
    Settings,
    SettingsError,
    TargetSettings,
    load,
)

GOOD = """
endpoints:
  ts: {stack: torchserve, transport: rest, rest: "http://127.0.0.1:8080", management: "http://127.0.0.1:8081", slots: 2}
  tf: {stack: tfserving, transport: grpc, grpc: "127.0.0.1:8500"}
models:
  digits:
    contract: models/digits/contract.json
    targets: [{endpoint: ts}, {endpoint: tf, names: {image: x}}]
    labels: {stable: 1}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(text)
    return path


def test_a_file_is_read_whole_with_defaults(tmp_path: Path) -> None:
    """What the file leaves out has the documented default; contracts are found beside the file."""
    settings = load(written(tmp_path, GOOD))
    assert settings.server.rest_port == 8000
    assert settings.endpoints["ts"].slots == 2
    assert settings.models["digits"].contract == tmp_path / "models/digits/contract.json"
    assert settings.models["digits"].targets[1].names == {"image": "x"}


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's environment can move a port without another file."""
    monkeypatch.setenv("GATEWAY_SERVER__REST_PORT", "9999")
    assert load(written(tmp_path, GOOD)).server.rest_port == 9999


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("endpoints: [", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("endpoints: 2026-13-01", "not YAML: month must be in 1..12"),
        ("just text", "expected a mapping"),
        ("1: {}", "there is no field '1'"),
        ("_cli_parse_args: [--help]", "there is no field '_cli_parse_args'"),
        ("models: {}", "endpoints: Field required"),
        (GOOD.replace("slots: 2", "slotz: 2"), r"endpoints.ts.slotz: Extra inputs are not permitted"),
        (GOOD.replace("slots: 2", "slots: 0"), r"endpoints.ts.slots: Input should be greater than 0"),
        (GOOD.replace('management: "http://127.0.0.1:8081", ', ""), "also needs: management"),
        (GOOD.replace("stack: tfserving, transport: grpc", "stack: oip"), "oip over rest also needs: rest"),
        (GOOD.replace("endpoint: tf", "endpoint: tfx"), "unknown endpoint 'tfx'; there are ts, tf"),
        (GOOD.replace("stack: tfserving", "stack: triton"), "'torchserve', 'tfserving', 'oip' or 'noop'"),
        (GOOD.replace("slots: 2", "payload: pickle"), "'framed', 'json' or 'raw'"),
        (GOOD.replace("stack: tfserving", "payload: raw, stack: tfserving"), "payload is for stack torchserve"),
        (GOOD.replace("stack: tfserving", "token_file: k, stack: tfserving"), "token_file is for stack torchserve"),
        (GOOD.replace("endpoint: tf", "versions: {a: 1}, endpoint: tf"), "'tf': versions is for stack torchserve"),
        (GOOD.replace("endpoint: tf", "payload: raw, endpoint: tf"), "'tf': payload is for stack torchserve"),
        (GOOD.replace("endpoint: ts", "template: $rows, endpoint: ts"), "template is for payload json, .* is framed"),
        (GOOD.replace("slots: 2", "payload: json, content_type: image/png"), "content_type is for payload raw"),
        (GOOD.replace("slots: 2", 'payload: raw, content_type: "a\\r\\nb"'), "endpoints.ts.content_type"),
        (GOOD.replace("endpoint: ts", "versions: {3.0: 4}, endpoint: ts"), "valid string"),
        (GOOD.replace("endpoint: ts", 'versions: {"3.0": 4}, endpoint: ts'), "'3.0' is version 3 without a word"),
        (GOOD.replace("endpoint: ts", "versions: {a: 1, b: 1}, endpoint: ts"), "two versions have the same number"),
        (
            GOOD.replace("endpoint: tf", "label: new, endpoint: tf"),
            "'tf': there is no label 'new' under .*; there: 'stable'",
        ),
        (GOOD.replace("endpoint: tf", "label: a, version: 1, endpoint: tf"), "'tf' has a version and a label; leave"),
        (
            GOOD.replace("targets:", "mirror: {endpoint: tf, share: 1, label: b}\n    targets:"),
            "mirror 'tf': .* no label 'b'",
        ),
        (
            GOOD.replace("{endpoint: tf, names: {image: x}}", "{endpoint: ts, versions: {a: 1}}").replace(
                "endpoint: ts}", "endpoint: ts, versions: {a: 2}}", 1
            ),
            "version 'a' is 2 on one target and 1 on 'ts'",
        ),
        (
            GOOD.replace("endpoint: t", "by_name: true, endpoint: t"),
            "models.digits: every target is by_name, .* leave by_name out on the target that is to answer it",
        ),
        (
            GOOD.replace("labels:", "unavailable: {xla: absent}\n    labels:").replace(
                "{image: x}", "{}, variant: xla"
            ),
            "models.digits: variant 'xla' is unavailable and served by target 'tf'; leave one of them out",
        ),
    ],
)
def test_a_wrong_file_names_the_field_and_what_is_allowed(tmp_path: Path, text: str, expected: str) -> None:
    """The message is enough to mend the file."""
    with pytest.raises(SettingsError, match=expected) as caught:
        load(written(tmp_path, text))
    assert "gateway.yaml" in str(caught.value)


def test_a_target_speaks_as_its_endpoint_unless_it_says_otherwise(tmp_path: Path) -> None:
    """What a target leaves out is its endpoint's; one with another payload takes nothing else from there."""
    text = GOOD.replace("slots: 2", "payload: json, template: {data: $rows}, grpc_key: body, token_file: keys.json")
    settings = load(written(tmp_path, text))
    endpoint, target = settings.endpoints["ts"], settings.models["digits"].targets[0]
    assert endpoint.token_file == tmp_path / "keys.json"
    shared = target.handler_on(endpoint)
    assert (shared.payload, shared.template, shared.grpc_key) == ("json", {"data": "$rows"}, "body")
    own = target.model_copy(update={"grpc_key": "data"}).handler_on(endpoint)
    assert (own.payload, own.template, own.grpc_key) == ("json", {"data": "$rows"}, "data")
    raw = target.model_copy(update={"payload": "raw"}).handler_on(endpoint)
    assert raw.handler_fields() == {"payload": "raw"}


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    """Such as an archive, given by mistake."""
    path = tmp_path / "model.mar"
    path.write_bytes(b"PK\x03\x04\xff")
    with pytest.raises(SettingsError, match=r"model.mar: not YAML"):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The path is in the message."""
    with pytest.raises(SettingsError, match=r"nowhere.yaml: No such file"):
        load(tmp_path / "nowhere.yaml")


def test_every_field_is_documented() -> None:
    """docs/configuration.md names each field of each section."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "configuration.md").read_text()
    sections = (
        Settings,
        ServerSettings,
        LimitSettings,
        HandlerSettings,
        EndpointSettings,
        ModelSettings,
        TargetSettings,
        TelemetrySettings,
    )
    fields = [field for section in sections for field in section.model_fields]
    assert [field for field in fields if f"`{field}`" not in page and f"## {field}" not in page] == []
    assert [field for field in TracingSettings.model_fields if f"`tracing.{field}`" not in page] == []
    assert all(section.model_fields[field].description for section in sections for field in section.model_fields)
