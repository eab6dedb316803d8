"""The launcher with tiny servers: readiness, clashes, deaths, and that nothing outlives it on any way out."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from serving import reaper
from serving.interrupts import SAME_SIGNAL_S
from serving.local import AlreadyRunning, LocalStack
from serving.processes import LaunchError, NotReady, PortTaken, Server, ServerDied
from serving.settings import LaunchSettings, Ports
from serving.state import RunState, running
from tests.unit.serving import tiny_launcher
from tests.unit.serving.tiny import left_running, tiny, until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(tmp_path: Path) -> LaunchSettings:
    """A run folder of the test's own, and little patience."""
    return LaunchSettings(artifacts=tmp_path, start_timeout_s=20, stop_grace_s=2)


@pytest.fixture
def ports() -> list[int]:
    """A few free ports."""
    return list(Ports.free().model_dump().values())


def _groups(stack: LocalStack) -> list[int]:
    return [child.pid for child in stack.children]


def test_servers_start_stage_by_stage_and_end_with_the_block(settings: LaunchSettings, ports: list[int]) -> None:
    """Within the block all are ready and named; after it no process of theirs is left, workers included."""
    said: list[str] = []
    stages = [[tiny("a", ports[0], "--worker"), tiny("b", ports[1], "--slow", "0.3")], [tiny("c", ports[2])]]
    with LocalStack(settings, stages=stages, report=said.append) as stack:
        groups = _groups(stack)
        assert stack.servers == {"a": "a 1.0", "b": "b 1.0", "c": "c 1.0"}
        assert len(reaper.group_members(groups[0])) == 2
        stack.check()
        state = running(stack.run_dir)
        assert state is not None
        assert (state.status, [server.name for server in state.servers]) == ("ready", ["a", "b", "c"])
        assert (stack.run_dir / "logs" / "a.log").read_text() == "listening\n"
    assert left_running(groups) == []
    assert RunState.load(settings.run_dir) is None
    order = [line.partition(" after")[0] for line in said]
    assert order.index("b is ready") < order.index("starting c")


def test_an_exception_in_the_block_ends_the_servers(settings: LaunchSettings, ports: list[int]) -> None:
    """The exception passes through, and nothing is left."""
    groups = []

    def body() -> None:
        with LocalStack(settings, stages=[[tiny("a", ports[0], "--worker")]]) as stack:
            groups.extend(_groups(stack))
            raise RuntimeError("body")

    with pytest.raises(RuntimeError, match="body"):
        body()
    assert len(groups) == 1
    assert left_running(groups) == []


def test_a_server_that_ignores_sigterm_is_killed(settings: LaunchSettings, ports: list[int]) -> None:
    """After the grace period SIGKILL ends it."""
    short = settings.model_copy(update={"stop_grace_s": 0.2})
    with LocalStack(short, stages=[[tiny("a", ports[0], "--stubborn", "--worker")]]) as stack:
        groups = _groups(stack)
    assert left_running(groups) == []


def test_a_server_that_dies_at_start_is_named_with_its_last_words(settings: LaunchSettings, ports: list[int]) -> None:
    """The error has the exit code, the end of the log and where it is; the others are ended."""
    stages = [[tiny("good", ports[0], "--worker"), tiny("bad", ports[1], "--die-on-get")]]
    stack = LocalStack(settings, stages=stages)
    with pytest.raises(ServerDied) as died:
        stack.__enter__()
    log = settings.run_dir / "logs" / "bad.log"
    assert (died.value.name, died.value.code) == ("bad", 7)
    assert str(died.value) == f"bad ended with exit code 7. The end of {log}:\n  listening\n  last words"
    assert stack.children == ()
    state = RunState.load(settings.run_dir)
    assert state is not None
    assert (state.status, state.message) == ("failed", str(died.value))
    assert left_running(server.process.pid for server in state.servers) == []


