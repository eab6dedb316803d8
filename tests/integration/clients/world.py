"""The whole stack, MLServer beside it, and gateways in front, each of which reaches one of the stacks or all of them.

A program of `programs/` is given a gateway's address: what answers it is the gateway's configuration alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from loadtests.golden import Golden, load_golden
from serving import probes, servers, tensorflow
from serving.local import LocalStack
from serving.models import BuiltModel, find_models
from serving.processes import Port, Server
from serving.settings import LaunchSettings, Ports

ROOT = Path(__file__).resolve().parents[3]
CLIENTS = Path(os.environ.get("TWINSERVE_CLIENTS", ROOT / "artifacts" / "clients"))
PROGRAMS = Path(__file__).parent / "programs"
SERVING = ROOT / "serving" / "oip"
FAKES = ROOT / "tests" / "fakes"
MLSERVER = "mlserver 1.7.1"
MODEL = "digits"
STACKS = ("torchserve", "tfserving", "oip")
# The endpoints of the gateway that has all, with their stacks: each server over both of its transports.
ENDPOINTS = {
    **{"ts": "torchserve", "ts-grpc": "torchserve", "tf": "tfserving", "tf-rest": "tfserving"},
    **{"mls": "oip", "mls-grpc": "oip"},
}
# A client's program imports its library, and some of those import TensorFlow.
PROGRAM_TAKES_S = 180


class MissingEnvironment(RuntimeError):  # noqa: N818 - reads as what happened
    """Raised where the environment of a client or server was not made."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """host:port of the two ports of a gateway or a server."""

    rest: str
    grpc: str


@dataclass(slots=True)
class World:
    """What runs. `gateways` are by the one stack that they reach, and `every` for the one that reaches all."""

    gateways: Mapping[str, Addresses]
    mlserver: Addresses
    servers: Mapping[str, str]
    """The program that runs as each server, with its version; by stack."""
    golden: Golden
    golden_path: Path
    stubs: Path
    """The folder of the Python stubs made of TorchServe's own protocol files."""
    _told: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many golden rows one request may have."""
        return min(self.golden.rows, self.golden.contract.batch_cap or 1)

    def agrees(self, answer: Any) -> None:
        """Fails where a program's answer is not the golden one for these rows, within the contract's tolerance."""
        output = self.golden.contract.outputs[0].name
        assert isinstance(answer, dict), answer
        assert "data" in answer, answer
        values = array(answer)
        assert self.golden.fault(0, self.rows, {output: values}) is None
        assert values.argmax(axis=1).tolist() == self.golden.outputs[output][: self.rows].argmax(axis=1).tolist()

    def tell(self, program: str, gateway: str, stack: str = "", checks: Sequence[str] = ()) -> dict[str, Any]:
        """What a program found at a gateway, by its checks, or those named; each run is done once.

        Where `stack` is named its headers ask for it.
        """
        key = (program, gateway, stack, *checks)
        if key not in self._told:
            headers = {"x-stack": stack} if stack else {}
            task = self.task(gateway, headers=headers, checks=list(checks))
            self._told[key] = ask(program, task, self.stubs)
        return self._told[key]

    def task(self, gateway: str, **more: Any) -> dict[str, Any]:
        """What a program is told: where to ask, and for what."""
        contract, addresses = self.golden.contract, self.gateways[gateway]
        return {
            "rest": addresses.rest,
            "grpc": addresses.grpc,
            "model": contract.name,
            "input": contract.inputs[0].name,
            "output": contract.outputs[0].name,
            "golden": str(self.golden_path),
            "rows": self.rows,
            **more,
        }


def array(told: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """The array that a program told, its numbers as they were."""
    return np.array(told["data"], told["dtype"]).reshape(told["shape"])


def environment_of(program: str) -> Path:
    """The Python that runs a program; raises MissingEnvironment where it was not made."""
    name = program.partition("_")[0]
    # These libraries are among this project's own development dependencies.
    if name in ("tensorflow", "torchserve"):
        return Path(sys.executable)
    return made(name, "python")


def made(name: str, command: str) -> Path:
    """A command of an environment of its own; raises MissingEnvironment."""
    path = CLIENTS / name / "bin" / command
    if not path.exists():
        raise MissingEnvironment(f"there is no {path}; `make test-clients` makes this environment")
    return path


def ask(program: str, task: Mapping[str, Any], stubs: Path) -> dict[str, Any]:
    """Runs a program in its environment; returns what it told. Raises what subprocess raises where it fails."""
    done = subprocess.run(
        [str(environment_of(program)), str(PROGRAMS / f"{program}_client.py")],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
        timeout=PROGRAM_TAKES_S,
        cwd=stubs,
        # Nothing of ours, and the stubs only where they are wanted: other libraries have some of the same packages.
        env={**os.environ, "PYTHONPATH": str(stubs) if program == "torchserve" else ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@contextmanager
def running(artifacts: Path, stubs: Path) -> Iterator[World]:
    """Every server and every gateway, until the block ends; raises LaunchError, MissingEnvironment."""
    settings = LaunchSettings(artifacts=artifacts)
    models = find_models(settings.models_dir)
    numbers = _distinct_ports()
    ports = Ports(**{name: next(numbers) for name in Ports.model_fields})
    ml_ports = {name: next(numbers) for name in ("http_port", "grpc_port", "metrics_port")}
    mlserver = Addresses(f"127.0.0.1:{ml_ports['http_port']}", f"127.0.0.1:{ml_ports['grpc_port']}")
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    configuration = _configuration(settings, ports, models, mlserver)
    chosen = {name: (next(numbers), next(numbers)) for name in ("every", *STACKS)}
    stages = [
        [
            servers.torchserve(settings, ports, models),
            tensorflow.tfserving(settings, ports, models),
            mlserver_server(settings.run_dir / "mlserver", ml_ports, settings.models_dir / MODEL),
        ],
        [_gateway(name, settings.run_dir, configuration, models, numbers) for name, numbers in chosen.items()],
    ]
    with LocalStack(settings, ports, stages=stages) as stack:
        yield World(
            gateways={
                name: Addresses(f"127.0.0.1:{rest}", f"127.0.0.1:{grpc}") for name, (rest, grpc) in chosen.items()
            },
            mlserver=mlserver,
            servers={**stack.servers, "oip": stack.servers["mlserver"]},
            golden=load_golden(artifacts, MODEL),
            golden_path=settings.models_dir / MODEL / "golden.npz",
            stubs=stubs,
        )


def mlserver_server(folder: Path, ports: Mapping[str, int], model: Path) -> Server:
    """MLServer on `ports` with what `serving/oip` serves, its weights from `model`, and an identity model.

    MLServer's settings file wins over its environment, so the ports cannot be given there.
    """
    folder.mkdir(parents=True)
    _write(folder / "settings.json", json.loads((SERVING / "settings.json").read_text()) | dict(ports))
    served = json.loads((SERVING / MODEL / "model-settings.json").read_text())
    served["parameters"]["uri"] = str(model / "torchscript" / f"{model.name}.mar")
    _write(folder / MODEL / "model-settings.json", served)
    _write(folder / "echo" / "model-settings.json", {"name": "echo", "implementation": "mlserver_echo.Echo"})
    rest = ports["http_port"]

    def waiting_for() -> str | None:
        answer = probes.ask("127.0.0.1", rest, "/v2/health/ready")
        return None if answer is not None and answer.status == 200 else "an answer to /v2/health/ready"

    def describe() -> str:
        answer = probes.ask("127.0.0.1", rest, "/v2")
        document = answer.json() if answer else {}
        return f"{document['name']} {document['version']}"

    return Server(
        name="mlserver",
        command=[str(made("mlserver", "mlserver")), "start", str(folder)],
        waiting_for=waiting_for,
        describe=describe,
        ports=tuple(Port(number, f"MLServer's {name}", name) for name, number in ports.items()),
        environment={"PYTHONPATH": os.pathsep.join(map(str, (SERVING, FAKES)))},
        url=f"http://127.0.0.1:{rest}",
        health="/v2/health/ready",
    )


def _configuration(
    settings: LaunchSettings, ports: Ports, models: Sequence[BuiltModel], mlserver: Addresses
) -> dict[str, Any]:
    """What the launcher writes, with MLServer's two endpoints for the model that it serves."""
    configuration = servers.gateway_config(settings, ports, models)
    added = {
        "mls": {"stack": "oip", "transport": "rest", "rest": f"http://{mlserver.rest}"},
        "mls-grpc": {"stack": "oip", "transport": "grpc", "grpc": mlserver.grpc},
    }
    configuration["endpoints"] |= added
    configuration["models"] = {MODEL: configuration["models"][MODEL]}
    configuration["models"][MODEL]["targets"] += [{"endpoint": name} for name in added]
    return configuration


