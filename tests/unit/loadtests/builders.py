"""A toy model's golden data, and cells and results with plausible figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from gateway.core.contract import ModelContract, Parity
from gateway.core.messages import TensorSpec
from gateway.core.tensor import NDArray
from loadtests.cells import Cell, demo_cells
from loadtests.results import CellResult

ROWS = 64
SERVERS = {"torchserve": "TorchServe 0.12.0", "tfserving": "savedmodel-server 1.0 (stand-in)"}


def toy_contract(name: str = "toy") -> ModelContract:
    """Input `x` FP32 [-1, 3], output `y` FP32 [-1, 2]."""
    return ModelContract(
        name=name,
        version=1,
        inputs=(TensorSpec("x", "FP32", (-1, 3)),),
        outputs=(TensorSpec("y", "FP32", (-1, 2)),),
        batch_cap=256,
        parity=Parity(passed=True, max_abs=3.1e-5, max_scaled=2.3e-7, argmax_agreement=1.0),
    )


def toy_model(x: NDArray) -> NDArray:
    """What the toy model answers: sum and largest value of each row."""
    return np.stack([x.sum(axis=1), x.max(axis=1)], axis=1).astype(np.float32)


def write_toy(artifacts: Path, name: str = "toy") -> Path:
    """Writes the toy's contract, golden data and manifest; returns `artifacts`."""
    folder = artifacts / "models" / name
    folder.mkdir(parents=True)
    (folder / "contract.json").write_text(toy_contract(name).to_json())
    (folder / "manifest.json").write_text(json.dumps({"metric": {"accuracy": 0.98}}))
    x = np.random.default_rng(5).normal(100, 50, (ROWS, 3)).astype(np.float32)
    np.savez(folder / "golden.npz", x=x, y=toy_model(x))
    return artifacts


def toy_cell(*, path: str = "direct", stack: str = "torchserve", protocol: str = "rest", address: str = "") -> Cell:
    """One of the demo's cells for the toy model, at another address."""
    for cell in demo_cells(["toy"], servers=SERVERS):
        if (cell.path, cell.stack, cell.protocol) == (path, stack, protocol) and cell.upstream != "default":
            return replace(cell, address=address or cell.address)
    raise LookupError(f"no cell {path} {stack} {protocol}")


def toy_result(cell: Cell, *, count: int = 500, wrong: int = 0, seed: int = 0) -> CellResult:
    """A result with `count` right answers around 2 ms in a window of 2 s, and `wrong` wrong ones."""
    latencies = np.random.default_rng(seed).lognormal(np.log(2), 0.3, count)
    return CellResult(
        cell=cell,
        users=4,
        rows=1,
        warm_up_s=1.0,
        window_s=2.0,
        outcomes={"ok": count, "wrong_answer": wrong},
        latencies_ms=tuple(latencies.tolist()),
        examples={"wrong_answer": ("output 'y' is off by up to 1",)} if wrong else {},
        generator_cpu=0.4,
    )


def toy_results(model: str = "toy") -> list[CellResult]:
    """A result for each cell of a demo with one model."""
    cells = demo_cells([model], servers=SERVERS)
    return [toy_result(cell, seed=seed) for seed, cell in enumerate(cells)]
