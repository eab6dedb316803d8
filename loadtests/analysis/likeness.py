"""Whether two ledgers are alike: what must not differ for a comparison to be about what it says it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Family = Literal["stacks", "gateway", "variants", "protocols", "configs", "control", "runs"]

# Bytes on the wire may differ by the framing; by more than this the comparison is about encoding.
BYTES_TOLERANCE = 0.10
# Of one row the framing is the larger part: `{"outputs": {"progression": [[147.4]]}}` is indented by one stack.
FRAMING_BYTES = 64
# What must be told of both sides: the golden answers, which show that they have the same model, and how many
# configurations were tried for a tuned server.
TOLD = ("golden_answers", "tuning_trials")
_BYTES = ("payload_bytes_out", "payload_bytes_in")
# What each comparison is about may differ; everything else may not.
_FREE: dict[str, tuple[str, ...]] = {
    "stacks": (),
    "variants": (),
    "control": (),
    "runs": (),
    "gateway": (*_BYTES, "gateway."),
    "protocols": _BYTES,
    "configs": (*_BYTES, "config", "tuning_trials", "server.", "gateway."),
}


_UNKNOWN = "not known"
# What a fact is where nobody set it: no limit, the framework's own number of threads.
_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
_UNSET: dict[str, Any] = {**dict.fromkeys(("memory_limit", "cpu_limit", *_POOLS), "default"), "nice": 0}


def unlike(a: Mapping[str, Any], b: Mapping[str, Any], family: Family) -> list[str]:
    """Each fact that differs, in words; empty where the entries are alike.

    `a` and `b` are entries of the ledger. A fact that only one side knows is a difference, but for those settings that
    only one of two stacks has; golden answers that neither side is known to give, and tuning of which nobody told how
    long it took, are one too, between two stacks or variants. A limit or a thread pool that nobody set is `default`.
    Sizes of the payload within 10 % or 64 bytes are alike. A fact of the server is compared across stacks by its own
    name, the CPUs of TorchServe with those of TensorFlow Serving; batching and workers have other names in each and are
    brought to one.
    """
    left, right = _facts(a), _facts(b)
    found = []
    for name in dict.fromkeys([*left, *right]):
        one, other = (_value(name, side) for side in (left, right))
        if name.startswith(_FREE[family]) or (_alike(name, one, other) and not _untold(name, one, family)):
            continue
        if family == "stacks" and _of_one_stack(name) and _UNKNOWN in (one, other):
            continue
        neither = one == other == _UNKNOWN
        found.append(f"{name}: {_UNKNOWN} of either" if neither else f"{name}: {_short(one)} against {_short(other)}")
    return found


def _facts(entry: Mapping[str, Any]) -> dict[str, Any]:
    like = entry.get("like", {})
    if not isinstance(like, Mapping):
        return {}
    found = {_neutral(str(name)): value for name, value in like.items()}
    return found | {f"server.{name}": value for name, value in _batching(found).items()}


def _batching(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of a batch, how long one waits for them, and what works on batches, in words that both stacks share.

    TensorFlow Serving without `--enable_batching` runs each request by itself, as TorchServe does with a batch of one;
    its defaults are those of session_bundle_config.proto. Where a batch is one request, nothing waits for it.
    """
    if "server.batchSize" in facts:
        found = {"batch_size": facts["server.batchSize"], "batch_delay_ms": facts.get("server.maxBatchDelay")}
        found["batch_workers"] = facts.get("server.maxWorkers")
    elif "server.batching" in facts:
        if str(facts["server.batching"]).lower() not in ("true", "1"):
            return {"batch_size": 1}
        known = facts.get("server.batching_file") in (None, "", "default")
        size, delay = facts.get("server.max_batch_size"), facts.get("server.batch_timeout_micros")
        found = {
            "batch_size": size if size is not None else 1000 if known else "not known",
            "batch_delay_ms": float(delay) / 1000 if delay is not None else 0 if known else None,
            "batch_workers": facts.get("server.num_batch_threads"),
        }
    else:
        return {}
    if str(found["batch_size"]) == "1":
        return {"batch_size": 1}
    return {name: value for name, value in found.items() if value is not None}


def _value(name: str, facts: Mapping[str, Any]) -> Any:  # noqa: ANN401  # of the ledger's JSON
    value = facts.get(name)
    if value not in (None, ""):
        return value
    return _UNSET.get(name.rpartition(".")[2], _UNKNOWN)


def _of_one_stack(name: str) -> bool:
    """Whether it is a setting of a server that the other stack may not have at all."""
    return name.startswith("server.") and name.partition(".")[2] not in (*_UNSET, "cpus")


def _neutral(name: str) -> str:
    program, dot, fact = name.partition(".")
    return f"server.{fact}" if dot and program != "gateway" else name


def _alike(name: str, a: object, b: object) -> bool:
    if name in _BYTES and isinstance(a, int | float) and isinstance(b, int | float):
        return abs(a - b) <= max(BYTES_TOLERANCE * max(a, b), FRAMING_BYTES)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    return str(a) == str(b)


def _untold(name: str, value: object, family: Family) -> bool:
    """Whether nothing shows that two servers are alike: then ignorance on both sides is no likeness."""
    return name in TOLD and value == _UNKNOWN and family in ("stacks", "variants")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
