"""What every test shares: no blocking call may reach the event loop from the gateway."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from blockbuster import blockbuster_ctx

# Held for the whole run: gRPC's poller warns where its last object is collected after its event loop was closed.
grpc.aio.init_grpc_aio()


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A blocking call made by gateway code on a running event loop raises BlockingError."""
    with blockbuster_ctx("gateway"):
        yield