def _gateway(
    name: str, folder: Path, configuration: Mapping[str, Any], models: Sequence[BuiltModel], ports: tuple[int, int]
) -> Server:
    """A gateway whose configuration has the endpoints of the stack `name` only; all of them where it is `every`."""
    endpoints = {
        key: endpoint for key, endpoint in configuration["endpoints"].items() if name in ("every", endpoint["stack"])
    }
    model = {**configuration["models"][MODEL], "targets": [{"endpoint": key} for key in endpoints]}
    rest, rpc = ports
    server = {**configuration["server"], "rest_port": rest, "grpc_port": rpc, "admin_port": None}
    file = folder / f"gateway-{name}.yaml"
    file.write_text(yaml.safe_dump({"server": server, "endpoints": endpoints, "models": {MODEL: model}}))
    questions = servers.questions([model for model in models if model.name == MODEL], endpoints)
    return Server(
        name=f"gateway-{name}",
        command=[sys.executable, "-m", "gateway", "--config", str(file)],
        waiting_for=probes.gateway_waits_for("127.0.0.1", rest, questions),
        describe=lambda: probes.gateway_name("127.0.0.1", rest),
        ports=(Port(rest, "REST", "rest_port"), Port(rpc, "gRPC", "grpc_port")),
        url=f"http://127.0.0.1:{rest}",
        health="/v2/health/ready",
    )


def _write(path: Path, document: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))


def _distinct_ports() -> Iterator[int]:
    """Free ports, none of them twice."""
    given: set[int] = set()
    while True:
        for number in set(Ports.free().model_dump().values()) - given:
            given.add(number)
            yield number
