"""What is asked of every way through the gateway: one table of models, values and what is odd about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gateway.core.contract import ModelContract
from gateway.core.messages import TensorSpec
from gateway.core.tensor import NUMPY_DTYPE, Tensor
from loadtests.golden import Golden, load_golden

# In the order of the page's columns.
DATATYPES = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "BF16", "FP32", "FP64", "BYTES"),
)
REAL_MODELS = ("simplenn", "digits")
BATCH_CAP = 8

# Sections of the page.
VALUES = "Datatypes"
NO_ROWS = "No rows: shape [0, 2]"
RANKS = {"FP32": "FP32 by shape", "BYTES": "BYTES by shape"}
ODD = "Values that text has no form for"
SEVERAL = "Several inputs and outputs"
REAL = "Trained models"


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One question and its answer. `odd` says what a protocol may be unable to carry.

    `golden` is set for a trained model, whose answer is right within its contract's tolerance.
    """

    section: str
    name: str
    contract: ModelContract
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    odd: frozenset[str] = frozenset()
    wanted: tuple[str, ...] = ()
    golden: Golden | None = field(default=None, repr=False)

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from all others."""
        return self.section, self.name


def extremes(datatype: str) -> list[Any]:
    """Six values that show a wrong width, sign, byte order or rounding."""
    if datatype == "BOOL":
        return [True, False, False, True, True, False]
    if datatype == "BYTES":
        return [b"", b"a", "žluťoučký kůň 🐎".encode(), b'"quoted", \\ and {braces}', b"nul \0 tab \t", b"x" * 300]
    if datatype in ("FP16", "BF16", "FP32", "FP64"):
        limits = ml_dtypes.finfo(NUMPY_DTYPE[datatype])
        # The smallest subnormal, a fraction that no binary float has, both signs of nothing and of the largest.
        return [limits.max, limits.min, limits.smallest_subnormal, 0.1, -0.0, 2.0 / 3.0]
    limits = np.iinfo(NUMPY_DTYPE[datatype])
    return [limits.min, limits.max, 0, 1, limits.max - 1, limits.max // 3]


def identity(name: str, *specs: TensorSpec, **changes: Any) -> ModelContract:
    """A model whose outputs are its inputs; dimension 0 is a batch wherever all have one."""
    batched = all(spec.shape[:1] == (-1,) for spec in specs)
    outputs = tuple(replace(spec, name="y" + spec.name[1:]) for spec in specs)
    return ModelContract(name, 1, specs, outputs, batch_cap=BATCH_CAP if batched else None, **changes)


def arrays(datatype: str, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """An array of a shape, filled with the extremes again and again."""
    count = int(np.prod(shape, dtype=np.int64))
    array = np.empty(count, NUMPY_DTYPE[datatype])
    values = extremes(datatype)
    array[:] = [values[(index + 3) % 6] for index in range(count)]
    return array.reshape(tuple(shape))


def case(section: str, name: str, contract: ModelContract, *given: np.ndarray[Any, Any], **changes: Any) -> Case:
    """The question of an identity: each input is its output."""
    specs = contract.inputs
    inputs = tuple(Tensor(spec.name, spec.datatype, array) for spec, array in zip(specs, given, strict=True))
    outputs = tuple(
        Tensor(spec.name, spec.datatype, array) for spec, array in zip(contract.outputs, given, strict=True)
    )
    wanted = changes.get("wanted")
    if wanted:
        outputs = tuple(tensor for tensor in outputs if tensor.name in wanted)
    odd = changes.pop("odd", frozenset()) | _shapes_of(inputs) | {tensor.datatype for tensor in inputs}
    return Case(section, name, contract, inputs, outputs, odd=frozenset(odd), **changes)


def _shapes_of(inputs: Iterable[Tensor]) -> set[str]:
    found = set()
    for tensor in inputs:
        if not tensor.shape:
            found.add("scalar")
        elif tensor.shape[0] == 0:
            found.add("no rows")
        if 0 in tensor.shape[:-1]:
            found.add("hidden shape")
    return found


# Shapes by rank; each dimension of its own size, so that one that is lost or swapped shows.
SHAPES: tuple[tuple[int, ...], ...] = ((), (3,), (3, 2), (3, 2, 4), (3, 2, 1, 4), (3, 2, 1, 4, 2))


def identities() -> list[Case]:
    """Every question to an identity."""
    flat = {datatype: identity(datatype.lower(), TensorSpec("x", datatype, (-1, 2))) for datatype in DATATYPES}
    cases = [case(VALUES, name, its, arrays(name, (3, 2))) for name, its in flat.items()]
    cases += [case(NO_ROWS, name, its, arrays(name, (0, 2))) for name, its in flat.items()]
    ranked = {
        (datatype, rank): identity(f"{datatype.lower()}_rank{rank}", TensorSpec("x", datatype, _open(shape)))
        for datatype in ("FP32", "BYTES")
        for rank, shape in enumerate(SHAPES)
    }
    cases += [
        case(RANKS[datatype], str(list(SHAPES[rank])), its, arrays(datatype, SHAPES[rank]))
        for (datatype, rank), its in ranked.items()
    ]
    cases.append(case(RANKS["BYTES"], "[1]", ranked["BYTES", 1], arrays("BYTES", (1,))))
    anything = identity("open", TensorSpec("x", "FP32", (-1, -1)), finite="allowed")
    cases += [case(RANKS["FP32"], str([*shape]), anything, arrays("FP32", shape)) for shape in ((3, 0), (0, 0))]
    nan = np.array([[np.nan, 1.5], [np.inf, -np.inf]], np.float32)
    cases.append(case(ODD, "FP32 with NaN and infinities", anything, nan, odd={"nan"}))
    anybytes = np.array([[b"\xff\xfe", b"\x80"], [b"\0\xc3(", b"text"]], object)
    cases.append(case(ODD, "BYTES beyond UTF-8", flat["BYTES"], anybytes, odd={"not UTF-8", "plain name"}))
    one = np.array([b"\xff\xfe\0"], object)
    cases.append(case(ODD, "BYTES [1] beyond UTF-8", ranked["BYTES", 1], one, odd={"not UTF-8", "plain name"}))
    named = identity("binary", TensorSpec("x_bytes", "BYTES", (-1, 2)))
    cases.append(case(ODD, "BYTES beyond UTF-8, output `y_bytes`", named, anybytes, odd={"not UTF-8"}))
    mixed = identity(
        "mixed",
        TensorSpec("x_numbers", "FP32", (-1, 3)),
        TensorSpec("x_counts", "INT64", (-1,)),
        TensorSpec("x_flags", "BOOL", (-1, 2, 2)),
        TensorSpec("x_words", "BYTES", (-1, 1)),
    )
    given = [arrays(spec.datatype, (3, *spec.shape[1:])) for spec in mixed.inputs]
    cases.append(case(SEVERAL, "FP32, INT64, BOOL and BYTES", mixed, *given))
    cases.append(case(SEVERAL, "two of four outputs asked for", mixed, *given, wanted=("y_words", "y_counts")))
    uneven = identity("uneven", TensorSpec("x_row", "FP64", (-1,)), TensorSpec("x_scale", "UINT64", ()))
    cases.append(case(SEVERAL, "FP64 [3] and UINT64 []", uneven, arrays("FP64", (3,)), arrays("UINT64", ())))
    return cases


def _open(shape: Sequence[int]) -> tuple[int, ...]:
    """What a contract says of it: any number of rows."""
    return tuple(-1 if axis == 0 else size for axis, size in enumerate(shape))


def models(cases: Iterable[Case]) -> list[ModelContract]:
    """The identities that cases ask for, each once."""
    return list({item.contract.name: item.contract for item in cases if item.golden is None}.values())


def trained(artifacts: Path) -> list[Case]:
    """The golden rows of the trained models, as many as one request takes, and none."""
    cases = []
    for name in REAL_MODELS:
        golden = load_golden(artifacts, name)
        for rows in (min(golden.rows, golden.contract.batch_cap or 1), 0):
            outputs = tuple(
                Tensor(spec.name, spec.datatype, golden.outputs[spec.name][:rows]) for spec in golden.contract.outputs
            )
            inputs = golden.tensors(0, rows)
            odd = frozenset(_shapes_of(inputs)) | ({f"no rows of {name}"} if not rows else set())
            cases.append(Case(REAL, f"`{name}`, {rows} rows", golden.contract, inputs, outputs, odd, golden=golden))
    return cases
