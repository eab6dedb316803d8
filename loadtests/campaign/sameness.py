"""Whether a run that goes on is still the same experiment: its cells, its servers and what must be alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import zip_longest
from typing import Any

from loadtests.analysis.likeness import unlike
from loadtests.cell_spec import CellSpec, Target

# Each difference has a line of its own: a few tell what happened.
_SHOWN = 5


def differences(
    planned: tuple[Sequence[CellSpec], Sequence[CellSpec]], ledgers: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> list[str]:
    """What is another thing now, a few in words, each (before, now); empty where it is the same experiment.

    Addresses may differ: servers that the campaign starts itself take free ports. `ledgers` are entries by target.
    """
    found = dict.fromkeys([*_of_cells(*planned), *_of_ledgers(*ledgers)])
    return list(found)[:_SHOWN]


def _of_cells(before: Sequence[CellSpec], now: Sequence[CellSpec]) -> Iterator[str]:
    for one, other in zip_longest(map(_placeless, before), map(_placeless, now)):
        if one is None or other is None or (one.round, one.slug) != (other.round, other.slug):
            yield "the cells of the plan are others, or in another order"
            return
        for place, was, now_ in _unequal(one, other):
            yield f"cell {one.slug}: {place} was {was}, is {now_}"


def _unequal(one: CellSpec, other: CellSpec) -> Iterator[tuple[str, object, object]]:
    pairs: list[tuple[str, Any, Any]] = [("", one, other), ("load ", one.load, other.load)]
    pairs += [("target ", one.target, other.target)]
    for prefix, was, now in pairs:
        for field in fields(was):
            a, b = getattr(was, field.name), getattr(now, field.name)
            if a != b and field.name not in ("load", "target"):
                yield f"{prefix}{field.name}", a or "none", b or "none"


def _of_ledgers(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in now.items():
        stored = before.get(name)
        if not isinstance(stored, Mapping):
            yield f"{name}: the stored ledger does not know it"
            continue
        if stored.get("server") != entry.get("server"):
            yield f"{name}: the server was {stored.get('server') or 'unknown'}, is {entry.get('server') or 'unknown'}"
        yield from (f"{name}: {words}" for words in unlike(stored, entry, "runs"))


def _placeless(cell: CellSpec) -> CellSpec:
    return replace(cell, target=_without(cell.target), others=tuple(map(_without, cell.others)))


def _without(target: Target) -> Target:
    return replace(target, address="")