def test_a_server_that_dies_at_start_may_be_replaced(settings: LaunchSettings, ports: list[int]) -> None:
    """By what it says of its end: another server in its place, or none; the others go on meanwhile."""
    ends: list[str] = []

    def ended(in_its_place: Server | None) -> Callable[[ServerDied], Server | None]:
        def again(died: ServerDied) -> Server | None:
            ends.append(f"{died.name} {died.code}")
            return in_its_place

        return again

    better = tiny("bad", ports[1])
    bad = replace(tiny("bad", ports[1], "--die-on-get"), again=ended(better))
    useless = replace(tiny("useless", ports[2], "--die-on-get"), again=ended(None))
    with LocalStack(settings, stages=[[tiny("good", ports[0]), bad, useless], [tiny("last", ports[3])]]) as stack:
        assert sorted(stack.servers) == ["bad", "good", "last"]
        stack.stop_server("bad")
        assert stack.start_server("bad").server is better
    assert sorted(ends) == ["bad 7", "useless 7"]


def test_a_server_that_dies_while_the_stack_is_up_is_noticed(settings: LaunchSettings, ports: list[int]) -> None:
    """`check` raises, naming the signal; what the server had started is ended with the rest."""
    with LocalStack(settings, stages=[[tiny("a", ports[0], "--worker"), tiny("b", ports[1])]]) as stack:
        groups = _groups(stack)
        os.kill(groups[0], signal.SIGKILL)
        with pytest.raises(ServerDied, match="a was ended by SIGKILL"):
            stack.watch()
    assert left_running(groups) == []


def test_a_server_that_never_gets_ready_is_given_up(settings: LaunchSettings, ports: list[int]) -> None:
    """The error says what was waited for, for how long, and shows the log."""
    hasty = settings.model_copy(update={"start_timeout_s": 0.5})
    with pytest.raises(NotReady, match=r"a is not ready after 0.5 s: it lacks an answer.\nThe end of .*\n  listening"):
        LocalStack(hasty, stages=[[tiny("a", ports[0], ready=False)]]).__enter__()


def test_a_command_that_does_not_exist_is_a_clear_error(settings: LaunchSettings) -> None:
    """The shell's own message is in the error."""
    server = tiny("ghost", 1)
    missing = type(server)("ghost", ["/no/such/program"], server.waiting_for, server.describe)
    with pytest.raises(ServerDied, match="ghost ended with exit code 127"):
        LocalStack(settings, stages=[[missing]]).__enter__()


def test_a_taken_port_is_named_with_its_setting_before_anything_starts(
    settings: LaunchSettings, ports: list[int]
) -> None:
    """The message has the port, what it is for, who holds it if that can be seen, and the setting to change."""
    stack = LocalStack(settings, stages=[[tiny("a", ports[0])], [tiny("b", ports[1])]])
    with socket.create_server(("127.0.0.1", ports[1])), pytest.raises(PortTaken) as taken:
        stack.__enter__()
    assert str(taken.value) == f"port {ports[1]} is taken (b over HTTP); set TWINSERVE_B_PORT or --b-port"
    assert not (settings.run_dir / "logs").exists()


def test_a_port_asked_for_twice_is_refused(settings: LaunchSettings, ports: list[int]) -> None:
    """Two servers with one port never start."""
    with pytest.raises(PortTaken, match="asked for twice"):
        LocalStack(settings, stages=[[tiny("a", ports[0]), tiny("b", ports[0])]]).__enter__()


def test_a_second_launcher_on_the_same_folder_is_refused(settings: LaunchSettings, ports: list[int]) -> None:
    """The first one goes on undisturbed, and its state is still there."""
    with LocalStack(settings, stages=[[tiny("a", ports[0])]]) as stack:
        with pytest.raises(AlreadyRunning, match="twinserve down"):
            LocalStack(settings, stages=[[tiny("b", ports[1])]]).__enter__()
        stack.check()
        assert running(settings.run_dir) is not None
    with LocalStack(settings, stages=[[tiny("a", ports[0])]]):
        pass


