"""The launcher without Docker: every server a process of this machine, none of which outlives it."""

from __future__ import annotations

import atexit
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from serving import servers
from serving.interrupts import Interrupts
from serving.models import find_models, to_serve
from serving.probes import owner_of
from serving.processes import Child, LaunchError, NotReady, Port, PortTaken, Processes, Server, ServerDied, tail
from serving.settings import LaunchSettings, Ports, is_free
from serving.state import ProcessId, RunState, ServerState

Report = Callable[[str], None]
POLL_S = 0.1
STILL_WAITING_S = 15.0


class AlreadyRunning(LaunchError):  # noqa: N818 - reads as what happened
    """Raised where another launcher uses the same run folder."""


def _silent(_: str) -> None:
    pass


class LocalStack:
    """TorchServe, TensorFlow Serving (or the stand-in) and the gateway, running inside the `with` block.

    `report` is told in one line what happens. `stages` replaces the servers: those of one stage start together, the
    next stage when all of them are ready. Entering raises LaunchError: no model is built, no Java, a port is taken,
    a server died or did not answer in time; whatever was started has ended by then. In the main thread, SIGTERM and
    SIGHUP end the block as Ctrl-C does; a second signal makes the servers end at once.
    """

    def __init__(
        self,
        settings: LaunchSettings | None = None,
        ports: Ports | None = None,
        *,
        stages: Sequence[Sequence[Server]] | None = None,
        report: Report = _silent,
    ) -> None:
        self.settings = settings or LaunchSettings()
        self.ports = ports or Ports()
        self.run_dir = self.settings.run_dir
        self._stages = stages
        self._report = report
        self._patience_s = self.settings.start_timeout_s
        self._exit = ExitStack()
        self._servers: dict[str, Server] = {}
        self._descriptions: dict[str, str] = {}
        self._launcher = ProcessId.of(os.getpid())
        self._interrupts = Interrupts()
        self._processes = Processes(
            self.run_dir / "logs", self.run_dir, self.settings.stop_grace_s, hurry=lambda: self._interrupts.hurry
        )

    @property
    def servers(self) -> dict[str, str]:
        """The program that really runs as each server, with its version, such as `TorchServe 0.12.0`."""
        return {child.server.name: child.description for child in self._processes.children}

    @property
    def children(self) -> tuple[Child, ...]:
        """The processes, in the order of their start."""
        return self._processes.children

    @property
    def gateway_rest(self) -> str:
        """The base URL of the gateway's REST port."""
        return f"http://{self.settings.host}:{self.ports.gateway_rest_port}"

    @property
    def gateway_grpc(self) -> str:
        """The address of the gateway's gRPC port."""
        return f"{self.settings.host}:{self.ports.gateway_grpc_port}"

    @property
    def gateway_admin(self) -> str:
        """The base URL of the gateway's operator's port, which is always on the loopback address."""
        return f"http://127.0.0.1:{self.ports.gateway_admin_port}"

    def __enter__(self) -> Self:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with ExitStack() as cleanup:
            cleanup.enter_context(_sole_user_of(self.run_dir))
            cleanup.enter_context(self._interrupts)
            try:
                self._enter(cleanup)
            except BaseException:
                self._interrupts.close()
                raise
            self._exit = cleanup.pop_all()
        # Should the block be left without __exit__, the servers end when Python does.
        atexit.register(self._exit.close)
        return self

    def _enter(self, cleanup: ExitStack) -> None:
        cleanup.push(self._leave_state)
        self._save_state("starting")
        stages = self._stages
        if stages is None:
            settings = self.settings
            built = find_models(settings.models_dir)
            models = to_serve(built, settings.models, settings.variants, self._report) if built else ()
            stages = servers.all_servers(settings, self.ports, models, self._report)
            cleanup.callback(servers.remove_temporary, self.run_dir)
        check_ports((port for stage in stages for server in stage for port in server.ports), self.settings.host)
        cleanup.enter_context(self._processes)
        cleanup.callback(self._stop_stages, stages)
        self._patience_s = self.settings.start_timeout_s + sum(one.allowance_s for stage in stages for one in stage)
        deadline = time.monotonic() + self._patience_s
        for stage in stages:
            self._start(stage, deadline)
        self._save_state("ready")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._interrupts.close()
        atexit.unregister(self._exit.close)
        self._exit.__exit__(kind, error, trace)

    def check(self) -> None:
        """Raises ServerDied, with its last words, where a server has ended by itself."""
        self._processes.check()

    def watch(self) -> None:
        """Returns never: raises ServerDied when a server ends by itself."""
        while True:
            self.check()
            time.sleep(5 * POLL_S)

    def stop_server(self, name: str) -> None:
        """Ends one server, for `start_server` to start it again; until then nobody misses it."""
        self._processes.stop([child for child in self._processes.children if child.server.name == name])

    def start_server(self, name: str) -> Child:
        """Starts a server again by its own command; does not wait for it. Raises LaunchError where there is no such."""
        server = self._servers.get(name)
        if server is None:
            raise LaunchError(f"no server '{name}' was started; there are: {', '.join(self._servers)}")
        child = self._processes.start(server)
        child.description = self._descriptions.get(name, "")
        self._save_state("ready")
        return child

    def _save_state(self, status: Literal["starting", "ready"]) -> None:
        servers = [
            ServerState(
                name=child.server.name,
                process=ProcessId.of(child.pid),
                url=child.server.url,
                health=child.server.url + child.server.health,
                ports=tuple(port.number for port in child.server.ports),
                log=str(child.log),
                description=child.description,
            )
            for child in self._processes.children
        ]
        self._state = RunState(
            self._launcher,
            status,
            self.gateway_rest,
            self.gateway_grpc,
            tuple(servers),
            gateway_admin=self.gateway_admin,
        )
        self._state.save(self.run_dir)

    def _leave_state(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, LaunchError):
            self._state.failed(str(error)).save(self.run_dir)
        else:
            RunState.remove(self.run_dir)

    def _start(self, stage: Sequence[Server], deadline: float) -> None:
        began = time.monotonic()
        waiting: dict[str, Child] = {}
        for server in stage:
            waiting[server.name] = self._launch(server)
        self._save_state("starting")
        next_report = began + STILL_WAITING_S
        while waiting:
            missing = {}
            for name in list(waiting):
                self._replace_dead(waiting)
                child = waiting.get(name)
                if child is None:
                    continue
                lacks = child.server.waiting_for()
                if lacks is None:
                    child.description = self._descriptions[name] = child.server.describe()
                    self._report(f"{name} is ready after {time.monotonic() - began:.1f} s: {child.description}")
                    del waiting[name]
                else:
                    missing[name] = lacks
            if missing and time.monotonic() > deadline:
                raise NotReady(self._overdue(missing))
            if missing and time.monotonic() > next_report:
                next_report += STILL_WAITING_S
                self._report("; ".join(f"{name} waits for {lacks}" for name, lacks in missing.items()))
            if waiting:
                time.sleep(POLL_S)

    def _launch(self, server: Server) -> Child:
        server.prepare()
        child = self._processes.start(server)
        self._servers[server.name] = server
        self._report(" ".join(filter(None, (f"starting {server.name}", server.note))))
        return child

    def _replace_dead(self, waiting: dict[str, Child]) -> None:
        """Starts what there is in the place of a server that died before it was ready; raises ServerDied for others."""
        try:
            self.check()
        except ServerDied as died:
            child = waiting.get(died.name)
            if child is None or child.server.again is None:
                raise
            left = child.server.again(died)
            self._processes.stop([child])
            del waiting[died.name], self._servers[died.name]
            if left is not None:
                waiting[died.name] = self._launch(left)
            self._save_state("starting")

    def _overdue(self, missing: dict[str, str]) -> str:
        lines = []
        for name, lacks in missing.items():
            log = self.run_dir / "logs" / f"{name}.log"
            lines.append(f"{name} is not ready after {self._patience_s:g} s: it lacks {lacks}.")
            lines += [f"The end of {log}:", *(f"  {line}" for line in tail(log))]
        return "\n".join(lines)

    def _stop_stages(self, stages: Sequence[Sequence[Server]]) -> None:
        # The gateway first, so that it ends the requests in flight while the servers still answer.
        for stage in reversed(stages):
            names = {server.name for server in stage}
            self._processes.stop([child for child in self._processes.children if child.server.name in names])


def check_ports(ports: Iterable[Port], host: str) -> None:
    """Raises PortTaken, naming each port that is not free and how to choose another."""
    faults, uses = [], dict[int, Port]()
    for port in ports:
        other = uses.setdefault(port.number, port)
        if other is not port:
            faults.append(f"port {port.number} is asked for twice ({other.use}; {port.use}); set {port.setting}")
        elif not is_free(port.number, host):
            faults.append(f"port {port.number} is taken{owner_of(port.number)} ({port.use}); set {port.setting}")
    if faults:
        raise PortTaken("\n".join(faults))


@contextmanager
def _sole_user_of(folder: Path) -> Iterator[None]:
    """Holds a lock of the folder; the kernel releases it when this process ends, however it ends."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(
                f"servers already run with their files in {folder}; `twinserve down` stops them, "
                f"TWINSERVE_ARTIFACTS or --artifacts chooses another folder"
            ) from None
        yield
