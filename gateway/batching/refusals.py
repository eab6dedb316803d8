"""What requests are told that get no slot."""

from __future__ import annotations

from gateway.core.errors import Cause, GatewayError, RefusedError


def no_time(endpoint: str) -> GatewayError:
    """The deadline comes before an answer could."""
    return GatewayError(Cause.DEADLINE, f"endpoint '{endpoint}' is busy, and too little time is left for its answer")


def full(endpoint: str, slots: int, places: int) -> RefusedError:
    """Neither a slot nor a place in the queue is left."""
    return RefusedError(
        Cause.OVERLOADED,
        f"endpoint '{endpoint}' is busy: {slots} calls run and {places} requests wait",
        retry_after_s=1.0,
    )


def shutting_down(endpoint: str) -> GatewayError:
    """Nothing is sent any more."""
    return GatewayError(Cause.NOT_READY, f"endpoint '{endpoint}' is shutting down", retry_after_s=1.0)
