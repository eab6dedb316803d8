"""The demo's `summary.json`: parity of the models, one entry for each cell of its run, and the environment."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.core.contract import ContractError, ModelContract
from loadtests.addresses import Endpoints
from loadtests.campaign.settings import WARM_UP_S
from loadtests.cell_spec import STAND_IN
from loadtests.disk import write_whole
from loadtests.environment import describe_environment
from loadtests.errors import LoadTestError
from loadtests.replies import Outcome

Line = Mapping[str, Any]
# What follows a check's name in a reason: the value that broke its limit.
_VALUE = re.compile(r" \S+(?: (?:%|ms|s|of a core))?, limit .*$")
_CHECKS_TOLD = 3


def build_summary(
    lines: Sequence[Line], *, artifacts: Path, environment: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The document of `summary.json`, JSON types only, from the lines of a run in the order in which they are shown.

    The A/A control's is left out. `environment` (this machine's, by default) is completed with how the load was made
    and with `stand_in`. Raises LoadTestError where a model's contract cannot be read.
    """
    lines = [line for line in lines if not line.get("control")]
    stand_ins = sorted({str(line["server"]) for line in lines if line["stand_in"]})
    return {
        "models": {
            name: _model(artifacts / "models" / name) for name in dict.fromkeys(line["model"] for line in lines)
        },
        "cells": [_row(line) for line in lines],
        "environment": {
            **(environment if environment is not None else describe_environment()),
            "stand_in": bool(stand_ins),
            "stand_ins": stand_ins,
            "load": _load(lines),
        },
    }


def write_summary(summary: Mapping[str, Any], path: Path) -> None:
    """Writes `summary.json`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(summary, indent=2) + "\n")


def stand_ins_of(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """The stand-ins that took part, by the cells themselves; empty where every server was the real one."""
    return tuple(sorted({str(cell["server"]) for cell in summary["cells"] if STAND_IN in str(cell["server"])}))


def invalid_words(cells: Sequence[Mapping[str, Any]]) -> str:
    """How many of some cells are INVALID, and the checks that fail most often; empty where all are VALID.

    `cells` are lines of a run or the summary's own. The values that broke a limit differ from cell to cell and are in
    their `reasons`.
    """
    bad = [cell for cell in cells if not cell["valid"]]
    if not bad:
        return ""
    counts = Counter(check for cell in bad for check in {_VALUE.sub("", reason) for reason in cell["reasons"]})
    checks = ", ".join(f"{check} ({count})" for check, count in counts.most_common(_CHECKS_TOLD))
    return f"{len(bad)} of {len(cells)} INVALID: {checks or 'no reason given'}"


def _row(line: Line) -> dict[str, Any]:
    outcomes = line["outcomes"]
    requests = sum(outcomes.values())
    upstream = None
    if line["path"] == "gateway":
        upstream = "matched" if line["upstream_protocol"] else "default"
    return {
        "model": line["model"],
        "stack": line["stack"],
        "server": line["server"],
        "path": line["path"],
        "upstream": upstream,
        "protocol": _transport(line["protocol"]),
        "upstream_protocol": _upstream_protocol(line) if upstream else None,
        "requests": requests,
        "failures": requests - outcomes.get(Outcome.OK, 0),
        "valid": bool(line["valid"]),
        "reasons": list(line["reasons"]),
        "rps": round(line["achieved"], 1),
        **{f"{name}_ms": _rounded(line["L"][name]) for name in ("p50", "p95", "p99")},
    }


def _upstream_protocol(line: Line) -> str | None:
    """The gateway's transport to the model server; where the gateway chose, that of the endpoint which answered."""
    if line["upstream_protocol"]:
        return _transport(line["upstream_protocol"])
    transports = Endpoints().transports()
    seen = {transports[name] for name in line["endpoints"] if name in transports}
    return seen.pop() if len(seen) == 1 else None


def _transport(protocol: str) -> str:
    return "grpc" if protocol.endswith("grpc") else "rest"


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


def _load(lines: Sequence[Line]) -> dict[str, Any]:
    busiest = [line["client_cpu_max"] for line in lines if line["client_cpu_max"] is not None]
    seconds = [line["T"] for line in lines]
    return {
        "loop": "closed",
        "users": sorted({line["concurrency"] for line in lines}),
        "rows_per_request": sorted({line["rows"] for line in lines}),
        "warm_up_s": [WARM_UP_S["demo"]],
        "window_s": [round(min(seconds), 2), round(max(seconds), 2)] if seconds else [],
        "generator_cpu_max": round(max(busiest), 2) if busiest else None,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
