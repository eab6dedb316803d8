"""A toy model's golden data, and targets that serve it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gateway.core.contract import ModelContract, Parity
from gateway.core.messages import TensorSpec
from gateway.core.tensor import NDArray
from loadtests.cell_spec import Path as Way
from loadtests.cell_spec import Protocol, Target

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


def toy_target(
    stack: str = "torchserve", protocol: Protocol = "predict", address: str = "h:1", **fields: Any
) -> Target:
    """A target of the toy model."""
    path: Way = "gateway" if protocol in ("predict", "oip-grpc") else "direct"
    return Target(
        **{"name": f"{path}/{stack}", "path": path, "server": SERVERS[stack], **fields},
        protocol=protocol,
        address=address,
        model="toy",
        stack=stack,
    )
