"""What the users of one Locust process share: where the golden data is, and the requests, encoded once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

from loadtests.cell_spec import Target
from loadtests.questions import Questions, questions_of

# One load for each Locust environment, which offers no place of its own for such things.
LOADS: WeakKeyDictionary[object, Load] = WeakKeyDictionary()


@dataclass(slots=True)
class Load:
    """One process's share of a load test by hand; the golden data and the requests are made once for all users."""

    artifacts: Path
    rows_each: int
    timeout_s: float
    _questions: dict[tuple[str, str], Questions] = field(default_factory=dict)
    _users: int = 0

    def questions(self, target: Target) -> Questions:
        """The target's requests and their judge; raises LoadTestError where its model has no usable golden data."""
        key = (target.model, target.protocol)
        if key not in self._questions:
            judge, _ = questions_of(target, self.rows_each, self.artifacts)
            assert judge is not None  # noqa: S101 - every target of the web UI is compared
            self._questions[key] = judge
        return self._questions[key]

    def next_user(self) -> int:
        """A number for a new user, counted from 0."""
        number, self._users = self._users, self._users + 1
        return number
