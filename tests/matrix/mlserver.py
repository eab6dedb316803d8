"""MLServer, a third party's server of the Open Inference Protocol, as the matrix's backends.

It runs in an environment of its own (`make test-clients` makes it), with a runtime that answers what it was sent, and
the trained models.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from serving import probes
from serving.local import LocalStack
from serving.processes import Server
from serving.settings import LaunchSettings, Ports
from tests.matrix import page
from tests.matrix.cases import identities, models, trained
from tests.matrix.run import Results
from tests.matrix.stack import Backend, Reached, Running, contract_files, gateway_server, trained_models

PROGRAM = Path(os.environ.get("TWINSERVE_CLIENTS", page.ROOT / "artifacts" / "clients")) / "mlserver/bin/mlserver"
PAGE = page.ROOT / "docs" / "protocol-matrix-mlserver.md"
SERVING = page.ROOT / "serving" / "oip"
BACKENDS: tuple[Backend, ...] = (Backend("mls-rest", "MLServer REST"), Backend("mls-grpc", "MLServer gRPC"))
HEAD = (
    "# Protocol matrix: MLServer",
    "What every door of the gateway carries to [MLServer](https://github.com/SeldonIO/MLServer), a server of the Open "
    "Inference Protocol by another project, over both of its transports. It offers no binary data over REST, where "
    "tensors go as JSON. [The other servers](protocol-matrix.md) have their own page.",
)
SERVERS = "Identities are answered by a runtime of a few lines, trained models by `serving/oip/mlserver_runtime.py`."


def render(results: Results) -> str:
    """The page of a run."""
    return page.render(results, HEAD, SERVERS)


@asynccontextmanager
async def running(built: Path, work: Path) -> AsyncIterator[Running]:
    """Starts MLServer and the gateway, with `built` for the trained models and files in `work`."""
    cases = [*identities(), *trained(built)]
    ports = Ports.free()
    settings = LaunchSettings(artifacts=work, start_timeout_s=120)
    settings.run_dir.mkdir(parents=True)
    real = {model.name: model for model in trained_models(built)}
    files = {**contract_files(work, models(cases)), **{name: model.contract for name, model in real.items()}}
    rest = f"http://127.0.0.1:{ports.tfserving_rest_port}"
    address = f"127.0.0.1:{ports.tfserving_grpc_port}"
    endpoints = {
        "mls-rest": {"stack": "oip", "transport": "rest", "rest": rest},
        "mls-grpc": {"stack": "oip", "transport": "grpc", "grpc": address},
    }

    def targets(model: str, those: Any) -> list[dict[str, str]]:
        return [{"endpoint": name, **({} if model in real else {"model": "echo"})} for name in those]

    archives = {name: model.archive for name, model in real.items()}
    stage = [
        _mlserver(work / "mlserver", ports, archives),
        gateway_server("gateway", work, ports, files, endpoints, targets),
    ]
    async with AsyncExitStack() as exits:
        local = exits.enter_context(LocalStack(settings, ports, stages=[stage]))
        gateway = Reached(local.gateway_rest, local.gateway_grpc)
        server = Reached(rest, address)
        for reached in (gateway, server):
            exits.push_async_callback(reached.close)
        run = Running(tuple(cases), BACKENDS, gateway, {backend.name: server for backend in BACKENDS})
        await run.all_ready()
        yield run


def _mlserver(folder: Path, ports: Ports, archives: dict[str, Path]) -> Server:
    """The server with its repository: settings as in `serving/oip` but for the ports, which its own file decides."""
    settings = json.loads((SERVING / "settings.json").read_text())
    port = ports.tfserving_rest_port
    settings |= {"http_port": port, "grpc_port": ports.tfserving_grpc_port}
    settings |= {"metrics_port": ports.torchserve_metrics_port}
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps(settings))
    described = {"echo": {"name": "echo", "implementation": "mlserver_echo.Echo"}}
    for name, archive in archives.items():
        model = json.loads((SERVING / "digits" / "model-settings.json").read_text())
        described[name] = {**model, "name": name, "parameters": {**model["parameters"], "uri": str(archive)}}
    for name, document in described.items():
        (folder / name).mkdir()
        (folder / name / "model-settings.json").write_text(json.dumps(document))

    def waiting_for() -> str | None:
        answer = probes.ask("127.0.0.1", port, "/v2/health/ready")
        return None if answer is not None and answer.status == 200 else "an answer to /v2/health/ready"

    runtimes = (SERVING, page.ROOT / "tests" / "fakes")
    return Server(
        name="mlserver",
        command=[str(PROGRAM), "start", str(folder)],
        waiting_for=waiting_for,
        describe=lambda: "MLServer",
        environment={"PYTHONPATH": os.pathsep.join(map(str, runtimes))},
    )
