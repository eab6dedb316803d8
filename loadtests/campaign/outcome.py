"""How a run ended: for the exit code, and in a few lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# As in the objective itself: with more errors it is missed whatever the latencies are.
MAX_ERRORS = 0.001
VALID, SLO_MISSED, INVALID = 0, 2, 3
# In these an objective is missed by design, or decides how the search goes on.
_MAY_MISS = ("overload", "curve", "cold")
_REASONS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run's folder, the exit code of its command, and what is said of it."""

    run: Path | None
    code: int
    text: str


def outcome_of(run: Path, lines: Sequence[Mapping[str, Any]], written: Sequence[Path]) -> Outcome:
    """0 where every cell is valid and met its objective, 2 where a valid one missed it, 3 where any is INVALID.

    Tries of a search, overload and curves are expected to miss: they count for validity alone.
    """
    bad = [line for line in lines if not line.get("valid")]
    missed = [
        line
        for line in lines
        if line.get("valid") and line.get("kind") not in _MAY_MISS and not line.get("search") and _misses(line)
    ]
    code = INVALID if bad or not lines else SLO_MISSED if missed else VALID
    text = [f"{len(lines)} measured: {len(lines) - len(bad)} VALID, {len(bad)} INVALID."]
    text += [f"  {reason} ({count} of {len(lines)})" for reason, count in _most(bad)]
    if missed:
        names = ", ".join(dict.fromkeys(str(line.get("target")) for line in missed))
        text.append(f"The latency objective was missed in {len(missed)}, by: {names}.")
    text += [f"Report: {path}" for path in written]
    text.append(f"Cells: {run / 'cells.jsonl'}")
    return Outcome(run, code, "\n".join(text))


def _misses(line: Mapping[str, Any]) -> bool:
    """Whether the figures show a miss: too few requests to show anything are none."""
    if line.get("meets_slo") is not False:
        return False
    scheduled = line.get("scheduled") or 1
    errors = 1 - (line.get("outcomes") or {}).get("ok", 0) / scheduled
    share = 0.9 if line.get("kind") == "single_stream" else 0.99
    return errors > MAX_ERRORS or (line.get("attainment") or 0.0) < share


def _most(bad: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """The checks that fail most often; their figures differ in each cell and are in its line."""
    counts: dict[str, int] = {}
    for line in bad:
        failed = [f"{check['group']}: {check['name']}" for check in line.get("checks", ()) if _breaks(check)]
        for words in failed or line.get("reasons") or ("no reason given",):
            counts[words] = counts.get(words, 0) + 1
    return sorted(counts.items(), key=lambda item: -item[1])[:_REASONS_SHOWN]


def _breaks(check: Mapping[str, Any]) -> bool:
    return bool(check.get("binding")) and not check.get("ok")
