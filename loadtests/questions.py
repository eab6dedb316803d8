"""What a target is asked: the bodies of its requests, encoded beforehand, and who judges what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gateway.core.tensor import Tensor
from loadtests.cell_spec import PROTOCOLS, Target
from loadtests.errors import LoadTestError
from loadtests.golden import Golden, load_golden
from loadtests.replies import BadReplyError, Outcome, RefusedError, Reply, ServedBy, outcome_of_status
from loadtests.wires import WIRES, Wire

# Right replies that are remembered per question, and the largest that is: equal bytes need no second look.
_REMEMBERED = 4
_REMEMBERED_BYTES = 64 * 1024


@dataclass(slots=True)
class Questions:
    """A model's golden questions over one protocol, `rows_each` rows in each request, and the check of the answers."""

    golden: Golden
    wire: Wire
    rows_each: int
    bodies: Sequence[bytes]
    _right: dict[int, set[bytes]] = field(default_factory=dict)

    def judged(self, question: int, reply: Reply) -> tuple[Outcome, str]:
        """The outcome of a reply by its answer, compared with the golden one, and why it failed."""
        if reply.outcome is not Outcome.OK:
            return reply.outcome, reply.detail
        known = self._right.setdefault(question, set())
        if reply.body in known:
            return Outcome.OK, ""
        try:
            answer = self.wire.decode(reply.body, self.golden.contract.outputs)
        except RefusedError as refused:
            return outcome_of_status(refused.status), f"{refused.status}: {refused}"
        except BadReplyError as bad:
            return Outcome.WRONG_ANSWER, str(bad)
        fault = self.golden.fault(question, self.rows_each, answer)
        if fault is not None:
            return Outcome.WRONG_ANSWER, fault
        if len(known) < _REMEMBERED and len(reply.body) <= _REMEMBERED_BYTES:
            known.add(reply.body)
        return Outcome.OK, ""


def astray(target: Target, origin: ServedBy) -> str:
    """That another than the pinned endpoint or stack has answered, in words; empty where it is the right one."""
    for pin, seen in (("x-endpoint", origin.endpoint), ("x-stack", origin.stack)):
        wanted = target.pins.get(pin)
        if wanted and seen and wanted != seen:
            return f"answered by '{seen}'; '{wanted}' was asked for"
    return ""


def questions_of(target: Target, rows: int, artifacts: Path) -> tuple[Questions | None, Sequence[bytes]]:
    """The judge of a target's answers, None where parity is off, and the bodies of its requests.

    With parity off, a model without golden data is asked one made-up FP32 tensor `x` [rows, 1].
    """
    if target.protocol not in PROTOCOLS:
        raise LoadTestError(f"'{target.protocol}' is no protocol; expected one of {', '.join(PROTOCOLS)}")
    wire = WIRES[target.protocol]
    try:
        golden = load_golden(artifacts, target.model, target.variant)
    except LoadTestError:
        if target.parity:
            raise
        return None, [wire.encode(target.asked_for, (Tensor("x", "FP32", np.ones((rows, 1), np.float32)),))]
    count = golden.questions(rows)
    bodies = [wire.encode(target.asked_for, golden.tensors(question, rows)) for question in range(count)]
    return (Questions(golden, wire, rows, bodies) if target.parity else None), bodies
