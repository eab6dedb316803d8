"""The composition root of one worker: settings -> backends -> endpoints -> router -> data plane -> front ends.

The one place where the parts meet: each receives values, none receives the settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI

from gateway.backends import registry as backends
from gateway.backends.torchserve import Handlers
from gateway.codecs.torchserve_payloads import Framed, Payload, payload_of
from gateway.core.backend import Backend
from gateway.core.clock import Clock, SystemClock
from gateway.core.contract import ContractError, ModelContract
from gateway.core.observer import Observer
from gateway.dataplane import DataPlane
from gateway.frontends.edge import Admission, Limits
from gateway.frontends.grpc.server import create_server
from gateway.frontends.rest.app import create_app
from gateway.frontends.rest.http_protocol import BoundedHttpProtocol
from gateway.resilience.deadline import deadline
from gateway.routing.discovery import Discovery, Listed, Plan
from gateway.routing.endpoint import Endpoint, Target
from gateway.routing.health import HealthMonitor
from gateway.routing.router import Router
from gateway.routing.table import Batching, Mirroring, RouteTable, Traffic
from gateway.settings import EndpointSettings, LimitSettings, ModelSettings, Settings, SettingsError
from gateway.stacks import EndpointStack
from gateway.telemetry.histogram import Registry
from gateway.telemetry.metrics import PrometheusObserver, render
from gateway.traffic_settings import BatchingSettings

logger = logging.getLogger(__name__)

# Room for the protocol's own bytes around tensors of the largest allowed size.
REPLY_OVERHEAD_BYTES = 1 << 20
# TorchServe runs a job to its end, whoever has left (pytorch/serve issue 2814).
GOES_ON_WHEN_CANCELLED = frozenset({"torchserve"})
HANDLER_HINT = (
    "; a handler that is not twinserve's own also needs a contract, and `payload` on the target: see "
    "docs/torchserve-handlers.md"
)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the gateway really listens."""

    host: str
    rest_port: int
    grpc_port: int


def load_contracts(settings: Settings) -> dict[str, ModelContract]:
    """The contract of every model that has one; raises SettingsError with every problem that was found."""
    contracts: dict[str, ModelContract] = {}
    problems = []
    for name, model in settings.models.items():
        if model.contract is None:
            if model.cross_stack:
                problems.append(f"models.{name}.cross_stack: needs a contract, whose parity has passed")
            continue
        try:
            contract = ModelContract.load(model.contract)
        except ContractError as exc:
            problems.append(f"models.{name}.contract: {exc}")
            continue
        if contract.name != name:
            problems.append(f"models.{name}.contract: {model.contract} is the contract of '{contract.name}'")
        if model.cross_stack and (contract.parity is None or not contract.parity.passed):
            problems.append(
                f"models.{name}.cross_stack: the variants' parity has not passed by {model.contract}; "
                "`twinserve models verify` compares them, and until then the other stack may answer something else"
            )
        contracts[name] = contract
    if problems:
        raise SettingsError("\n".join(problems))
    return contracts


def plan_of(settings: Settings, contracts: Mapping[str, ModelContract]) -> Plan:
    """What the configuration says of models, in the terms of routing."""
    listed = {
        name: Listed(
            contracts.get(name), _targets(name, model), model.labels, model.versions(), traffic_of(name, model)
        )
        for name, model in settings.models.items()
    }
    hints = {name: HANDLER_HINT for name, spec in settings.endpoints.items() if spec.stack == "torchserve"}
    return Plan(listed, {name: spec.models for name, spec in settings.endpoints.items()}, hints)


