"""A user's own SQL over all runs ever made."""

from __future__ import annotations

from pathlib import Path

from loadtests.store.runs import Rows, Runs


def sql(root: Path, text: str) -> Rows:
    """The result of one SELECT over `requests`, `cells` and `runs`; raises LoadTestError where there is none."""
    with Runs(root) as runs:
        return runs.sql(text)
