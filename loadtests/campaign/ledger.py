"""The fairness ledger: what must be alike for two targets' figures to be compared, as data.

Each entry has `like`, flat facts that decide whether two ledgers are alike, and `facts`, which a reader needs and which
may differ, such as versions and process ids.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from loadtests.campaign.containers import Container, ContainerMeter
from loadtests.campaign.parity import Parity
from loadtests.campaign.processes import ProcessMeter
from loadtests.campaign.resources import Meter, Unmeasured
from loadtests.campaign.served import get_json
from loadtests.campaign.settings import TargetSettings
from loadtests.cell_spec import Target
from loadtests.store.stored import read_object

SCHEMA = 1
# What sizes the thread pools of both frameworks, and what else changes their speed.
_VARIABLES = ("OMP_", "MKL_", "KMP_", "OPENBLAS_", "TF_", "TS_", "ONEDNN_", "XLA_", "MALLOC_", "LD_PRELOAD", "CUDA_")
_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")
_MASK = "***"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where facts are looked up: the built models, the launcher's files, TorchServe's management address or ""."""

    models_dir: Path
    run_dir: Path
    management: str = ""


def ledger_of(
    targets: Iterable[tuple[Target, TargetSettings]],
    parities: Mapping[str, Parity],
    meters: Mapping[str, Sequence[Meter]],
    sources: Sources,
    rows: Sequence[int],
) -> Json:
    """The ledger of targets, each with what it was made of; `parities` and `meters` are by `key_of` each."""
    entries = {
        key_of(target): _entry(target, settings, parities.get(key_of(target)), meters[key_of(target)], sources, rows)
        for target, settings in targets
    }
    return {"schema": SCHEMA, "targets": entries}


def key_of(target: Target) -> str:
    """The name of a model's target in the ledger and in parity.json."""
    return f"{target.model}/{target.name}"


def golden_of(models_dir: Path, target: Target) -> str:
    """SHA-256 of golden.npz, the answers that the trained weights give and every export of them must give.

    Empty where no build wrote it down. The hashes of an export's own files are among the `facts`.
    """
    with contextlib.suppress(OSError, ValueError):
        manifest = json.loads((models_dir / target.model / "manifest.json").read_text("utf-8"))
        files = manifest.get("files", {})
        return str(files.get("golden.npz") or manifest.get("fingerprint") or "")
    return ""


def _entry(
    target: Target,
    given: TargetSettings,
    parity: Parity | None,
    meters: Sequence[Meter],
    sources: Sources,
    rows: Sequence[int],
) -> Json:
    programs = {meter.name: _program(meter) for meter in meters}
    settings = _settings(target, programs, sources)
    # The launcher holds what it serves against the build; of another's server only its answers tell what it has.
    ours = given.configured is not None
    known = ours or (parity is not None and not parity.bad)
    like = {
        "golden_answers": golden_of(sources.models_dir, target) if known else None,
        "payload_rows": ",".join(map(str, rows)),
        "payload_bytes_out": round(parity.bytes_out) if parity else None,
        "payload_bytes_in": round(parity.bytes_in) if parity else None,
        "config": given.config,
        # A server that was tuned for longer is not better for that.
        **({"tuning_trials": given.tuning_trials} if given.config == "tuned" else {}),
        **{f"{name}.cpus": program.get("cpus") for name, program in programs.items()},
        **{
            f"{name}.{fact}": program.get(fact)
            for fact in ("memory_limit", "cpu_limit", "nice")
            for name, program in programs.items()
        },
        **settings,
    }
    return {
        "target": target.name,
        "model": target.model,
        "variant": target.variant,
        "stack": target.stack,
        "path": target.path,
        "protocol": target.protocol,
        "upstream_protocol": target.upstream_protocol,
        "server": target.server,
        "address": target.address,
        "like": like,
        "facts": {"files": _files(sources.models_dir, target) if ours else {}, "programs": programs},
    }


def _files(models_dir: Path, target: Target) -> Json:
    """SHA-256 of each file of the export that is served."""
    own = read_object(models_dir / target.model / "variants" / target.variant / "variant.json")
    if target.variant and own.get("files"):
        return dict(own["files"])
    with contextlib.suppress(OSError, ValueError):
        manifest = json.loads((models_dir / target.model / "manifest.json").read_text("utf-8"))
        return {
            name: digest
            for name, digest in manifest.get("files", {}).items()
            if not target.variant or name.startswith(f"{target.variant}/")
        }
    return {}


def _program(meter: Meter) -> Json:
    if isinstance(meter, ProcessMeter):
        return _process(meter.pid)
    if isinstance(meter, ContainerMeter):
        return _container(meter.container)
    return {"kind": "unknown", "why": meter.why if isinstance(meter, Unmeasured) else ""}


