"""What the validation finds: a law, what it says, what was measured, and whether that is within the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.analysis.cell import summarise
from tests.harness.measuring import Measured, percentile

# The limits of a valid cell, as in a campaign.
LAG_P99_S, LATE_SHARE, DROPPED_SHARE, CPU = 0.001, 0.01, 0.001, 0.8


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the page. `generator` says what held the generator up, empty where it kept to its schedule."""

    law: str
    what: str
    expected: str
    measured: str
    limit: str
    within: bool
    generator: str = ""

    @property
    def verdict(self) -> str:
        """In a word; a generator that was held up decides nothing."""
        if self.generator:
            return f"INVALID(client): {self.generator}"
        return "within" if self.within else "**OUTSIDE**"


def near(
    law: str, what: str, expected: float, found: float, *, share: float, cell: Measured, unit: str = "ms"
) -> Finding:
    """A finding whose limit is a share of what is expected; both are in `unit`."""
    off = found / expected - 1
    return Finding(
        law,
        what,
        f"{expected:.3f} {unit}".strip(),
        f"{found:.3f} {unit} ({off:+.1%})".replace("  ", " "),
        f"within {share:.0%}",
        abs(off) <= share,
        fault(cell),
    )


def fault(cell: Measured) -> str:
    """What held the generator up in an open loop, by the limits of a valid cell; empty where nothing did."""
    if cell.spec.load.arrivals == "closed":
        return ""
    lag, faults = cell.lag, []
    if len(lag) and (p99 := percentile(lag, 0.99)) > LAG_P99_S:
        faults.append(f"dispatch lag p99 {p99 * 1e3:.2f} ms > {LAG_P99_S * 1e3:g} ms")
    if len(lag) and (late := float((lag > LAG_P99_S).mean())) > LATE_SHARE:
        faults.append(f"{late:.1%} of sends over 1 ms late")
    dropped = sum(worker["dropped"] for worker in cell.workers) / max(len(cell.outcomes), 1)
    if dropped > DROPPED_SHARE:
        faults.append(f"{dropped:.1%} of arrivals dropped")
    busiest = max((worker["cpu_max"] or 0.0) for worker in cell.workers)
    if busiest > CPU:
        faults.append(f"{busiest:.0%} of a core in one second")
    return ", ".join(faults)


def reasons(cell: Measured) -> list[str]:
    """Why a campaign would call this cell INVALID, by the limits of a quick look; none where it is valid."""
    line = summarise(cell.spec, cell.rows, cell.health, None, None, tier="quick")
    return [str(reason) for reason in line["reasons"]]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def table_of(findings: Sequence[Finding]) -> str:
    """All findings."""
    head = ("law", "figure", "expected", "measured", "limit", "verdict")
    return table(head, [(f.law, f.what, f.expected, f.measured, f.limit, f.verdict) for f in findings])