def test_nothing_to_serve_is_a_clear_error(settings: LaunchSettings) -> None:
    """Without models the error says how to build them."""
    with pytest.raises(LaunchError, match="twinserve models build"):
        LocalStack(settings, Ports.free()).__enter__()


@contextmanager
def _launcher(artifacts: Path, then: str, ports: list[int]) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    command = [sys.executable, "-m", tiny_launcher.__name__, str(artifacts), then, str(ports[0]), str(ports[1])]
    # As a shell starts jobs in the background: SIGINT is ignored, unless the launcher asks for it.
    with subprocess.Popen(
        ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        groups = [int(word) for word in process.stdout.readline().split()]
        try:
            yield process, groups
        finally:
            process.kill()
            until(lambda: left_running(groups) == [])


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_end_the_servers_before_the_launcher(
    tmp_path: Path, ports: list[int], number: signal.Signals, code: int
) -> None:
    """When the launcher has ended after Ctrl-C, SIGTERM or a lost terminal, nothing is left; nor is its state."""
    with _launcher(tmp_path, "wait", ports) as (process, groups):
        assert len(left_running(groups)) == 4
        process.send_signal(number)
        assert process.wait(10) == code
        assert left_running(groups) == []
        assert RunState.load(tmp_path / "run") is None


@pytest.mark.parametrize("gap", [0.0, 0.01])
def test_a_signal_sent_twice_at_once_leaves_nothing_either(tmp_path: Path, ports: list[int], gap: float) -> None:
    """`timeout` sends a signal to the process and to its group: the second one must not cut the ending short."""
    with _launcher(tmp_path, "wait", ports) as (process, groups):
        process.send_signal(signal.SIGINT)
        time.sleep(gap)
        process.send_signal(signal.SIGINT)
        process.wait(10)
        assert left_running(groups) == []


def test_a_second_signal_hurries(tmp_path: Path, ports: list[int]) -> None:
    """Servers that ignore SIGTERM are waited for; whoever presses Ctrl-C again does not want to wait."""
    with _launcher(tmp_path, "stubborn", ports) as (process, groups):
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2 * SAME_SIGNAL_S)
        process.send_signal(signal.SIGINT)
        process.wait(10)
        assert left_running(groups) == []


def test_an_exception_ends_the_servers_before_the_launcher(tmp_path: Path, ports: list[int]) -> None:
    """A launcher that fails leaves nothing."""
    with _launcher(tmp_path, "raise", ports) as (process, groups):
        assert process.wait(10) == 1
        assert len(groups) == 2
        assert left_running(groups) == []


@pytest.mark.parametrize("then", ["wait", "thread"])
def test_servers_end_when_the_launcher_is_killed(tmp_path: Path, ports: list[int], then: str) -> None:
    """SIGKILL leaves the launcher no time: its reaper ends the servers and their workers, whoever started them."""
    with _launcher(tmp_path, then, ports) as (process, groups):
        assert len(left_running(groups)) == 4
        process.kill()
        process.wait()
        until(lambda: left_running(groups) == [])
        assert running(tmp_path / "run") is None
    # The folder's lock went with the process: the next launcher starts.
    with LocalStack(LaunchSettings(artifacts=tmp_path, stop_grace_s=2), stages=[[tiny("a", ports[0])]]):
        pass


def test_two_instances_run_side_by_side(tmp_path: Path, ports: list[int]) -> None:
    """Different folders and ports: neither knows of the other."""
    one = LocalStack(LaunchSettings(artifacts=tmp_path / "one"), stages=[[tiny("a", ports[0])]])
    two = LocalStack(LaunchSettings(artifacts=tmp_path / "two"), stages=[[tiny("a", ports[1])]])
    with one, two:
        one.check()
        two.check()
