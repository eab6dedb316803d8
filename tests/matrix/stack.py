"""The servers of the matrix: TorchServe, TF Serving or its stand-in, OIP servers, and the gateway in front of all.

Open Inference Protocol servers are a second gateway in front of TorchServe (every answer is computed there), and a
scripted server for the two forms that the gateway itself never takes: no binary extension, and typed answers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import yaml

from gateway.core.contract import ModelContract
from serving import probes, servers, tensorflow
from serving.local import LocalStack
from serving.models import BuiltModel
from serving.processes import Server
from serving.settings import LaunchSettings, Ports
from tests.fakes.fake_oip import FakeOip
from tests.matrix import artifacts, handlers
from tests.matrix.cases import REAL_MODELS, Case, identities, models, trained

READY_S = 60


@dataclass(frozen=True, slots=True)
class Backend:
    """One endpoint of the gateway; `trained` where its server has the trained models too.

    `can_carry` says of a model whether a target there can be configured at all. `per_model`: one handler answers for
    all models, and an endpoint describes a handler once, so that each model has an endpoint of its own.
    """

    name: str
    title: str
    trained: bool = True
    can_carry: Callable[[ModelContract], bool] = lambda _: True
    per_model: bool = False

    def serves(self, case: Case) -> bool:
        """Whether a case can be asked of it."""
        return self.can_carry(case.contract) and (self.trained or case.golden is None)

    def endpoint(self, model: str) -> str:
        """What the gateway calls it, for a model."""
        return f"{self.name}-{model}" if self.per_model else self.name


BACKENDS: tuple[Backend, ...] = (
    Backend("ts-rest", "TorchServe REST"),
    Backend("ts-grpc", "TorchServe gRPC"),
    *(
        Backend(name, title, trained=False, can_carry=handlers.CAN_CARRY[kind], per_model=True)
        for name, (kind, _, title) in handlers.ENDPOINTS.items()
    ),
    Backend("tf-rest", "TF Serving REST"),
    Backend("tf-grpc", "TF Serving gRPC"),
    Backend("oip-rest", "OIP REST binary"),
    Backend("oip-grpc", "OIP gRPC raw"),
    Backend("oip-rest-json", "OIP REST JSON", trained=False),
    Backend("oip-grpc-typed", "OIP gRPC, answers typed", trained=False),
)


class Reached:
    """A server that speaks at two ports; one client of each serves all requests."""

    def __init__(self, rest: str, address: str) -> None:
        self.url = rest
        # A connection for each request: a server may end one that was idle just when it is to be used again.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.AsyncClient(base_url=rest, timeout=60, trust_env=False, limits=limits)
        self._channel = grpc.aio.insecure_channel(address)

    @asynccontextmanager
    async def rest(self) -> AsyncIterator[httpx.AsyncClient]:
        """The HTTP client."""
        yield self._http

    @asynccontextmanager
    async def grpc(self) -> AsyncIterator[grpc.aio.Channel]:
        """The channel."""
        yield self._channel

    async def close(self) -> None:
        """Closes both."""
        await self._http.aclose()
        await self._channel.close()


@dataclass(frozen=True, slots=True)
class Running:
    """Everything that runs. `direct` are the servers themselves, by the names of their backends."""

    cases: tuple[Case, ...]
    backends: tuple[Backend, ...]
    gateway: Reached
    direct: Mapping[str, Reached]

    def asked(self) -> Iterator[tuple[Case, Backend]]:
        """Every case with every backend that serves its model."""
        for case in self.cases:
            for backend in self.backends:
                if backend.serves(case):
                    yield case, backend

    async def all_ready(self) -> None:
        """Returns once every model can be had wherever it is to be served; fails after `READY_S`."""
        named = {(case.contract.name, backend) for case, backend in self.asked()}
        waiting = {(model, backend.endpoint(model)) for model, backend in named}
        async with asyncio.timeout(READY_S), self.gateway.rest() as http:
            while waiting:
                for model, endpoint in sorted(waiting):
                    reply = await http.get(f"/v2/models/{model}/ready", headers={"x-endpoint": endpoint})
                    if reply.status_code != 200:
                        await asyncio.sleep(0.1)
                        break
                    waiting.discard((model, endpoint))


@asynccontextmanager
async def running(built: Path, work: Path) -> AsyncIterator[Running]:
    """Starts all servers, with `built` (the folder of `models/`) for the trained models and files in `work`."""
    cases = [*identities(), *trained(built)]
    contracts = models(cases)
    async with AsyncExitStack() as stack:
        json_only, typed = [
            await stack.enter_async_context(
                FakeOip(*map(artifacts.scripted, contracts), name="scripted OIP server", version="", **form)
            )
            for form in ({"binary": False}, {"typed": True})
        ]
        local = stack.enter_context(_processes(built, work, contracts, json_only, typed))
        gateway = Reached(local.gateway_rest, local.gateway_grpc)
        direct = {name: Reached(*addresses) for name, addresses in _addresses(local.ports, json_only, typed).items()}
        for reached in (gateway, *direct.values()):
            stack.push_async_callback(reached.close)
        run = Running(tuple(cases), BACKENDS, gateway, direct)
        await run.all_ready()
        yield run


def _processes(
    built: Path, work: Path, contracts: list[ModelContract], json_only: FakeOip, typed: FakeOip
) -> LocalStack:
    settings = LaunchSettings(artifacts=work, start_timeout_s=120)
    settings.run_dir.mkdir(parents=True)
    ports = Ports.free()
    real = trained_models(built)
    many = artifacts.archive(work / "models", contracts)
    saved = [artifacts.saved_model(work / "models", contract) for contract in contracts]
    files = {**contract_files(work / "models", contracts), **{model.name: model.contract for model in real}}
    echoes = {
        backend.endpoint(contract.name): (backend.name, contract)
        for backend in BACKENDS
        for contract in contracts
        if backend.per_model and backend.can_carry(contract)
    }
    names = {contract.name: artifacts.torchserve_names(contract) for contract in contracts}
    host = settings.host
    ts = {
        "stack": "torchserve",
        "rest": f"http://{host}:{ports.torchserve_rest_port}",
        "grpc": f"{host}:{ports.torchserve_grpc_port}",
        "management": f"http://{host}:{ports.torchserve_management_port}",
    }
    inner_ports = Ports.free()
    inner = {
        "stack": "oip",
        "rest": f"http://{host}:{inner_ports.gateway_rest_port}",
        "grpc": f"{host}:{inner_ports.gateway_grpc_port}",
    }
    tf = {
        "stack": "tfserving",
        "rest": f"http://{host}:{ports.tfserving_rest_port}",
        "grpc": f"{host}:{ports.tfserving_grpc_port}",
    }
    endpoints: dict[str, dict[str, Any]] = {
        "ts-rest": {**ts, "transport": "rest"},
        "ts-grpc": {**ts, "transport": "grpc"},
        **{
            name: {**ts, "transport": handlers.ENDPOINTS[backend][1], "models": []}
            for name, (backend, _) in echoes.items()
        },
        "tf-rest": {**tf, "transport": "rest"},
        "tf-grpc": {**tf, "transport": "grpc"},
        "oip-rest": {**inner, "transport": "rest"},
        "oip-grpc": {**inner, "transport": "grpc"},
        "oip-rest-json": {"stack": "oip", "transport": "rest", "rest": json_only.rest_url},
        "oip-grpc-typed": {"stack": "oip", "transport": "grpc", "grpc": typed.grpc_address},
    }

    def targets(model: str, those: Iterable[str]) -> list[dict[str, Any]]:
        there = {"model": artifacts.ARCHIVE, "names": names[model]} if model in names else {}
        scripted = ("oip-rest-json", "oip-grpc-typed")
        found = []
        for name in those:
            if name in echoes:
                backend, contract = echoes[name]
                if contract.name == model:
                    found.append({"endpoint": name, **handlers.target(backend, contract)})
            elif model in names or name not in scripted:
                found.append({"endpoint": name, **(there if name.startswith("ts-") else {})})
        return found

    second = gateway_server("second gateway", work, inner_ports, files, {"ts-rest": endpoints["ts-rest"]}, targets)
    first = gateway_server("gateway", work, ports, files, endpoints, targets)
    torchserve = servers.torchserve(settings, ports, [many, *real])
    handlers.archives(settings.run_dir / "torchserve" / "model-store")
    stage = [
        torchserve,
        tensorflow.tfserving(settings, ports, [*saved, *real]),
        second,
        first,
    ]
    return LocalStack(settings, ports, stages=[stage])


def gateway_server(
    name: str, work: Path, ports: Ports, files: Mapping[str, Path], endpoints: Mapping[str, Any], targets: Any
) -> Server:
    """A gateway in front of `endpoints`, with the contracts in `files`; it does not wait for the servers.

    `targets` gives a model's, of some endpoints.
    """
    config = {
        "server": {
            "rest_port": ports.gateway_rest_port,
            "grpc_port": ports.gateway_grpc_port,
            "drain_seconds": 2,
        },
        "endpoints": dict(endpoints),
        "models": {
            model: {"contract": str(path.resolve()), "targets": targets(model, endpoints)}
            for model, path in files.items()
        },
        "log_level": "warning",
    }
    file = work / f"{name.replace(' ', '-')}.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    host, port = "127.0.0.1", ports.gateway_rest_port

    def waiting_for() -> str | None:
        answer = probes.ask(host, port, "/livez")
        return None if answer is not None and answer.status == 200 else "an answer to /livez"

    return Server(
        name=name,
        command=[sys.executable, "-m", "gateway", "--config", str(file.resolve())],
        waiting_for=waiting_for,
        describe=lambda: probes.gateway_name(host, port),
    )


def _addresses(ports: Ports, json_only: FakeOip, typed: FakeOip) -> dict[str, tuple[str, str]]:
    host = "127.0.0.1"
    ts = (f"http://{host}:{ports.torchserve_rest_port}", f"{host}:{ports.torchserve_grpc_port}")
    tf = (f"http://{host}:{ports.tfserving_rest_port}", f"{host}:{ports.tfserving_grpc_port}")
    return {
        **{"ts-rest": ts, "ts-grpc": ts, "tf-rest": tf, "tf-grpc": tf},
        **dict.fromkeys(handlers.ENDPOINTS, ts),
        "oip-rest-json": (json_only.rest_url, json_only.grpc_address),
        "oip-grpc-typed": (typed.rest_url, typed.grpc_address),
    }


def trained_models(built: Path) -> list[BuiltModel]:
    """The trained models, as `models/` built them."""
    return [BuiltModel(name, (built / "models" / name).resolve()) for name in REAL_MODELS]


def contract_files(folder: Path, contracts: Iterable[ModelContract]) -> dict[str, Path]:
    """Writes the contracts, each in a file of its own."""
    files = {}
    for contract in contracts:
        files[contract.name] = folder / f"{contract.name}.json"
        files[contract.name].write_text(contract.to_json())
    return files
