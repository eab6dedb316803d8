"""What may be tried a second time, and how often all requests together may."""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.errors import Cause, GatewayError, RefusedError
from gateway.routing.table import Route

# Certainly not processed: no connection came about, or the server's own queue was full (docs/errors.md).
UNPROCESSED = frozenset({Cause.UPSTREAM_UNREACHABLE, Cause.OVERLOADED})


def retryable(error: GatewayError) -> bool:
    """Whether the server certainly has not processed the request that failed so. A gate's refusal is no attempt."""
    return error.cause in UNPROCESSED and not isinstance(error, RefusedError)


class RetryBudget:
    """Retries as a share of first attempts: each of those adds `ratio`, each retry takes one.

    At most `reserve` are saved, and it starts with them: with a dead endpoint, attempts stay below
    (1 + ratio) x requests + reserve, so that retries cannot multiply an overload (Finagle's RetryBudget and gRPC's
    A6 retry throttling keep the same promise).
    """

    def __init__(self, ratio: float = 0.1, reserve: float = 2.0) -> None:
        self._ratio = ratio
        self._reserve = reserve
        self._balance = reserve

    def left(self) -> float:
        """How many retries may be made now, in whole ones and parts."""
        return self._balance

    def deposit(self) -> None:
        """A first attempt is made."""
        self._balance = min(self._reserve, self._balance + self._ratio)

    def withdraw(self) -> bool:
        """Takes one retry out; False where the budget is spent."""
        if self._balance < 1.0 - 1e-9:
            return False
        self._balance = max(0.0, self._balance - 1.0)
        return True

    def refund(self) -> None:
        """The retry that was taken out was not made after all: the endpoint's own gate refused it."""
        self._balance += 1.0


def spendable(budget: RetryBudget, route: Route) -> Callable[[], float] | None:
    """What tells how many retries a route has left; None where it never retries."""
    return budget.left if len(route.targets) > 1 and route.traffic.max_attempts > 1 else None
