"""`summary.json`: parity of the models, one entry for each cell, and the environment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.core.contract import ContractError, ModelContract
from loadtests.cells import STAND_IN
from loadtests.environment import describe_environment
from loadtests.errors import LoadTestError
from loadtests.results import CellResult


def build_summary(
    results: Sequence[CellResult], *, artifacts: Path, environment: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The document of `summary.json`, JSON types only.

    `environment` (this machine's, by default) is completed with how the load was made and with `stand_in`. Raises
    LoadTestError where a model's contract cannot be read.
    """
    models = dict.fromkeys(result.cell.model for result in results)
    stand_ins = sorted({result.server for result in results if result.stand_in})
    return {
        "models": {name: _model(artifacts / "models" / name) for name in models},
        "cells": [result.as_row() for result in results],
        "environment": {
            **(environment if environment is not None else describe_environment()),
            "stand_in": bool(stand_ins),
            "stand_ins": stand_ins,
            "load": _load(results),
        },
    }


def write_summary(summary: Mapping[str, Any], path: Path) -> None:
    """Writes `summary.json`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
    part.replace(path)


def stand_ins_of(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """The stand-ins that took part, by the cells themselves; empty where every server was the real one."""
    return tuple(sorted({str(cell["server"]) for cell in summary["cells"] if STAND_IN in str(cell["server"])}))


def _model(folder: Path) -> dict[str, Any]:
    try:
        contract = ModelContract.load(folder / "contract.json")
    except ContractError as exc:
        raise LoadTestError(str(exc)) from exc
    parity = contract.parity
    return {
        "parity_max_scaled": parity.max_scaled if parity else None,
        "parity_max_abs": parity.max_abs if parity else None,
        "argmax_agreement": parity.argmax_agreement if parity else None,
        "metric": _metric(folder / "manifest.json"),
    }


def _metric(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except OSError:
        return {}
    except ValueError as exc:
        raise LoadTestError(f"{path}: not JSON: {exc}; `twinserve models build` writes it") from exc
    metric = manifest.get("metric", {}) if isinstance(manifest, dict) else {}
    return dict(metric) if isinstance(metric, dict) else {}


def _load(results: Sequence[CellResult]) -> dict[str, Any]:
    shares = [result.generator_cpu for result in results if result.generator_cpu is not None]
    return {
        "loop": "closed",
        "users": sorted({result.users for result in results}),
        "rows_per_request": sorted({result.rows for result in results}),
        "warm_up_s": sorted({result.warm_up_s for result in results}),
        "window_s": [round(min(windows), 2), round(max(windows), 2)] if (windows := _windows(results)) else [],
        "generator_cpu_max": round(max(shares), 2) if shares else None,
    }


def _windows(results: Sequence[CellResult]) -> list[float]:
    return [result.window_s for result in results]
