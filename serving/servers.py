"""How each server is run: its command, its files in the run folder, and what it is waited for."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
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

TORCHSERVE_FILES = Path(__file__).parent / "torchserve"
TFSERVING_FILES = Path(__file__).parent / "tfserving"
TFSERVING_PROGRAM = "tensorflow_model_server"
STAND_IN = "serving.tfserving.savedmodel_server"
# A Unix socket's path holds 107 bytes and a final zero; TorchServe adds `/.ts.sock.` and a number.
LONGEST_SOCKET_FOLDER = 107 - len("/.ts.sock.65535")
# What a variant may take longer than a default one: torch.compile and XLA compile before they are ready.
ALLOWANCE_S = 30.0
WITHOUT_GRAPPLER = "savedmodel-nograppler"
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
    Grappler. A variant that ends while TorchServe loads it costs the others nothing, and `report` is told.
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
    if saved_models(models):
        first.append(tfserving(settings, ports, models))
    if saved_models(models, without_grappler=True):
        first.append(tfserving_nograppler(settings, ports, models))
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
    folder = _emptied(settings.run_dir / "torchserve")
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
        ports=_ports(ports, names),
        environment=environment,
        url=f"http://{host}:{rest}",
        health="/ping",
        note=f"with {java}",
        allowance_s=ALLOWANCE_S * sum(len(model.on("torchserve")) for model in models),
    )


def tfserving(settings: LaunchSettings, ports: Ports, models: Sequence[BuiltModel]) -> Server:
    """TensorFlow Serving where its program is on the PATH, else the stand-in, which takes the same options."""
    options = []
    if any(variant.name.startswith("tflite") for model in models for variant in model.variants):
        # Of the folders that have one: a SavedModel's is served as before.
        options.append("--prefer_tflite_model=true")
    return _tensorflow("tfserving", settings, ports, saved_models(models), options)


def tfserving_nograppler(settings: LaunchSettings, ports: Ports, models: Sequence[BuiltModel]) -> Server:
    """A second server of TensorFlow's, whose sessions do not rewrite what they run."""
    options = [f"--platform_config_file={TFSERVING_FILES / 'nograppler.config'}"]
    served = saved_models(models, without_grappler=True)
    return _tensorflow("tfserving-nograppler", settings, ports, served, options)


def _tensorflow(
    name: str, settings: LaunchSettings, ports: Ports, served: Mapping[str, Path], more: Sequence[str]
) -> Server:
    folder = _emptied(settings.run_dir / name)
    config = folder / "models.config"
    config.write_text(models_config(served))
    its_ports = [f"{name.replace('-', '_')}_{door}_port" for door in ("grpc", "rest")]
    grpc, rest = (getattr(ports, each) for each in its_ports)
    host = settings.host
    options = [
        f"--port={grpc}",
        f"--rest_api_port={rest}",
        f"--model_config_file={config}",
        # A model that does not load ends the start at once: by default it is tried for five minutes more.
        "--max_num_load_retries=0",
        *more,
    ]
    if program := shutil.which(TFSERVING_PROGRAM):
        # The real server has no option to listen on one address only.
        command, title = [program, *options], tfserving_title()
    else:
        command = [sys.executable, "-m", STAND_IN, *options, f"--bind_address={host}"]
        title = "savedmodel-server (stand-in)"  # with its version once it answers
    names = list(served)
    return Server(
        name=name,
        command=command,
        waiting_for=probes.tfserving_waits_for(host, rest, names),
        describe=lambda: probes.tfserving_name(host, rest, names[0], title),
        ports=_ports(ports, its_ports),
        url=f"http://{host}:{rest}",
        health=f"/v1/models/{names[0]}",
        note=f"as {title}",
        allowance_s=ALLOWANCE_S * len(names) / 2,
    )


def archives(models: Iterable[BuiltModel]) -> dict[str, Path]:
    """What TorchServe serves, by name there."""
    found = {}
    for model in models:
        if "torchserve" in model.stacks:
            found[model.name] = model.archive
        found |= {variant.served_name: variant.archive for variant in model.on("torchserve")}
    return found


def saved_models(models: Iterable[BuiltModel], *, without_grappler: bool = False) -> dict[str, Path]:
    """What TensorFlow's server serves, or its second process does: folders of numbered versions by name there."""
    found = {}
    for model in models:
        if "tfserving" in model.stacks and not without_grappler:
            found[model.name] = model.saved_model
        for variant in model.on("tfserving"):
            if (variant.name == WITHOUT_GRAPPLER) is without_grappler:
                found[variant.served_name] = variant.folder
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
        ports=_ports(ports, ["gateway_rest_port", "gateway_grpc_port", "gateway_admin_port"]),
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
    if shutil.which(TFSERVING_PROGRAM):
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
    """A body of /predict for every model and variant wherever it is served: one row of zeros, by the contract."""
    bodies = {}
    for model in models:
        inputs = {
            item["name"]: _filled(item["shape"], EMPTY.get(item["datatype"], 0))
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


def models_config(served: Mapping[str, Path]) -> str:
    """TensorFlow Serving's model_config_list, in protobuf's text format, of folders by model name."""
    # JSON's string escapes are among those of protobuf's text format.
    entries = [
        f"  config {{\n    name: {json.dumps(name)}\n    base_path: {json.dumps(str(folder))}\n"
        f'    model_platform: "tensorflow"\n  }}\n'
        for name, folder in served.items()
    ]
    return f"model_config_list {{\n{''.join(entries)}}}\n"


def tfserving_title() -> str:
    """What the TensorFlow Serving on the PATH calls itself, with its version, such as `TensorFlow Serving 2.19.1`."""
    told = subprocess.run(  # noqa: S603 - the program that is run anyway
        [TFSERVING_PROGRAM, "--version"], capture_output=True, text=True, check=False
    ).stdout
    lines = [line for line in told.splitlines() if line.startswith("TensorFlow ModelServer:")]
    return f"TensorFlow Serving {lines[0].partition(':')[2].strip()}" if lines else "TensorFlow Serving"


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
