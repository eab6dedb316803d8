"""What is here and what is missing."""

from __future__ import annotations

import gc
import socket
import warnings
from pathlib import Path

import pytest

from serving.doctor import examine
from serving.settings import LaunchSettings, Ports
from tests.builders import contract


def _found(artifacts: Path, ports: Ports) -> dict[str, tuple[str, str]]:
    findings = examine(LaunchSettings(artifacts=artifacts), ports)
    return {finding.what: (finding.grade, finding.found) for finding in findings}


def test_this_machine_has_what_is_needed(tmp_path: Path) -> None:
    """Python, the packages, Java, both servers and the ports are looked at; real servers and stand-ins are told."""
    found = _found(tmp_path, Ports.free())
    assert found["Python"][0] == found["torch"][0] == found["Java"][0] == found["Ports"][0] == "ok"
    assert found["Server of torchserve"] == ("ok", "TorchServe 0.12.0 (real)")
    assert found["Server of tfserving"][0] in ("ok", "note")
    assert found["Docker"][0] == "note"
    assert "none in" in found["Models"][1]


@pytest.mark.parametrize("left_behind", [False, True], ids=["no socket", "a dead engine's socket"])
def test_an_engine_that_does_not_answer_is_a_note_and_leaks_nothing(tmp_path: Path, left_behind: bool) -> None:
    """Whether the engine's socket is missing or was left behind, no socket of ours stays open."""
    path = tmp_path / "docker.sock"
    if left_behind:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(str(path))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        findings = examine(LaunchSettings(artifacts=tmp_path), Ports.free(), {"DOCKER_HOST": f"unix://{path}"})
        gc.collect()
    found = {finding.what: finding.found for finding in findings}
    assert found["Docker"].startswith("no engine answers")
    assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == []


def test_a_taken_port_is_missing_and_says_how_to_choose_another(tmp_path: Path) -> None:
    """By number, use and setting."""
    ports = Ports.free()
    with socket.create_server(("127.0.0.1", ports.tfserving_rest_port)):
        grade, text = _found(tmp_path, ports)["Ports"]
    assert grade == "missing"
    assert f"{ports.tfserving_rest_port} (TensorFlow Serving over REST); set TWINSERVE_TFSERVING_REST_PORT" in text


def test_built_models_are_listed_and_broken_ones_named(tmp_path: Path) -> None:
    """A complete model with its parity; an incomplete one is missing something."""
    folder = tmp_path / "models" / "m"
    (folder / "torchscript").mkdir(parents=True)
    (folder / "torchscript" / "m.mar").touch()
    (folder / "contract.json").write_text(contract("m").to_json())
    assert _found(tmp_path, Ports.free())["Models"][0] == "missing"
    (folder / "savedmodel" / "1").mkdir(parents=True)
    (folder / "savedmodel" / "1" / "saved_model.pb").touch()
    assert _found(tmp_path, Ports.free())["Model m"] == ("ok", "built; its variants were not compared")
