"""Runs the servers in the foreground or behind it, and finds and stops them again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from serving.interrupts import Interrupts
from serving.local import AlreadyRunning, LocalStack
from serving.models import build_command, build_models, find_models, finished_step
from serving.probes import ask
from serving.processes import LaunchError, tail
from serving.settings import PREFIX, LaunchSettings, Ports
from serving.state import RunState, ServerState, running

Report = Callable[[str], None]
POLL_S = 0.2
LAUNCHER_LOG = "launcher.log"


def run_attached(settings: LaunchSettings, ports: Ports, report: Report, on_ready: Callable[[RunState], None]) -> None:
    """Runs the servers until a signal, or until one of them dies: raises LaunchError, KeyboardInterrupt, SystemExit."""
    _refuse_second(settings)
    with Interrupts():
        _ensure_models(settings, report)
    with LocalStack(settings, ports, report=report) as stack:
        state = RunState.load(stack.run_dir)
        if state is not None:
            on_ready(state)
        stack.watch()


def run_detached(settings: LaunchSettings, ports: Ports, report: Report) -> RunState:
    """Starts a launcher in a session of its own, and returns its state when all is ready; raises LaunchError.

    Interrupted while it waits, it ends that launcher again.
    """
    _refuse_second(settings)
    with Interrupts():
        _ensure_models(settings, report)
        log = settings.run_dir / "logs" / LAUNCHER_LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            launcher = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "serving", "up", "--brief", "--artifacts", str(settings.artifacts.resolve())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_as_environment(settings, ports), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        try:
            return _wait_until_ready(settings, launcher, log, report)
        except BaseException:
            launcher.terminate()
            launcher.wait()
            raise


def stop(settings: LaunchSettings) -> str:
    """Ends the run that goes on, and waits for its end; returns what was done, empty where nothing ran."""
    state = running(settings.run_dir)
    if state is None:
        return ""
    launcher = state.launcher
    os.kill(launcher.pid, signal.SIGTERM)
    # Two stages, each with its grace period.
    deadline = time.monotonic() + 2 * settings.stop_grace_s + 5
    while launcher.runs() and time.monotonic() < deadline:
        time.sleep(POLL_S / 4)
    if launcher.runs():
        # Its reaper ends the servers.
        os.kill(launcher.pid, signal.SIGKILL)
    while (
        any(server.process.runs() for server in state.servers) and time.monotonic() < deadline + settings.stop_grace_s
    ):
        time.sleep(POLL_S / 4)
    names = ", ".join(server.name for server in state.servers) or "the launcher"
    return f"Stopped {names}."


def is_ready(server: ServerState) -> bool:
    """Whether a server answers its health check with 200 now."""
    url = urlsplit(server.health)
    answer = ask(url.hostname, url.port, url.path) if url.hostname and url.port else None
    return answer is not None and answer.status == 200


def follow_logs(paths: Sequence[Path], lines: int, *, follow: bool) -> Iterator[str]:
    """The last lines of each log, and with `follow` every line written later; named where there are several."""
    label = {path: f"{path.stem:<10} | " if len(paths) > 1 else "" for path in paths}
    ends = {path: path.stat().st_size for path in paths}
    for path in paths:
        yield from (label[path] + line for line in (tail(path, lines) if lines else ()))
    rest = dict.fromkeys(paths, b"")
    while follow:
        time.sleep(POLL_S)
        for path in paths:
            with path.open("rb") as file:
                # A smaller file is a new one, of a new run.
                ends[path] = ends[path] if path.stat().st_size >= ends[path] else 0
                file.seek(ends[path])
                news = file.read()
                ends[path] += len(news)
            *whole, rest[path] = (rest[path] + news).split(b"\n")
            yield from (label[path] + line.decode(errors="replace") for line in whole)


def _refuse_second(settings: LaunchSettings) -> None:
    state = running(settings.run_dir)
    if state is not None:
        raise AlreadyRunning(
            f"already running (launcher process {state.launcher.pid}, {state.status}); the gateway is "
            f"{state.gateway_rest}. `twinserve down` stops it"
        )


def _tell(text: str, report: Report) -> None:
    if text:
        report(text)


def _ensure_models(settings: LaunchSettings, report: Report) -> None:
    if not find_models(settings.models_dir):
        report(f"No models in {settings.models_dir}: building them takes a minute or two.")
        build_models(build_command(settings.models_dir), lambda event: _tell(finished_step(event), report))


def _as_environment(settings: LaunchSettings, ports: Ports) -> dict[str, str]:
    values = {**settings.model_dump(exclude={"artifacts"}), **ports.model_dump()}
    return {f"{PREFIX}{name.upper()}": str(value) for name, value in values.items()}


def _wait_until_ready(
    settings: LaunchSettings, launcher: subprocess.Popen[bytes], log: Path, report: Report
) -> RunState:
    reported = 0
    while True:
        # In this order: what was said before the end, or before all was ready, is not missed.
        code, state = launcher.poll(), RunState.load(settings.run_dir)
        said = log.read_text(errors="replace").splitlines()
        for line in said[reported:]:
            report(line)
        reported = len(said)
        if code is not None:
            raise LaunchError(f"the servers did not start; the reason is above, and in {log}")
        if state is not None and state.status == "ready" and state.launcher.pid == launcher.pid:
            return state
        time.sleep(POLL_S)
