"""The questions that are asked and the answers that count as right: `contract.json` and `golden.npz` of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.core.contract import ContractError, ModelContract
from gateway.core.tensor import NUMPY_DTYPE, NDArray, Tensor
from loadtests.errors import LoadTestError


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """A model's golden inputs and outputs by tensor name; dimension 0 is rows, the same number in each."""

    contract: ModelContract
    inputs: Mapping[str, NDArray]
    outputs: Mapping[str, NDArray]

    @property
    def rows(self) -> int:
        """How many golden rows there are."""
        return len(next(iter(self.inputs.values())))

    def questions(self, rows_each: int) -> int:
        """How many requests of `rows_each` rows the golden inputs give; raises LoadTestError where none."""
        count = self.rows // rows_each if rows_each > 0 else 0
        if count == 0:
            raise LoadTestError(
                f"{rows_each} rows a request; model '{self.contract.name}' has 1 to {self.rows} golden rows"
            )
        return count

    def tensors(self, question: int, rows_each: int) -> tuple[Tensor, ...]:
        """The inputs of one request, in the contract's order."""
        part = slice(question * rows_each, (question + 1) * rows_each)
        return tuple(
            Tensor(spec.name, spec.datatype, np.ascontiguousarray(self.inputs[spec.name][part]))
            for spec in self.contract.inputs
        )

    def fault(self, question: int, rows_each: int, answer: Mapping[str, NDArray]) -> str | None:
        """What is wrong with an answer, None where it is right: |a - b| <= atol + rtol * |b| for every element."""
        part = slice(question * rows_each, (question + 1) * rows_each)
        limit = self.contract.tolerance
        for spec in self.contract.outputs:
            expected = self.outputs[spec.name][part]
            got = answer.get(spec.name)
            if got is None:
                return f"output '{spec.name}' is missing"
            if got.shape != expected.shape:
                return f"output '{spec.name}' has shape {list(got.shape)}; expected {list(expected.shape)}"
            wide = expected.astype(np.float64)
            distance = np.abs(got.astype(np.float64) - wide)
            # Written so that a NaN on either side is a fault.
            if not bool((distance <= limit.atol + limit.rtol * np.abs(wide)).all()):
                return f"output '{spec.name}' is off by up to {distance.max():.3g}, beyond the contract's tolerance"
        return None


def load_golden(artifacts: Path, model: str) -> Golden:
    """Reads `artifacts/models/<model>`; raises LoadTestError where the files are missing or do not fit the contract."""
    folder = artifacts / "models" / model
    try:
        contract = ModelContract.load(folder / "contract.json")
    except ContractError as exc:
        raise LoadTestError(str(exc)) from exc
    path = folder / "golden.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name]) for name in archive.files}
    except (OSError, ValueError) as exc:
        raise LoadTestError(f"{path}: {exc}; `twinserve models build` writes it") from exc
    names = [spec.name for spec in (*contract.inputs, *contract.outputs)]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise LoadTestError(f"{path}: no golden values for {', '.join(missing)}; the contract names them")
    if len({len(arrays[name]) for name in names}) != 1:
        raise LoadTestError(f"{path}: the golden tensors differ in rows (dimension 0)")
    return Golden(
        contract,
        {spec.name: _typed(arrays[spec.name], spec.datatype, path) for spec in contract.inputs},
        {spec.name: _typed(arrays[spec.name], spec.datatype, path) for spec in contract.outputs},
    )


def _typed(array: NDArray, datatype: str, path: Path) -> NDArray:
    if datatype == "BYTES":
        if array.dtype.kind != "S":
            raise LoadTestError(f"{path}: a BYTES tensor is stored as {array.dtype}; expected numpy's bytes")
        return array.astype(object)
    return np.ascontiguousarray(array, dtype=NUMPY_DTYPE[datatype])


def question_order(count: int, user: int) -> Sequence[int]:
    """The order in which a user asks the `count` questions: all of them, each user from another place."""
    start = (user * 17) % count
    return [(start + step) % count for step in range(count)]
