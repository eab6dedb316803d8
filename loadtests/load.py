"""What the users of one Locust process share: options, prepared requests, the recorder, and the judge of replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

from loadtests.cells import Cell
from loadtests.golden import Golden, load_golden
from loadtests.recorder import Recorder, ServedBy
from loadtests.replies import BadReplyError, Outcome, RefusedError, Reply, outcome_of_status
from loadtests.wires import WIRES, Wire

# One load for each Locust environment, which offers no place of its own for such things.
LOADS: WeakKeyDictionary[object, Load] = WeakKeyDictionary()

# Right replies that are remembered per question, and the largest that is: equal bytes need no second look.
_REMEMBERED = 4
_REMEMBERED_BYTES = 64 * 1024


@dataclass(slots=True)
class Questions:
    """A cell's requests, encoded once, and the check of what comes back."""

    golden: Golden
    wire: Wire
    rows_each: int
    bodies: Sequence[bytes]
    _right: dict[int, set[bytes]] = field(default_factory=dict)

    def verdict(self, cell: Cell, question: int, reply: Reply, origin: ServedBy) -> tuple[Outcome, str]:
        """The outcome of a reply, its answer compared with the golden one, and why it failed."""
        if reply.outcome is not Outcome.OK:
            return reply.outcome, reply.detail
        for pinned, seen in ((cell.endpoint, origin.endpoint), (cell.stack, origin.stack)):
            if cell.path == "gateway" and pinned and seen and pinned != seen:
                return Outcome.WRONG_ANSWER, f"answered by '{seen}'; '{pinned}' was asked for"
        return self.judged(question, reply)

    def judged(self, question: int, reply: Reply) -> tuple[Outcome, str]:
        """The outcome of a reply by its answer alone, and why it failed."""
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


@dataclass(slots=True)
class Load:
    """One process's share of a load test; the golden data and the encoded requests are made once for all users."""

    artifacts: Path
    rows_each: int
    timeout_s: float
    cell: Cell | None = None
    recorder: Recorder = field(default_factory=Recorder)
    _questions: dict[tuple[str, str], Questions] = field(default_factory=dict)
    _users: int = 0

    def questions(self, cell: Cell) -> Questions:
        """The cell's requests; raises LoadTestError where its model has no usable golden data."""
        key = (cell.model, cell.wire)
        if key not in self._questions:
            golden, wire = load_golden(self.artifacts, cell.model), WIRES[cell.wire]
            bodies = [
                wire.encode(cell.model, golden.tensors(question, self.rows_each))
                for question in range(golden.questions(self.rows_each))
            ]
            self._questions[key] = Questions(golden, wire, self.rows_each, bodies)
        return self._questions[key]

    def next_user(self) -> int:
        """A number for a new user, counted from 0."""
        number, self._users = self._users, self._users + 1
        return number
