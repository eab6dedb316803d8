"""Whether two ledgers are alike: what must not differ for a comparison to be about what it says it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Family = Literal["stacks", "gateway", "variants", "protocols", "configs", "control", "runs"]

# Bytes on the wire may differ by the framing; by more than this the comparison is about encoding.
BYTES_TOLERANCE = 0.10
# Of one row the framing is the larger part: `{"outputs": {"progression": [[147.4]]}}` is indented by one stack.
FRAMING_BYTES = 64
_BYTES = ("payload_bytes_out", "payload_bytes_in")
# What each comparison is about may differ; everything else that both sides know may not.
_FREE: dict[str, tuple[str, ...]] = {
    "stacks": (),
    "variants": (),
    "control": (),
    "runs": (),
    "gateway": (*_BYTES, "gateway."),
    "protocols": _BYTES,
    "configs": (*_BYTES, "config", "server.", "gateway."),
}


def unlike(a: Mapping[str, Any], b: Mapping[str, Any], family: Family) -> list[str]:
    """Each fact that differs, in words; empty where the entries are alike.

    `a` and `b` are entries of the ledger. A fact that only one side knows is not counted as a difference, nor are the
    sizes of the payload within 10 % or 64 bytes. A fact of the server is compared across stacks by its own name: the
    CPUs of TorchServe with those of TensorFlow Serving.
    """
    left, right = _facts(a), _facts(b)
    found = []
    for name in left:
        if name.startswith(_FREE[family]) or name not in right:
            continue
        one, other = left[name], right[name]
        if one in (None, "") or other in (None, "") or _alike(name, one, other):
            continue
        found.append(f"{name}: {_short(one)} against {_short(other)}")
    return found


def _facts(entry: Mapping[str, Any]) -> dict[str, Any]:
    like = entry.get("like", {})
    return {_neutral(str(name)): value for name, value in like.items()} if isinstance(like, Mapping) else {}


def _neutral(name: str) -> str:
    program, dot, fact = name.partition(".")
    return f"server.{fact}" if dot and program != "gateway" else name


def _alike(name: str, a: object, b: object) -> bool:
    if name in _BYTES and isinstance(a, int | float) and isinstance(b, int | float):
        return abs(a - b) <= max(BYTES_TOLERANCE * max(a, b), FRAMING_BYTES)
    return str(a) == str(b)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
