"""How each server is run: its command, its files in the run folder, and what it is waited for."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from serving import probes
from serving.java import Java, JavaMissing, find_java
from serving.models import BuiltModel
from serving.processes import LaunchError, Port, Server
from serving.settings import PREFIX, LaunchSettings, Ports

TORCHSERVE_FILES = Path(__file__).parent / "torchserve"
TFSERVING_PROGRAM = "tensorflow_model_server"
STAND_IN = "serving.tfserving.savedmodel_server"
# A Unix socket's path holds 107 bytes and a final zero; TorchServe adds `/.ts.sock.` and a number.
LONGEST_SOCKET_FOLDER = 107 - len("/.ts.sock.65535")
# A worker that ends while it loads is started again, for five minutes: the second time it is no accident.
LOAD_FAILURES = 2
EMPTY = {"BOOL": False, "BYTES": ""}
SLOTS = {"torchserve": 2, "tfserving": 4}
QUEUE = 256


def all_servers(settings: LaunchSettings, ports: Ports, models: Sequence[BuiltModel]) -> list[list[Server]]:
    """Both model servers, which start together, then the gateway. Writes their files into the run folder."""
    if not models:
        raise LaunchError(f"no built model in {settings.models_dir}; `twinserve models build` builds them")
    return [
        [torchserve(settings, ports, models), tfserving(settings, ports, models)],
        [gateway(settings, ports, models)],
    ]


def torchserve(
    settings: LaunchSettings, ports: Ports, models: Sequence[BuiltModel], java: Java | None = None
) -> Server:
    """TorchServe from its pip package, on `java` or on what `find_java` finds; raises LaunchError without either.

    Java is run directly, as the `torchserve` command would: that command keeps one pid file for the whole machine,
    and ends without ending the server.
    """
    try:
        java = java or find_java()
    except JavaMissing as exc:
        raise LaunchError(str(exc)) from exc
    home = _site_packages("ts")
    remove_temporary(settings.run_dir)
    folder = _emptied(settings.run_dir / "torchserve")
    store = folder / "model-store"
    store.mkdir()
    for model in models:
        _link(model.archive, store / model.archive.name)
    temporary = _short_folder(folder)
    config = TORCHSERVE_FILES / "config.properties"
    command = [
        str(java.program),
        *java.options(),
        f"-Dmodel_server_home={home}",
        f"-Djava.io.tmpdir={temporary}",
        f"-Dlog4j.configurationFile={(TORCHSERVE_FILES / 'log4j2.xml').as_uri()}",
        *("-cp", str(home / "ts" / "frontend" / "*"), "org.pytorch.serve.ModelServer"),
        *("--python", sys.executable, "-f", str(config), "-s", str(store), "-ncs"),
    ]
    names = [name for name in Ports.model_fields if name.startswith("torchserve_")]
    environment = {
        f"{PREFIX}TORCHSERVE_HOST": settings.host,
        **{f"{PREFIX}{name.upper()}": str(getattr(ports, name)) for name in names},
        # This variable would win over --ts-config.
        "TS_CONFIG_FILE": str(config),
        **dict.fromkeys(("TMPDIR", "TEMP"), str(temporary)),
        **dict.fromkeys(("LOG_LOCATION", "METRICS_LOCATION"), str(folder / "logs")),
    }
    host, rest = settings.host, ports.torchserve_rest_port
    waits_for = probes.torchserve_waits_for(host, rest, ports.torchserve_management_port, [m.name for m in models])
    return Server(
        name="torchserve",
        command=command,
        waiting_for=_unless_loading_fails(waits_for, settings.run_dir / "logs" / "torchserve.log"),
        describe=lambda: probes.torchserve_name(host, rest),
        ports=_ports(ports, names),
        environment=environment,
        url=f"http://{host}:{rest}",
        health="/ping",
        note=f"with {java}",
    )


def tfserving(settings: LaunchSettings, ports: Ports, models: Sequence[BuiltModel]) -> Server:
    """TensorFlow Serving where its program is on the PATH, else the stand-in, which takes the same options."""
    folder = _emptied(settings.run_dir / "tfserving")
    config = folder / "models.config"
    config.write_text(models_config(models))
    host, rest = settings.host, ports.tfserving_rest_port
    options = [
        f"--port={ports.tfserving_grpc_port}",
        f"--rest_api_port={rest}",
        f"--model_config_file={config}",
        # A model that does not load ends the start at once: by default it is tried for five minutes more.
        "--max_num_load_retries=0",
    ]
    if program := shutil.which(TFSERVING_PROGRAM):
        # The real server has no option to listen on one address only.
        command, title = [program, *options], tfserving_title()
    else:
        command = [sys.executable, "-m", STAND_IN, *options, f"--bind_address={host}"]
        title = "savedmodel-server (stand-in)"  # with its version once it answers
    names = [model.name for model in models]
    return Server(
        name="tfserving",
        command=command,
        waiting_for=probes.tfserving_waits_for(host, rest, names),
        describe=lambda: probes.tfserving_name(host, rest, names[0], title),
        ports=_ports(ports, ["tfserving_grpc_port", "tfserving_rest_port"]),
        url=f"http://{host}:{rest}",
        health=f"/v1/models/{names[0]}",
        note=f"as {title}",
    )


def gateway(settings: LaunchSettings, ports: Ports, models: Sequence[BuiltModel]) -> Server:
    """Our gateway, in front of both, over both protocols of each."""
    file = settings.run_dir / "gateway.yaml"
    config = gateway_config(settings, ports, models)
    head = "# Written by the launcher at every start; `twinserve gateway --config FILE` runs a gateway of your own.\n"
    file.write_text(head + yaml.safe_dump(config, sort_keys=False))
    host, rest = settings.host, ports.gateway_rest_port
    return Server(
        name="gateway",
        command=[sys.executable, "-m", "gateway", "--config", str(file)],
        waiting_for=probes.gateway_waits_for(host, rest, questions(models, config["endpoints"])),
        describe=lambda: probes.gateway_name(host, rest),
        ports=_ports(ports, ["gateway_rest_port", "gateway_grpc_port", "gateway_admin_port"]),
        url=f"http://{host}:{rest}",
        health="/v2/health/ready",
    )


def gateway_config(settings: LaunchSettings, ports: Ports, models: Sequence[BuiltModel]) -> dict[str, Any]:
    """The content of gateway.yaml: an endpoint for each protocol of each server, the preferred ones first."""
    host = settings.host
    torch_side = {
        "rest": f"http://{host}:{ports.torchserve_rest_port}",
        "grpc": f"{host}:{ports.torchserve_grpc_port}",
        "management": f"http://{host}:{ports.torchserve_management_port}",
    }
    tf_side = {"grpc": f"{host}:{ports.tfserving_grpc_port}", "rest": f"http://{host}:{ports.tfserving_rest_port}"}
    if shutil.which(TFSERVING_PROGRAM):
        tf_side["server"] = tfserving_title()
    endpoints = {
        name: {"stack": stack, "transport": transport, **side, "slots": SLOTS[stack], "queue": QUEUE}
        for name, stack, transport, side in (
            ("ts", "torchserve", "rest", torch_side),
            ("tf", "tfserving", "grpc", tf_side),
            ("ts-grpc", "torchserve", "grpc", torch_side),
            ("tf-rest", "tfserving", "rest", tf_side),
        )
    }
    return {
        "server": {
            "host": host,
            "rest_port": ports.gateway_rest_port,
            "grpc_port": ports.gateway_grpc_port,
            "admin_port": ports.gateway_admin_port,
            # It must have drained before the launcher's patience ends.
            "drain_seconds": settings.stop_grace_s / 2,
        },
        "endpoints": endpoints,
        "models": {
            model.name: {
                "contract": str(model.contract),
                "policy": "failover",
                "targets": [{"endpoint": name} for name in endpoints],
            }
            for model in models
        },
    }


def questions(models: Iterable[BuiltModel], endpoints: Iterable[str]) -> dict[str, bytes]:
    """A body of /predict for every model on every endpoint: one row of zeros, by the contract."""
    bodies = {}
    for model in models:
        inputs = {
            item["name"]: _filled(item["shape"], EMPTY.get(item["datatype"], 0))
            for item in json.loads(model.contract.read_text())["inputs"]
        }
        for name in endpoints:
            body = {"model": model.name, "endpoint": name, "inputs": inputs}
            bodies[f"model '{model.name}' through endpoint '{name}'"] = json.dumps(body).encode()
    return bodies


def _filled(shape: Sequence[int], value: object) -> object:
    return [_filled(shape[1:], value)] * max(shape[0], 1) if shape else value


def models_config(models: Sequence[BuiltModel]) -> str:
    """TensorFlow Serving's model_config_list, in protobuf's text format."""
    # JSON's string escapes are among those of protobuf's text format.
    entries = [
        f"  config {{\n    name: {json.dumps(model.name)}\n    base_path: {json.dumps(str(model.saved_model))}\n"
        f'    model_platform: "tensorflow"\n  }}\n'
        for model in models
    ]
    return f"model_config_list {{\n{''.join(entries)}}}\n"


def tfserving_title() -> str:
    """What the TensorFlow Serving on the PATH calls itself, with its version, such as `TensorFlow Serving 2.19.1`."""
    told = subprocess.run(  # noqa: S603 - the program that is run anyway
        [TFSERVING_PROGRAM, "--version"], capture_output=True, text=True, check=False
    ).stdout
    lines = [line for line in told.splitlines() if line.startswith("TensorFlow ModelServer:")]
    return f"TensorFlow Serving {lines[0].partition(':')[2].strip()}" if lines else "TensorFlow Serving"


def _unless_loading_fails(waits_for: Callable[[], str | None], log: Path) -> Callable[[], str | None]:
    def waiting_for() -> str | None:
        missing = waits_for()
        if missing and log.is_file() and log.read_bytes().count(b"Backend worker process died.") >= LOAD_FAILURES:
            raise LaunchError(f"TorchServe waits for {missing}, which ends while it loads. The reason is in {log}")
        return missing

    return waiting_for


def every_port(ports: Ports) -> tuple[Port, ...]:
    """The ports of all servers."""
    return _ports(ports, tuple(Ports.model_fields))


def _ports(ports: Ports, names: Sequence[str]) -> tuple[Port, ...]:
    return tuple(Port(getattr(ports, name), Ports.use_of(name), Ports.setting_of(name)) for name in names)


def _site_packages(package: str) -> Path:
    # Found without importing it, which would load torch.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise LaunchError("TorchServe is not installed: `pip install 'twinserve[serving]'`")
    return Path(spec.origin).resolve().parents[1]


def remove_temporary(run_dir: Path) -> None:
    """Removes TorchServe's temporary folder: unpacked archives and sockets."""
    temporary = run_dir / "torchserve" / "tmp"
    shutil.rmtree(temporary.resolve(), ignore_errors=True)
    if temporary.is_symlink():
        temporary.unlink()


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _short_folder(folder: Path) -> Path:
    temporary = folder / "tmp"
    temporary.mkdir()
    if len(os.fsencode(temporary)) <= LONGEST_SOCKET_FOLDER:
        return temporary
    short = Path(tempfile.mkdtemp(prefix="ts-", dir="/tmp"))
    # A link shows where it went, and lets the launcher remove it.
    temporary.rmdir()
    temporary.symlink_to(short)
    return short