def _process(pid: int) -> Json:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            found: Json = {
                "kind": "process",
                "pid": pid,
                "command": masked(process.cmdline()),
                "threads": sum(each.num_threads() for each in (process, *process.children(recursive=True))),
                "workers": len(process.children(recursive=True)),
                "cpus": _ranges(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else None,
                "nice": process.nice(),
                "memory_limit": None,
            }
    except psutil.Error as exc:
        return {"kind": "process", "pid": pid, "why": str(exc)}
    with contextlib.suppress(psutil.Error, OSError):
        found["environment"] = _environment(process.environ())
    return found


def _container(container: Container) -> Json:
    return {
        "kind": "container",
        "name": container.name,
        "image": container.image,
        "digest": container.digest,
        "command": masked(container.command),
        "cpus": container.cpuset or _ranges(list(range(os.cpu_count() or 1))),
        "cpu_limit": container.cpus,
        "memory_limit": container.memory,
    }


def _settings(target: Target, programs: Mapping[str, Json], sources: Sources) -> Json:
    """Workers, threads and batching, as far as the server says or its command line does."""
    found: Json = {}
    if "gateway" in programs:
        found |= _gateway_settings(sources.run_dir / "gateway.yaml", target)
    # The management address is that of the configured TorchServe; one at an address of the user's is another.
    if target.stack == "torchserve" and "torchserve" in programs and sources.management:
        found |= torchserve_settings(get_json(sources.management, f"/models/{target.asked_for}"))
    if target.stack == "tfserving" or (target.path == "direct" and target.protocol.startswith("tfserving")):
        command = programs.get("tfserving", next(iter(programs.values()), {})).get("command", [])
        found |= tfserving_settings(command)
    for name, program in programs.items():
        variables = program.get("environment", {})
        found |= {f"{name}.{key}": value for key, value in variables.items() if key in _POOLS}
    return found


_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def torchserve_settings(described: object) -> Json:
    """Workers and batching from TorchServe's description of a model; empty where it is none."""
    first = described[0] if isinstance(described, list) and described else {}
    names = ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "jobQueueSize", "deviceType")
    return {f"torchserve.{name}": first[name] for name in names if isinstance(first, dict) and name in first}


def tfserving_settings(command: Sequence[str]) -> Json:
    """Batching and threads from the command line of TensorFlow Serving, or of the stand-in, which takes the same."""
    names = {
        "--enable_batching": "batching",
        "--batching_parameters_file": "batching_file",
        "--tensorflow_session_parallelism": "session_parallelism",
        "--tensorflow_intra_op_parallelism": "intra_op_threads",
        "--tensorflow_inter_op_parallelism": "inter_op_threads",
        "--rest_api_num_threads": "rest_threads",
        "--grpc_max_threads": "grpc_threads",
    }
    given = {name: value for name, _, value in (word.partition("=") for word in command) if name in names}
    found: Json = {f"tfserving.{title}": given.get(option, "default") or "true" for option, title in names.items()}
    return found | _batching(Path(given.get("--batching_parameters_file") or "/dev/null"))


def _batching(file: Path) -> Json:
    """What TensorFlow Serving's text protobuf of BatchingParameters sets; empty where it cannot be read from here."""
    text = ""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = file.read_text("utf-8")
    names = ("max_batch_size", "batch_timeout_micros", "num_batch_threads")
    given = {name: re.search(rf"\b{name}\s*:?\s*{{\s*value\s*:\s*(\d+)", text) for name in names}
    return {f"tfserving.{name}": int(match[1]) for name, match in given.items() if match}


def _gateway_settings(file: Path, target: Target) -> Json:
    endpoint = target.pins.get("x-endpoint")
    with contextlib.suppress(OSError, yaml.YAMLError, AttributeError):
        settings = yaml.safe_load(file.read_text("utf-8"))["endpoints"].get(endpoint, {})
        return {f"gateway.{name}": settings[name] for name in ("slots", "queue", "transport") if name in settings}
    return {}


def masked(command: Sequence[str]) -> list[str]:
    """A command line without secrets: the value of any option that is named like one, as `--x=V` and as `--x V`."""
    found: list[str] = []
    follows = False
    for word in command:
        name, equals, _ = word.partition("=")
        secret = _secret(name)
        if follows and not word.startswith("--"):
            found.append(_MASK)
        elif " " in name or (" " in word and not secret):
            # A shell's `-c`, or a path with spaces in it.
            found.append(" ".join(masked(word.split(" "))))
        else:
            found.append(f"{name}={_MASK}" if secret and equals else word)
        follows = secret and not equals and word.startswith("-")
    return found


def _secret(name: str) -> bool:
    return any(word in name.upper() for word in _SECRET)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in sorted(variables.items()) if name.startswith(_VARIABLES) and not _secret(name)
    }


def _ranges(cpus: Sequence[int]) -> str:
    """`0-3,6`, as cpusets are written."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1].append(cpu)
        else:
            parts.append([cpu])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
