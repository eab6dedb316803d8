"""What is on this machine: everything that the demo and the servers need, and what would run as which server."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import docker
import psutil

from serving.engine import engine
from serving.java import JavaMissing, find_java
from serving.models import find_models
from serving.probes import owner_of
from serving.processes import LaunchError
from serving.settings import LaunchSettings, Ports, is_free
from serving.state import running
from serving.tensorflow import PROGRAM, tfserving_title

PACKAGES = ("torch", "tensorflow", "torchserve", "tensorflow-serving-api", "grpcio", "locust")
# Artifacts, logs and TorchServe's unpacked archives; the packages themselves are installed by now.
NEEDED_DISK = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `ok`, `missing` (something will not work without it), or a `note`."""

    grade: Literal["ok", "missing", "note"]
    what: str
    found: str


def examine(settings: LaunchSettings, ports: Ports, environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Everything there is to say, in the order of a reader's questions."""
    return [
        _python(),
        *_packages(),
        _java(),
        _torchserve(),
        _tfserving(),
        *_models(settings),
        *_ports(settings, ports),
        _disk(settings),
        Finding(
            "note", "Machine", f"{psutil.cpu_count()} CPUs, {psutil.virtual_memory().total / 2**30:.0f} GiB memory"
        ),
        _docker(environment),
    ]


def _python() -> Finding:
    version = sys.version.split()[0]
    # TorchServe 0.12.0 supports nothing newer than 3.11.
    right = sys.version_info[:2] == (3, 11)
    return Finding("ok" if right else "missing", "Python", version if right else f"{version}; 3.11 is needed")


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding("ok", name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("missing", name, "not installed: `make setup`, or pip install 'twinserve[all]'")


def _java() -> Finding:
    try:
        return Finding("ok", "Java", str(find_java()))
    except JavaMissing as exc:
        return Finding("missing", "Java", str(exc))


def _torchserve() -> Finding:
    try:
        return Finding("ok", "Server of torchserve", f"TorchServe {importlib.metadata.version('torchserve')} (real)")
    except importlib.metadata.PackageNotFoundError:
        return Finding("missing", "Server of torchserve", "TorchServe is not installed")


def _tfserving() -> Finding:
    if shutil.which(PROGRAM):
        return Finding("ok", "Server of tfserving", f"{tfserving_title()} (real)")
    return Finding(
        "note",
        "Server of tfserving",
        f"savedmodel-server (stand-in): {PROGRAM} is not on the PATH, and there is no pip package of it",
    )


def _models(settings: LaunchSettings) -> Iterator[Finding]:
    try:
        built = find_models(settings.models_dir)
    except LaunchError as exc:
        yield Finding("missing", "Models", str(exc))
        return
    if not built:
        yield Finding("note", "Models", f"none in {settings.models_dir} yet; `twinserve up` and `demo` build them")
    for model in built:
        yield Finding("ok", f"Model {model.name}", _parity(model.contract))


def _parity(contract: Path) -> str:
    parity = json.loads(contract.read_text()).get("parity")
    if not parity:
        return "built; its variants were not compared"
    worst = f"at most {parity['max_scaled']:.1e} apart"
    return f"built; the variants agree ({worst})" if parity["passed"] else f"built; THE VARIANTS DISAGREE ({worst})"


def _ports(settings: LaunchSettings, ports: Ports) -> Iterator[Finding]:
    state = running(settings.run_dir)
    ours = {port for server in state.servers for port in server.ports} if state else set()
    if ours:
        yield Finding("note", "Running", f"the servers are {state.status}: `twinserve status`" if state else "")
    taken = []
    for name in Ports.model_fields:
        port = getattr(ports, name)
        if port not in ours and not is_free(port, settings.host):
            taken.append(f"{port}{owner_of(port)} ({Ports.use_of(name)}); set {Ports.setting_of(name)}")
    numbers = " ".join(str(getattr(ports, name)) for name in Ports.model_fields)
    yield Finding("missing", "Ports", "taken: " + "; ".join(taken)) if taken else Finding("ok", "Ports", numbers)


def _disk(settings: LaunchSettings) -> Finding:
    folder = next(each for each in (settings.run_dir, *settings.run_dir.parents) if each.exists())
    free = shutil.disk_usage(folder).free
    return Finding("ok" if free > NEEDED_DISK else "missing", "Free disk", f"{free / 2**30:.1f} GiB at {folder}")


def _docker(environment: Mapping[str, str]) -> Finding:
    missing = Finding("note", "Docker", "no engine answers; it is needed for docker-compose.yml only")
    try:
        client = engine(environment)
        if client is None:
            return missing
        with closing(client):
            return Finding("note", "Docker", f"engine {client.version()['Version']}")
    except (docker.errors.DockerException, OSError):
        return missing
