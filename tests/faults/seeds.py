"""Chance that can be had again: FAULTS_SEED=N repeats a run."""

from __future__ import annotations

import os
from random import Random

SEED = int(os.environ.get("FAULTS_SEED", "11"))


def seeded(name: str) -> Random:
    """Chance of a test's own; what it was begun with is printed where the test fails."""
    print(f"FAULTS_SEED={SEED} ({name})")
    return Random(f"{SEED} {name}")
