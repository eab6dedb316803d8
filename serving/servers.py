"""How each server is run: its command, its files in the run folder, and what it is waited for."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from models.variants import VARIANTS
from models.zoo import DEMO
from serving import probes
from serving.java import Java, JavaMissing, find_java
from serving.loading import Loading, without
from serving.models import BuiltModel
from serving.processes import LaunchError, Port, Server
from serving.settings import PREFIX, LaunchSettings, Ports
from serving.tensorflow import (
    PROGRAM,
    WITHOUT_GRAPPLER,
    Drops,
    saved_models,
    tfserving,
    tfserving_nograppler,
    tfserving_title,
)

TORCHSERVE_FILES = Path(__file__).parent / "torchserve"
# A Unix socket's path holds 107 bytes and a final zero; TorchServe adds `/.ts.sock.` and a number.
LONGEST_SOCKET_FOLDER = 107 - len("/.ts.sock.65535")
# What a variant may take longer than a default one: torch.compile compiles before it is ready.
ALLOWANCE_S = 30.0
EMPTY = {"BOOL": False, "BYTES": ""}
STACK_ENDPOINTS = {"torchserve": ("ts", "ts-grpc"), "tfserving": ("tf", "tf-rest")}
NOGRAPPLER_ENDPOINTS = ("tf-nograppler", "tf-nograppler-rest")
SLOTS = {"torchserve": 2, "tfserving": 4}
QUEUE = 256


def all_servers(
    settings: LaunchSettings,
    ports: Ports,
    models: Sequence[BuiltModel],
    report: Callable[[str], None] = lambda _: None,
) -> list[list[Server]]:
    """The model servers, which start together, then the gateway. Writes their files into the run folder.

    A server that has nothing to serve is left out; TensorFlow's comes a second time where a variant needs one without
    Grappler. A variant that does not load costs the others nothing, and `report` is told.
    """
    if not models:
        small = f"`twinserve models build {' '.join(DEMO)} --variants default` builds the small ones"
        raise LaunchError(f"no built model in {settings.models_dir}; {small}")
    first = []
    variants = [one.served_name for model in models for one in model.on("torchserve")]
    archived = archives(models)
    loading = Loading(settings, ports, archived, variants, report)
    if archived:
        first.append(torchserve(settings, ports, models, loading=loading))
    tensorflow = frozenset(one.served_name for model in models for one in model.on("tfserving"))
    drops = Drops(tensorflow, loading.dropped, report)
    if saved_models(models):
        first.append(tfserving(settings, ports, models, drops))
    if saved_models(models, without_grappler=True):
        first.append(tfserving_nograppler(settings, ports, models, drops))
    return [first, [gateway(settings, ports, models, loading.dropped)]]


def torchserve(
    settings: LaunchSettings,
    ports: Ports,
    models: Sequence[BuiltModel],
    java: Java | None = None,
    *,
    loading: Loading | None = None,
) -> Server:
    """TorchServe from its pip package, on `java` or on what `find_java` finds; raises LaunchError without either.

    Java is run directly, as the `torchserve` command would: that command keeps one pid file for the whole machine,
    and ends without ending the server. `loading` says what it is waited for, by default for all models.
    """
    try:
        java = java or find_java()
    except JavaMissing as exc:
        raise LaunchError(str(exc)) from exc
    home = _site_packages("ts")
    remove_temporary(settings.run_dir)
    folder = settings.emptied("torchserve")
    store = folder / "model-store"
    store.mkdir()
    served = archives(models)
    for archive in served.values():
        _link(archive, store / archive.name)
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
        # What torch.compile makes outlives the server, so that only the first start compiles.
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(settings.run_dir / "inductor-cache")),
    }
    host, rest = settings.host, ports.torchserve_rest_port
    return Server(
        name="torchserve",
        command=command,
        waiting_for=(loading or Loading(settings, ports, served)).waiting_for,
        describe=lambda: probes.torchserve_name(host, rest),
        ports=ports.listed(names),
        environment=environment,
        url=f"http://{host}:{rest}",
        health="/ping",
        note=f"with {java}",
        allowance_s=ALLOWANCE_S * sum(len(model.on("torchserve")) for model in models),
    )


def archives(models: Iterable[BuiltModel]) -> dict[str, Path]:
    """What TorchServe serves, by name there."""
    found = {}
    for model in models:
        if "torchserve" in model.stacks:
            found[model.name] = model.archive
        found |= {variant.served_name: variant.archive for variant in model.on("torchserve")}
    return found


def gateway(
    settings: LaunchSettings, ports: Ports, models: Sequence[BuiltModel], dropped: Mapping[str, str] | None = None
) -> Server:
    """Our gateway, in front of both, over both protocols of each.

    `dropped` are variants that turned out not to load, by their names on the server: looked at again when it starts.
    """
    file = settings.run_dir / "gateway.yaml"
    host, rest = settings.host, ports.gateway_rest_port
    head = "# Written by the launcher at every start; `twinserve gateway --config FILE` runs a gateway of your own.\n"
    bodies: dict[str, bytes] = {}

    def prepare() -> None:
        left = without(models, dropped or {})
        config = gateway_config(settings, ports, left)
        file.write_text(head + yaml.safe_dump(config, sort_keys=False))
        bodies.clear()
        bodies.update(questions(left, config["endpoints"]))

    prepare()
    return Server(
        name="gateway",
        command=[sys.executable, "-m", "gateway", "--config", str(file)],
        waiting_for=probes.gateway_waits_for(host, rest, bodies),
        describe=lambda: probes.gateway_name(host, rest),
        ports=ports.listed(["gateway_rest_port", "gateway_grpc_port", "gateway_admin_port"]),
        url=f"http://{host}:{rest}",
        health="/v2/health/ready",
        prepare=prepare,
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
    plain_side = {
        "grpc": f"{host}:{ports.tfserving_nograppler_grpc_port}",
        "rest": f"http://{host}:{ports.tfserving_nograppler_rest_port}",
    }
    if shutil.which(PROGRAM):
        tf_side["server"] = plain_side["server"] = tfserving_title()
    torch_models, tf_models = archives(models), saved_models(models)
    plain_models = saved_models(models, without_grappler=True)
    # Models that a server has under a variant's name are no models of the gateway's: `models` takes none unlisted.
    listed: dict[str, Any] = {"models": []} if any(model.variants for model in models) else {}
    endpoints = {
        name: {"stack": stack, "transport": transport, **side, "slots": SLOTS[stack], "queue": QUEUE, **listed}
        for name, stack, transport, side, has in (
            ("ts", "torchserve", "rest", torch_side, torch_models),
            ("tf", "tfserving", "grpc", tf_side, tf_models),
            ("ts-grpc", "torchserve", "grpc", torch_side, torch_models),
            ("tf-rest", "tfserving", "rest", tf_side, tf_models),
            ("tf-nograppler", "tfserving", "grpc", plain_side, plain_models),
            ("tf-nograppler-rest", "tfserving", "rest", plain_side, plain_models),
        )
        if has
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
                "targets": targets(model, endpoints),
                **({"unavailable": dict(model.unavailable)} if model.unavailable else {}),
            }
            for model in models
        },
    }


def targets(model: BuiltModel, endpoints: Iterable[str]) -> list[dict[str, Any]]:
    """A model's targets: the default variants in the endpoints' order, then each other one, which answers by name."""
    found: list[dict[str, Any]] = [{"endpoint": name} for name in endpoints if _serves(model, name)]
    for variant in model.variants:
        where = NOGRAPPLER_ENDPOINTS if variant.name == WITHOUT_GRAPPLER else STACK_ENDPOINTS[variant.stack]
        alone = {"batching": False} if VARIANTS[variant.name].mixes_rows else {}
        found += [
            {"endpoint": name, "model": variant.served_name, "variant": variant.name, "by_name": True, **alone}
            for name in where
        ]
    return found


def _serves(model: BuiltModel, endpoint: str) -> bool:
    """Whether an endpoint has a model's default variant; one that is not ours has what it is asked for."""
    stack = next((stack for stack, names in STACK_ENDPOINTS.items() if endpoint in names), None)
    return endpoint not in NOGRAPPLER_ENDPOINTS if stack is None else stack in model.stacks


def questions(models: Iterable[BuiltModel], endpoints: Iterable[str]) -> dict[str, bytes]:
    """A body of /predict for every model and variant wherever it is served: one row by the contract.

    It is of zeros, or of the greatest value that the contract allows: with a mask of zeros nothing is left to answer
    for, and FP16 divides by it.
    """
    bodies = {}
    for model in models:
        inputs = {
            item["name"]: _filled(item["shape"], item.get("bounds", {}).get("most", EMPTY.get(item["datatype"], 0)))
            for item in json.loads(model.contract.read_text())["inputs"]
        }
        for target in targets(model, endpoints):
            body = {"model": model.name, "endpoint": target["endpoint"], "inputs": inputs}
            what = f"model '{model.name}'"
            if "variant" in target:
                body["variant"] = target["variant"]
                what += f" as {target['variant']}"
            bodies[f"{what} through endpoint '{target['endpoint']}'"] = json.dumps(body).encode()
    return bodies


def _filled(shape: Sequence[int], value: object) -> object:
    return [_filled(shape[1:], value)] * max(shape[0], 1) if shape else value


def every_port(ports: Ports) -> tuple[Port, ...]:
    """The ports of all servers."""
    return ports.listed(Ports.model_fields)


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
