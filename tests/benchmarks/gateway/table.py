"""The results: each figure with its spread beside its goals, as text, JSON and Markdown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["PASS", "MISSED", "printed", "not available"]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure must reach and aims at; `at_most` where smaller is better. Either is None where there is none."""

    must: float | None
    aim: float | None
    at_most: bool

    def met_by(self, value: float, mark: float | None) -> bool:
        """Whether `value` reaches `mark`."""
        return mark is None or (value <= mark if self.at_most else value >= mark)


@dataclass(frozen=True, slots=True)
class Result:
    """One figure: a value a round, in `unit` ('' for a ratio), and what was measured beside it.

    Without values it is not available, and `note` says why. `figures` go to the JSON file only.
    """

    row: str
    what: str
    values: Sequence[float]
    goal: Goal
    unit: str = ""
    note: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The middle of the rounds, which the goals are held against."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> Verdict:
        """How the median stands to what must be reached."""
        if not self.values:
            return "not available"
        if self.goal.must is None:
            return "printed"
        return "PASS" if self.goal.met_by(self.median, self.goal.must) else "MISSED"

    @property
    def spread(self) -> str:
        """Minimum, median and maximum over the rounds."""
        if not self.values:
            return "-"
        low, middle, high = (f"{x:.3g}" for x in (min(self.values), self.median, max(self.values)))
        return f"{low} / {middle} / {high}{self.unit and ' ' + self.unit}"

    @property
    def goals(self) -> tuple[str, str]:
        """What must be reached, and the aim, as text."""
        sign = "≤" if self.goal.at_most else "≥"
        unit = self.unit and " " + self.unit
        return tuple(  # type: ignore[return-value]
            "-" if mark is None else f"{sign} {mark:g}{unit}" for mark in (self.goal.must, self.goal.aim)
        )

    @property
    def summary(self) -> str:
        """The figure in one line."""
        must, aim = self.goals
        reached = (
            " (aim reached)" if self.values and self.goal.aim and self.goal.met_by(self.median, self.goal.aim) else ""
        )
        return f"{self.row:>3}  {self.verdict:<13} {self.spread:<28} must {must}, aim {aim}{reached}  {self.what}"


def write(folder: Path, results: Sequence[Result], about: Mapping[str, str]) -> None:
    """`results.json` and `results.md` in `folder`."""
    (folder / "results.json").write_text(json.dumps(document(results, about), indent=1) + "\n")
    (folder / "results.md").write_text(markdown(results, about))


def tell(folder: Path, results: Sequence[Result], about: Mapping[str, str]) -> None:
    """Prints the rows, what they were measured on, and where it is written."""
    print("\n".join(result.summary for result in results))
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    print(f"written: {folder / 'results.json'} and results.md")


def markdown(results: Sequence[Result], about: Mapping[str, str]) -> str:
    """The table, and the machine and versions it was measured with."""
    lines = [
        "| row | what | min / median / max | must | aim | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        must, aim = result.goals
        what = f"{result.what}. {result.note}" if result.note else result.what
        lines.append(f"| {result.row} | {what} | {result.spread} | {must} | {aim} | {result.verdict} |")
    lines += ["", *(f"- {name}: {value}" for name, value in about.items())]
    return "\n".join(lines) + "\n"


def document(results: Sequence[Result], about: Mapping[str, str]) -> dict[str, Any]:
    """The same for a program."""
    return {
        "about": dict(about),
        "results": [
            {
                "row": result.row,
                "what": result.what,
                "values": list(result.values),
                "unit": result.unit,
                "median": result.median if result.values else None,
                "must": result.goal.must,
                "aim": result.goal.aim,
                "at_most": result.goal.at_most,
                "verdict": result.verdict,
                "note": result.note,
                "figures": dict(result.figures),
            }
            for result in results
        ],
    }
