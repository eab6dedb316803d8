"""Every protocol against a real gateway: the engine asks, judges the answers, and reads who answered and how soon.

The gateway runs in this process, between the engine's own processes and scripted model servers.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loadtests.cell_spec import PROTOCOLS, CellSpec, Load, Step, Target
from tests.component.test_gateway import double_contract, running
from tests.harness.measuring import Measured, measure

pytestmark = pytest.mark.harness


def _artifacts(folder: Path, model: str = "double") -> None:
    """Golden data of the scripted servers' model."""
    home = folder / "models" / model
    home.mkdir(parents=True)
    (home / "contract.json").write_text(double_contract().to_json(), "utf-8")
    x = np.random.default_rng(3).normal(0, 9, (8, 2)).astype(np.float32)
    np.savez(home / "golden.npz", x=x, y=2 * x, sum=x.sum(axis=1))


def _cell(protocol: str, address: str, **load: object) -> CellSpec:
    values = {"arrivals": "poisson", "steps": (Step(100, 1.5),), "warm_up_seconds": 0.5, "warm_up_requests": 0, **load}
    target = Target("gateway", protocol, address, "double", path="gateway", pins={"x-stack": "tfserving"})  # type: ignore[arg-type]
    return CellSpec("cell", target, "s", Load("server", **values))  # type: ignore[arg-type]


async def _measured(spec: CellSpec, folder: Path) -> Measured:
    _artifacts(folder)
    return await asyncio.to_thread(measure, spec, folder)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_every_door_is_measured_and_its_answers_checked(protocol: str, tmp_path: Path) -> None:
    """All answers are right, each names its server, and the gateway's own account is in the rows."""
    async with running() as world:
        port = world.addresses.grpc_port if protocol.endswith("grpc") else world.addresses.rest_port
        found = await _measured(_cell(protocol, f"127.0.0.1:{port}"), tmp_path)
    rows = found.rows.to_pylist()
    assert {(row["outcome"], row["detail"]) for row in rows} == {("ok", None)}
    assert {row["stack"] for row in rows} == {"tfserving"}
    assert {row["endpoint"] for row in rows} == {"tf"}
    assert len({row["question"] for row in rows}) > 4
    for row in rows:
        took = (row["t_end"] - row["t_snd"]) * 1e3
        assert 0 < row["gw_upstream_ms"] <= row["gw_total_ms"] <= took


@pytest.mark.parametrize("protocol", ["predict", "oip-grpc"])
async def test_a_closed_loop_is_measured_after_both_limits_of_its_warm_up(protocol: str, tmp_path: Path) -> None:
    """At least so long and so many; then for the time asked."""
    async with running() as world:
        port = world.addresses.grpc_port if protocol.endswith("grpc") else world.addresses.rest_port
        spec = _cell(protocol, f"127.0.0.1:{port}", arrivals="closed", steps=(Step(0, 1),), concurrency=3)
        spec = replace(spec, load=replace(spec.load, warm_up_requests=40, rows=4))
        found = await _measured(spec, tmp_path)
    assert set(found.outcomes) == {"ok"}
    assert found.rows.num_rows - len(found.outcomes) >= 40
    assert found.column("t_int", measured=False).min() <= -0.5
    assert 0 <= found.column("t_int").min() <= found.column("t_int").max() < 1
    assert found.workers[0]["connections"] == 3


async def test_a_mixed_cell_asks_all_its_targets_and_says_which(tmp_path: Path) -> None:
    """Each arrival draws one; a row names the model that was asked."""
    async with running() as world:
        spec = _cell("predict", f"127.0.0.1:{world.addresses.rest_port}")
        other = replace(
            spec.target, protocol="oip-grpc", address=f"127.0.0.1:{world.addresses.grpc_port}", model="unheard-of"
        )
        _artifacts(tmp_path, "unheard-of")
        found = await _measured(replace(spec, others=(other,)), tmp_path)
    of = {model: {row["outcome"] for row in found.rows.to_pylist() if row["model"] == model} for model in
          ("double", "unheard-of")}  # fmt: skip
    assert of == {"double": {"ok"}, "unheard-of": {"http_4xx"}}
