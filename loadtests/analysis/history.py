"""A model's figures over all runs ever made."""

from __future__ import annotations

from pathlib import Path

from loadtests.errors import LoadTestError
from loadtests.store.runs import Rows, Runs

_QUERY = """
    SELECT runs.date, run, scenario, target, server, count(*) AS rounds, sum(valid::INT) AS valid,
           exp(avg(ln(achieved)) FILTER (achieved > 0)) AS achieved_per_s,
           exp(avg(ln(L_p50)) FILTER (L_p50 > 0)) AS p50_ms, exp(avg(ln(L_p99)) FILTER (L_p99 > 0)) AS p99_ms,
           avg(attainment) AS attainment, any_value(runs.git_commit)[:8] AS commit
    FROM cells JOIN runs USING (run)
    WHERE model = '{model}' AND control IS NULL
    GROUP BY runs.date, run, scenario, target, server ORDER BY scenario, target, runs.date, run"""


def history(root: Path, model: str) -> Rows:
    """One row a run, scenario and target, oldest first: geometric means over rounds, in ms and a second.

    Raises LoadTestError naming the models that were measured where this one never was.
    """
    with Runs(root) as runs:
        found = runs.sql(_QUERY.format(model=model.replace("'", "''")))
        if not found.rows:
            known = [str(row[0]) for row in runs.sql("SELECT DISTINCT model FROM cells ORDER BY model").rows]
            there = f"measured were: {', '.join(known)}" if known else f"there is no run in {root} yet"
            raise LoadTestError(f"model '{model}' was never measured; {there}")
        return found
