"""The commands, where nothing runs and where something does."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.cli import app
from serving.local import LocalStack
from serving.processes import ServerDied
from serving.settings import LaunchSettings, Ports
from tests.unit.serving.tiny import tiny

CLI = CliRunner()


@pytest.mark.parametrize("command", ["up", "down", "status", "logs", "doctor"])
def test_every_command_explains_itself(command: str) -> None:
    """`--help` works without loading anything."""
    result = CLI.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "--artifacts" in result.output


def test_where_nothing_runs_there_is_nothing_to_stop_or_show(tmp_path: Path) -> None:
    """`down` is content, `status` exits with 3, `logs` with 1."""
    where = ["--artifacts", str(tmp_path)]
    assert CLI.invoke(app, ["down", *where]).exit_code == 0
    assert CLI.invoke(app, ["status", *where]).exit_code == 3
    missing = CLI.invoke(app, ["logs", "gateway", *where])
    assert missing.exit_code == 1
    assert "no log of 'gateway'" in missing.output


def test_status_and_logs_of_what_runs(tmp_path: Path) -> None:
    """Each server with its program, readiness and ports; each log by its name."""
    where = ["--artifacts", str(tmp_path)]
    port = Ports.free().gateway_rest_port
    with LocalStack(LaunchSettings(artifacts=tmp_path, stop_grace_s=2), stages=[[tiny("a", port)]]):
        shown = CLI.invoke(app, ["status", *where])
        assert shown.exit_code == 0
        assert all(word in shown.output for word in ("a 1.0", "yes", str(port), "MiB", "ready"))
        assert CLI.invoke(app, ["logs", "a", *where]).output == "listening\n"
        again = CLI.invoke(app, ["up", *where])
        assert again.exit_code == 1
        assert "already running" in again.output


def test_status_tells_why_the_last_run_ended(tmp_path: Path) -> None:
    """The error of a run that failed is kept."""
    server = tiny("a", Ports.free().gateway_rest_port, "--die-on-get")
    with pytest.raises(ServerDied):
        LocalStack(LaunchSettings(artifacts=tmp_path, stop_grace_s=2), stages=[[server]]).__enter__()
    shown = CLI.invoke(app, ["status", "--artifacts", str(tmp_path)])
    assert shown.exit_code == 3
    assert "The last run ended with an error:\na ended with exit code 7" in shown.output


def test_an_unknown_runtime_is_refused(tmp_path: Path) -> None:
    """The message says what there is."""
    result = CLI.invoke(app, ["up", "--runtime", "clouds", "--artifacts", str(tmp_path)])
    assert result.exit_code == 2
    assert "local" in result.output


def test_variants_are_for_processes(tmp_path: Path) -> None:
    """The containers are those of docker-compose.yml; it is said before anything is looked for."""
    told = CLI.invoke(app, ["up", "--runtime", "docker", "--variants", "onnx", "--artifacts", str(tmp_path)])
    assert told.exit_code == 1
    assert "leave out --models and --variants" in told.output
