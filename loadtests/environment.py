"""Where figures were taken: what a reader needs to repeat them or to doubt them. No host or user names."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "twinserve",
    "torch",
    "torchserve",
    "tensorflow",
    "tensorflow-serving-api",
    "numpy",
    "grpcio",
    "protobuf",
    "fastapi",
    "uvicorn",
    "aiohttp",
    "orjson",
    "locust",
    "gevent",
    "httptools",
)
_ROOT = Path(__file__).resolve().parents[1]


def describe_environment(packages: Iterable[str] = PACKAGES, root: Path = _ROOT) -> dict[str, Any]:
    """CPU, memory, system, Python, package versions, date and the commit of `root`; None where it cannot be told."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu_model": _cpu_model(),
        "cores": psutil.cpu_count() or 1,
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "os": _system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: found for name in packages if (found := _version(name))},
        "git_commit": _git("rev-parse", "HEAD", root=root),
        "git_dirty": bool(changes) if (changes := _git("status", "--porcelain", root=root)) is not None else None,
    }


def _cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    try:
        for line in cpuinfo.read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:
        pass
    return platform.processor() or None


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str, root: Path) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603  # fixed arguments, no shell
            ["git", "-C", str(root), *arguments],  # noqa: S607  # the user's own git
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