def handlers_of(settings: Settings, contracts: Mapping[str, ModelContract], endpoint: str) -> Handlers:
    """How the handler of each model on a TorchServe endpoint is spoken to, by the server's own names.

    Raises SettingsError where a target's settings do not fit the model's contract, saying what to write, and where two
    targets describe the same handler differently.
    """
    found: dict[tuple[str, int | None], Payload] = {}
    described: dict[tuple[str, int | None], object] = {}
    versions = settings.versions_on(endpoint)
    for name, target in settings.targets_on(endpoint):
        fields = target.handler_on(settings.endpoints[endpoint]).handler_fields()
        key = (target.model or name, target.version)
        where = f"models.{name}: target '{endpoint}'"
        if name not in contracts:
            if fields.get("payload", "framed") != "framed":
                raise SettingsError(
                    f"{where}: payload {fields['payload']} needs the model's contract; write `contract`"
                )
            found[key] = Framed(versions[key[0]])
            continue
        contract = contracts[name].renamed(target.names)
        try:
            found[key] = payload_of(contract, versions=versions[key[0]], **fields)
        except ValueError as exc:
            raise SettingsError(f"{where}: {exc}") from exc
        # Our own frame names the tensors, so that every target may have names of its own for them.
        meant = (fields, contract.inputs, contract.outputs, contract.batch_cap)
        description = "framed" if isinstance(found[key], Framed) else meant
        if described.setdefault(key, description) != description:
            raise SettingsError(f"{where}: another target describes the handler of model '{key[0]}' there differently")
    return found


async def serve(
    settings: Settings,
    contracts: Mapping[str, ModelContract],
    stop: asyncio.Event,
    on_listening: Callable[[Addresses], None] = lambda _: None,
) -> None:
    """Serves until `stop` is set, then drains. `on_listening` is told the addresses once both ports are open.

    Raises SettingsError where a port is taken. Every task started here has ended when this returns.
    """
    clock = SystemClock()
    metrics = Registry()
    observer = PrometheusObserver(metrics)
    async with AsyncExitStack() as cleanup:
        endpoints = await cleanup.enter_async_context(connected(settings, contracts, clock, observer))
        health = HealthMonitor(endpoints.values(), observer=observer)
        router = Router(RouteTable({}), endpoints, health, clock=clock, observer=observer)
        cleanup.push_async_callback(router.close)
        health.discover(Discovery(plan_of(settings, contracts), clock), router.replace)
        data_plane = DataPlane(router, deadline(clock))
        limits = _limits(settings.limits)
        # One admission for both doors: the limits bound the gateway, not each protocol.
        admission = Admission(limits)
        observer.watch_in_flight(lambda: admission.in_flight, lambda: admission.in_flight_bytes)
        app = create_app(
            data_plane,
            limits=limits,
            observer=observer,
            clock=clock,
            render_metrics=lambda: render(metrics),
            admission=admission,
        )
        grpc_server = create_server(data_plane, limits=limits, observer=observer, clock=clock, admission=admission)
        listener = cleanup.enter_context(listening(settings.server.host, settings.server.rest_port))
        try:
            grpc_port = grpc_server.add_insecure_port(authority(settings.server.host, settings.server.grpc_port))
        except RuntimeError as exc:
            raise _taken(settings.server.host, settings.server.grpc_port, "grpc_port") from exc
        rest_server = _RestServer(app, settings.server.drain_seconds)
        await cleanup.enter_async_context(_running(health.run(), "health"))
        await grpc_server.start()
        cleanup.push_async_callback(grpc_server.stop, settings.server.drain_seconds)
        data_plane.start()
        on_listening(Addresses(settings.server.host, listener.getsockname()[1], grpc_port))
        await _serve_rest_until(stop, rest_server, listener, data_plane)


async def _serve_rest_until(
    stop: asyncio.Event, server: _RestServer, listener: socket.socket, data_plane: DataPlane
) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="rest")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        logger.info("draining")
        data_plane.drain()
        stopping.cancel()
        server.should_exit = True
        await serving


