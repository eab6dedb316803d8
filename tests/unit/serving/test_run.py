"""Following logs, asking for readiness, stopping what does not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.local import AlreadyRunning, LocalStack
from serving.run import follow_logs, is_ready, run_attached, stop
from serving.settings import LaunchSettings, Ports
from serving.state import RunState
from tests.unit.serving.tiny import tiny


def test_the_end_of_each_log_is_shown_with_its_name(tmp_path: Path) -> None:
    """With several logs every line says whose it is; with one it does not."""
    a, b = tmp_path / "a.log", tmp_path / "b.log"
    a.write_text("1\n2\n3\n")
    b.write_text("4\n")
    assert list(follow_logs([a, b], 2, follow=False)) == ["a          | 2", "a          | 3", "b          | 4"]
    assert list(follow_logs([a], 2, follow=False)) == ["2", "3"]
    assert list(follow_logs([a], 0, follow=False)) == []


def test_following_yields_whole_lines_and_begins_anew_with_a_new_log(tmp_path: Path) -> None:
    """Half a line waits for its end; a log that was started again is read from its beginning."""
    log = tmp_path / "a.log"
    log.write_text("old\n")
    lines = follow_logs([log], 1, follow=True)
    assert next(lines) == "old"
    with log.open("a") as file:
        file.write("new\nha")
    assert next(lines) == "new"
    with log.open("a") as file:
        file.write("lf\n")
    assert next(lines) == "half"
    log.write_text("2\n")
    assert next(lines) == "2"


def test_stopping_nothing_says_nothing(tmp_path: Path) -> None:
    """Where no run is recorded there is nothing to stop."""
    assert stop(LaunchSettings(artifacts=tmp_path)) == ""


def test_a_second_run_is_refused_and_servers_are_asked(tmp_path: Path) -> None:
    """While one runs in the folder another is refused at once, and the first answers its health check."""
    settings = LaunchSettings(artifacts=tmp_path, stop_grace_s=2)
    with LocalStack(settings, stages=[[tiny("a", Ports.free().gateway_rest_port)]]):
        state = RunState.load(settings.run_dir)
        assert state is not None
        (server,) = state.servers
        assert is_ready(server)
        with pytest.raises(AlreadyRunning, match=r"already running .launcher process .* `twinserve down`"):
            run_attached(settings, Ports.free(), print, print)
    assert not is_ready(server)
