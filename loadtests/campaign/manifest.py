"""The manifest of a run: where, when and by what its figures were taken, and how to take them again."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtests.campaign.plan import Plan
from loadtests.campaign.settings import Campaign
from loadtests.environment import PACKAGES, describe_environment

SCHEMA = 1
_MEASURING = ("pyarrow", "duckdb", "hdrhistogram", "scipy", "nvidia-ml-py", "psutil")


def manifest_of(
    campaign: Campaign,
    plan: Plan,
    run: Path,
    command: Sequence[str],
    servers: Mapping[str, str],
    *,
    launched: bool,
    hosted: bool = False,
) -> dict[str, Any]:
    """The manifest at the beginning of a run, whose folder is `run`.

    `launched` says whether the run started its servers itself, `hosted` that it is part of another command, which alone
    makes it again.
    """
    environment = describe_environment((*PACKAGES, *_MEASURING))
    commit = environment["git_commit"] or "COMMIT"
    again = command if hosted else ("twinserve", "bench", "run", str(run / "campaign.yaml"))
    found = {
        "schema": SCHEMA,
        "run": run.name,
        "campaign": campaign.name,
        "tier": campaign.tier,
        "seed": campaign.seed,
        "rounds": campaign.rounds,
        "cells_per_round": plan.per_round,
        "planned_seconds": round(plan.seconds, 1),
        "slo_ms": campaign.slo_ms,
        "price_per_hour": campaign.price_per_hour,
        "utilisation": campaign.utilisation,
        "command": shlex.join(command),
        "reproduce": f"git checkout {commit}; {shlex.join(again)}",
        "environment": environment,
        "host": _host(),
        "placement": {
            "generator_cpus": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "generator_host": "the host of the servers, over loopback" if launched else "see the targets' addresses",
            "idle_stack": "up and idle while the other is measured",
        },
        "servers": dict(servers),
        "servers_started_by_the_run": launched,
    }
    # What a resumed run adds is no part of it, so that every line of the run has the same one.
    identity = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    return {**found, "id": identity, "resumed": []}


def resumed(manifest: Mapping[str, Any], command: Sequence[str]) -> dict[str, Any]:
    """The manifest of a run that goes on; what is different now is told."""
    now = describe_environment((*PACKAGES, *_MEASURING))
    before = manifest.get("environment", {})
    changed = sorted(name for name in now if name != "date" and now[name] != before.get(name))
    entry = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "changed": changed,
    }
    return {**manifest, "resumed": [*manifest.get("resumed", ()), entry]}


def _host() -> dict[str, Any]:
    """What of the host's state shifts figures; None where it cannot be told."""
    return {
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "turbo_off": _read("/sys/devices/system/cpu/intel_pstate/no_turbo"),
        "swappiness": _read("/proc/sys/vm/swappiness"),
        "cpu_max": _read("/sys/fs/cgroup/cpu.max"),
        "boost": _read("/sys/devices/system/cpu/cpufreq/boost"),
    }


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip() or None
    except OSError:
        return None
