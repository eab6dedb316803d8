"""The configured servers of a campaign: those that run already, or those that it starts and ends itself."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from gateway.core.contract import ContractError, ModelContract
from loadtests.addresses import Addresses
from loadtests.errors import LoadTestError
from loadtests.store.stored import read_object
from serving.local import LocalStack
from serving.models import build_command, build_models, finished_step
from serving.processes import LaunchError, PortTaken
from serving.servers import every_port
from serving.settings import LaunchSettings, Ports, is_free
from serving.state import RunState, running

Report = Callable[[str], None]
# The ports of each server, in the order in which the launcher's state lists them.
_LISTED: dict[str, tuple[str, ...]] = {
    "gateway": ("gateway_rest", "gateway_grpc"),
    "torchserve": ("torchserve_rest", "torchserve_management", "torchserve_metrics", "torchserve_grpc"),
    "tfserving": ("tfserving_grpc", "tfserving_rest"),
    "tfserving-nograppler": ("tfserving_nograppler_grpc", "tfserving_nograppler_rest"),
}
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Restarted:
    """A server's way back: seconds from the start of its process until it said it was ready, and that instant."""

    began: float
    ready_s: float


@dataclass(slots=True)
class Fleet:
    """The running servers: what each is, where it listens, and its process.

    `stack` is there where this campaign started them: only those can be restarted. `management` is TorchServe's address
    for questions about its models, empty where it is not known.
    """

    addresses: Addresses
    servers: Mapping[str, str] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    stack: LocalStack | None = None
    management: str = ""

    def check(self) -> None:
        """Raises LoadTestError where a server has ended by itself."""
        if self.stack is not None:
            try:
                self.stack.check()
            except LaunchError as exc:
                raise LoadTestError(str(exc)) from exc
            return
        for name, pid in self.pids.items():
            if not psutil.pid_exists(pid):
                raise LoadTestError(f"{name} has ended while it was measured; `twinserve logs {name}` says why")

    def restart(self, name: str) -> Restarted:
        """Ends a server and starts it again; returns when it is ready. Raises LoadTestError where it is not ours."""
        if self.stack is None:
            raise LoadTestError(
                f"'{name}' was not started by this campaign, so it is not restarted for a cold start: "
                "`twinserve down` first, and the campaign starts the servers itself"
            )
        try:
            self.stack.stop_server(name)
            began = time.perf_counter()
            child = self.stack.start_server(name)
            # As patient as at its first start: some need long for what they load.
            deadline = began + self.stack.settings.start_timeout_s + child.server.allowance_s
            while (lacks := child.server.waiting_for()) is not None:
                child.raise_if_dead()
                if time.perf_counter() > deadline:
                    raise LoadTestError(f"{name} is not ready again: it lacks {lacks}; its log is {child.log}")
                time.sleep(_POLL_S)
        except LaunchError as exc:
            raise LoadTestError(str(exc)) from exc
        ready = time.perf_counter()
        self.pids[name] = child.pid
        return Restarted(began, ready - began)


def variants_of(models_dir: Path) -> dict[str, dict[str, str]]:
    """Every model with a contract, by name, with its variants and the stack that serves each: each stack's own first.

    The others are what `variants/<variant>/variant.json` says is available.
    """
    try:
        # A hidden folder is a build that goes on, or was interrupted.
        contracts = {path.parent: ModelContract.load(path) for path in sorted(models_dir.glob("[!.]*/contract.json"))}
    except ContractError as exc:
        raise LoadTestError(str(exc)) from exc
    return {contract.name: {**(contract.variants or {}), **_built(folder)} for folder, contract in contracts.items()}


def _built(folder: Path) -> dict[str, str]:
    records = [read_object(path) for path in sorted(folder.glob("variants/[!.]*/variant.json"))]
    return {str(each["variant"]): str(each["stack"]) for each in records if each.get("available")}


def build_where_missing(models_dir: Path, report: Report) -> None:
    """Builds the models where there are none at all, as `twinserve up` does."""
    if not variants_of(models_dir):
        report(f"No models in {models_dir}: building them takes a minute or two.")
        try:
            build_models(build_command(models_dir), lambda event: report(finished_step(event)))
        except (LaunchError, subprocess.SubprocessError) as exc:
            raise LoadTestError(str(exc)) from exc


def choose_ports(artifacts: Path) -> tuple[RunState | None, Ports]:
    """What runs already, and the ports that a stack of our own would take: the usual ones, or any free ones."""
    settings = LaunchSettings(artifacts=artifacts)
    ports = Ports()
    if not all(is_free(port.number, settings.host) for port in every_port(ports)):
        ports = Ports.free(settings.host)
    return running(settings.run_dir), ports


def addresses_of(state: RunState | None, ports: Ports, host: str) -> Addresses:
    """Where the servers listen, or will."""
    # What no launcher of this version starts keeps its usual address.
    numbers = {key: found for key in Addresses.__slots__ if (found := getattr(ports, f"{key}_port", None))}
    for server in state.servers if state else ():
        numbers |= dict(zip(_LISTED.get(server.name, ()), server.ports, strict=False))
    return Addresses(**{key: f"{host}:{number}" for key, number in numbers.items() if key in Addresses.__slots__})


@contextmanager
def fleet_of(
    artifacts: Path,
    *,
    needed: bool,
    report: Report,
    stack: LocalStack | None = None,
    variants: Sequence[str] = (),
    models: Sequence[str] = (),
) -> Iterator[Fleet]:
    """The servers: `stack` where it is given, those of `twinserve up` where they run, else started and ended here.

    With `variants` beside the stacks' own, only `models` are served. Without `needed` nothing is started. Raises
    LoadTestError where they cannot be started.
    """
    if stack is not None:
        yield _fleet_of_stack(stack)
        return
    state, ports = choose_ports(artifacts)
    settings = LaunchSettings(artifacts=artifacts)
    if variants:
        settings = LaunchSettings(artifacts=artifacts, variants=",".join(variants), models=",".join(models))
    addresses = addresses_of(state, ports, settings.host)
    if not needed:
        yield Fleet(addresses)
        return
    if state is not None:
        if state.status != "ready":
            raise LoadTestError("the servers are starting; try again when `twinserve status` says that they are ready")
        report(f"Using the servers that run (launcher process {state.launcher.pid}).")
        names = {server.name: server.description for server in state.servers}
        pids = {server.name: server.process.pid for server in state.servers}
        listed = {server.name: server.ports for server in state.servers}
        management = f"{settings.host}:{listed['torchserve'][1]}" if len(listed.get("torchserve", ())) > 1 else ""
        yield Fleet(addresses, names, pids, management=management)
        return
    with ExitStack() as running_here:
        yield _fleet_of_stack(_started(settings, ports, report, running_here))


def _fleet_of_stack(stack: LocalStack) -> Fleet:
    host, ports = stack.settings.host, stack.ports
    pids = {child.server.name: child.pid for child in stack.children}
    management = f"{host}:{ports.torchserve_management_port}"
    return Fleet(addresses_of(None, ports, host), dict(stack.servers), pids, stack, management)


def _started(settings: LaunchSettings, ports: Ports, report: Report, running_here: ExitStack) -> LocalStack:
    try:
        try:
            return running_here.enter_context(LocalStack(settings, ports, report=report))
        except PortTaken:
            # Somebody was faster; nobody needs to find these servers, so that any ports will do.
            return running_here.enter_context(LocalStack(settings, Ports.free(settings.host), report=report))
    except LaunchError as exc:
        raise LoadTestError(f"the servers did not start: {exc}") from exc
