"""Measuring an oracle: a cell from its law and its load, and the figures of its rows."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gateway.core.contract import ModelContract
from gateway.core.messages import TensorSpec
from loadtests.cell_spec import Arrivals, CellSpec, Load, Step, Target
from loadtests.engine.arrivals import schedule
from loadtests.engine.run import run_cell
from loadtests.raw import read_rows
from tests.harness.laws import Law, Queue, queue_times
from tests.harness.oracles import oracle

Values = npt.NDArray[np.float64]
MODEL = "oracle"


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A measured cell: its rows, warm-up included, sorted by scheduled instant, and the generator's account."""

    spec: CellSpec
    rows: pa.Table
    health: dict[str, Any]

    @classmethod
    def of(cls, spec: CellSpec, folder: Path) -> Measured:
        """What `run_cell` left in `folder`."""
        tables = [read_rows(folder / f"{spec.slug}.{worker}.arrow") for worker in range(spec.load.workers)]
        rows = pa.concat_tables(tables).unify_dictionaries().sort_by("t_int")
        return cls(spec, rows, json.loads((folder / "health.json").read_text("utf-8")))

    def column(self, name: str, *, measured: bool = True) -> Values:
        """A column of times, of the measured part alone unless told otherwise."""
        rows = self.rows.filter(self.rows["measured"]) if measured else self.rows
        return rows[name].to_numpy()

    @property
    def outcomes(self) -> list[str]:
        """What became of each measured request."""
        return list(self.rows.filter(self.rows["measured"])["outcome"].to_pylist())

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Which measured requests were answered rightly."""
        return np.array([outcome == "ok" for outcome in self.outcomes])

    @property
    def response(self) -> Values:
        """L of right answers, in seconds, from the scheduled instant."""
        return (self.column("t_end") - self.column("t_int"))[self.ok]

    @property
    def service(self) -> Values:
        """S of right answers, in seconds, from the instant of sending."""
        return (self.column("t_end") - self.column("t_snd"))[self.ok]

    @property
    def lag(self) -> Values:
        """D of everything that was sent, in seconds."""
        lag = self.column("t_snd") - self.column("t_int")
        return lag[~np.isnan(lag)]

    @property
    def workers(self) -> list[dict[str, Any]]:
        """Each worker's account."""
        return list(self.health["workers"])


def percentile(values: Values, share: float) -> float:
    """Nearest rank."""
    return float(np.quantile(values, share, method="inverted_cdf"))


def cell(
    address: str,
    *,
    rate: float = 100.0,
    seconds: float = 5.0,
    protocol: str = "predict",
    arrivals: Arrivals = "poisson",
    parity: bool = False,
    seed: int = 11,
    **load: Any,
) -> CellSpec:
    """One step at `rate`, after a second of warm-up. A closed loop has no rate."""
    defaults: dict[str, Any] = {"warm_up_seconds": 1.0, "warm_up_requests": 0, "timeout_seconds": 5.0}
    steps = (Step(0.0 if arrivals == "closed" else rate, seconds),)
    target = Target("oracle", protocol, address, MODEL, parity=parity)  # type: ignore[arg-type]
    return CellSpec("oracle", target, "s", Load("server", arrivals, steps, **{**defaults, **load}), campaign_seed=seed)


def measure(spec: CellSpec, folder: Path, stop: threading.Event | None = None) -> Measured:
    """Measures a cell into `folder`."""
    run_cell(spec, artifacts=folder, raw=folder, health=folder / "health.json", log=folder / "log", stop=stop)
    return Measured.of(spec, folder)


def measured(law: Law, folder: Path, *, transport: str = "rest", **load: Any) -> Measured:
    """Measures an oracle with this law; `load` is that of `cell`, `transport` one of `oracles.py`."""
    folder.mkdir(parents=True, exist_ok=True)
    protocol = "predict" if transport == "rest" else "oip-grpc"
    with oracle(law, transport) as address:
        return measure(cell(address, protocol=protocol, **load), folder)


def law_times(spec: CellSpec, law: Queue) -> Values:
    """What the law gives for the schedule of a cell, the warm-up before it too: L of each measured request, in s."""
    steps = schedule(spec, 0)
    times = np.concatenate([step.starts + step.times for step in steps])
    return queue_times(times - times[0], law)[len(steps[0].times) :]


def write_golden(artifacts: Path) -> None:
    """The golden data of the oracles: one question, answered 1."""
    folder = artifacts / "models" / MODEL
    folder.mkdir(parents=True)
    contract = ModelContract(
        name=MODEL,
        version=1,
        inputs=(TensorSpec("x", "FP32", (-1, 1)),),
        outputs=(TensorSpec("y", "FP32", (-1, 1)),),
        batch_cap=1,
    )
    (folder / "contract.json").write_text(contract.to_json(), "utf-8")
    np.savez(folder / "golden.npz", x=np.zeros((1, 1), np.float32), y=np.ones((1, 1), np.float32))