class _RestServer(uvicorn.Server):
    """uvicorn without signal handlers of its own: signals belong to the process, not to one of its servers."""

    def __init__(self, app: FastAPI, drain_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                # A client is its connection's peer, whatever a header of its own says.
                proxy_headers=False,
                http=BoundedHttpProtocol,
                ws="none",
                timeout_graceful_shutdown=max(1, round(drain_seconds)),
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


@asynccontextmanager
async def connected(
    settings: Settings, contracts: Mapping[str, ModelContract], clock: Clock, observer: Observer
) -> AsyncIterator[dict[str, Endpoint]]:
    """Every endpoint, by its name; nothing is sent yet. All connections are closed at the end."""
    async with AsyncExitStack() as cleanup:
        yield {
            name: await cleanup.enter_async_context(_connected(name, spec, settings, contracts, clock, observer))
            for name, spec in settings.endpoints.items()
        }


@asynccontextmanager
async def _connected(
    name: str,
    spec: EndpointSettings,
    settings: Settings,
    contracts: Mapping[str, ModelContract],
    clock: Clock,
    observer: Observer,
) -> AsyncIterator[Endpoint]:
    torchserve = spec.stack == "torchserve"
    backend: Backend = backends.connect(
        stack=spec.stack,
        transport=spec.transport,
        rest=spec.rest,
        grpc=spec.grpc,
        management=spec.management,
        server=spec.server,
        contracts=contracts,
        max_reply_bytes=settings.limits.body_bytes + REPLY_OVERHEAD_BYTES,
        clock=clock,
        token_file=spec.token_file,
        handlers=handlers_of(settings, contracts, name) if torchserve else None,
        versions=settings.versions_on(name) if torchserve else None,
        slots=spec.slots,
    )
    around = EndpointStack(
        name,
        spec.stack,
        slots=spec.slots,
        queue=spec.queue,
        clock=clock,
        observer=observer,
        cancels=spec.stack not in GOES_ON_WHEN_CANCELLED,
    )
    try:
        yield Endpoint(name, spec.stack, backend, around)
    finally:
        await around.close()
        await backend.close()


@asynccontextmanager
async def _running(coroutine: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    task = asyncio.create_task(coroutine, name=name)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _targets(name: str, model: ModelSettings) -> tuple[Target, ...]:
    return tuple(
        Target(target.endpoint, target.model or name, target.version, target.names, target.variant, target.weight)
        for target in model.targets
    )


def traffic_of(name: str, model: ModelSettings) -> Traffic:
    """How a model's requests are spread, in the terms of routing."""
    mirror = model.mirror
    return Traffic(
        policy=model.policy,
        cross_stack=model.cross_stack,
        sticky_header=None if model.sticky is None else model.sticky.header.lower(),
        max_attempts=model.retry.max_attempts,
        retry_budget=model.retry.budget,
        batching=_batching(model),
        mirror=None
        if mirror is None
        else Mirroring(
            Target(mirror.endpoint, mirror.model or name, mirror.version, mirror.names),
            mirror.share,
            mirror.keep_payloads,
        ),
    )


def _batching(model: ModelSettings) -> Batching | None:
    """Off without a word where there is no contract: of tensors that only a server describes nobody has said that
    dimension 0 is a batch."""
    rules = model.batching
    if rules is None:
        rules = False if model.contract is None else BatchingSettings()
    return None if rules is False or rules.max_size == 1 else Batching(rules.max_size, rules.max_bytes)


def _limits(limits: LimitSettings) -> Limits:
    return Limits(
        body_bytes=limits.body_bytes,
        json_bytes=limits.json_bytes,
        in_flight=limits.in_flight,
        in_flight_bytes=limits.in_flight_bytes,
        timeout_s=limits.timeout_ms / 1e3,
        max_timeout_s=limits.max_timeout_ms / 1e3,
        body_timeout_s=limits.body_timeout_ms / 1e3,
    )


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket: a taken port is a clear message here, and an exit inside uvicorn."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Where the protocol is not named asyncio's own loop leaves TCP_NODELAY off, and every answer waits 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as exc:
            raise _taken(host, port, "rest_port") from exc
        yield listener


def authority(host: str, port: int) -> str:
    """host:port as URLs and gRPC have it: an IPv6 address in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _taken(host: str, port: int, field: str) -> SettingsError:
    return SettingsError(f"cannot listen on {authority(host, port)}; choose another server.{field}")
