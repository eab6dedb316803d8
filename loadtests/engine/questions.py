"""The questions of a cell: the bodies of its requests, and who judges what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gateway.core.tensor import Tensor
from loadtests.cell_spec import PROTOCOLS, CellSpec, Target
from loadtests.errors import LoadTestError
from loadtests.golden import load_golden
from loadtests.load import Questions
from loadtests.wires import WIRES


def targets_of(spec: CellSpec) -> tuple[Target, ...]:
    """All targets of a cell."""
    return (spec.target, *spec.others)


def questions_of(target: Target, rows: int, artifacts: Path) -> tuple[Questions | None, Sequence[bytes]]:
    """The judge of a target's answers, None where parity is off, and the bodies of its requests.

    With parity off, a model without golden data is asked one made-up FP32 tensor `x` [rows, 1].
    """
    if target.protocol not in PROTOCOLS:
        raise LoadTestError(f"'{target.protocol}' is no protocol; expected one of {', '.join(PROTOCOLS)}")
    wire = WIRES[target.protocol]
    try:
        golden = load_golden(artifacts, target.model)
    except LoadTestError:
        if target.parity:
            raise
        return None, [wire.encode(target.model, (Tensor("x", "FP32", np.ones((rows, 1), np.float32)),))]
    bodies = [wire.encode(target.model, golden.tensors(question, rows)) for question in range(golden.questions(rows))]
    return (Questions(golden, wire, rows, bodies) if target.parity else None), bodies
