"""What may be retried, and how often."""

from __future__ import annotations

import pytest

from gateway.core.errors import Cause, GatewayError, RefusedError
from gateway.routing.retry import UNPROCESSED, RetryBudget, retryable


@pytest.mark.parametrize("cause", sorted(Cause))
def test_only_what_was_certainly_not_processed(cause: Cause) -> None:
    """No connection, or the server's own queue full; never a gate's refusal, which is no attempt."""
    assert retryable(GatewayError(cause, "")) is (cause in UNPROCESSED)
    assert not retryable(RefusedError(cause, ""))


@pytest.mark.parametrize("requests", [20, 100, 10_000])
def test_a_dead_server_costs_at_most_a_fifth_more_attempts(requests: int) -> None:
    """Where every request fails and would be retried."""
    budget = RetryBudget(ratio=0.1)
    attempts = 0
    for _ in range(requests):
        budget.deposit()
        attempts += 1 + budget.withdraw()
    assert attempts / requests <= 1.2


def test_savings_are_bounded() -> None:
    """A long good time does not pay for a storm of retries."""
    budget = RetryBudget(ratio=0.1, reserve=2)
    for _ in range(1000):
        budget.deposit()
    assert [budget.withdraw() for _ in range(4)] == [True, True, False, False]


def test_a_ratio_of_nothing_spends_only_the_reserve() -> None:
    """`budget: 0` with no reserve never retries."""
    budget = RetryBudget(ratio=0.0, reserve=0.0)
    budget.deposit()
    assert not budget.withdraw()
