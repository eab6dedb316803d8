"""What every test shares: no blocking call may reach the event loop from the gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A blocking call made by gateway code on a running event loop raises BlockingError."""
    with blockbuster_ctx("gateway"):
        yield
