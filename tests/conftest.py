"""What every test shares: no blocking call may reach the event loop from the gateway."""

from __future__ import annotations

import os
from collections.abc import Iterator

import grpc
import pytest
from blockbuster import blockbuster_ctx
from hypothesis import settings

# Held for the whole run: gRPC's poller warns where its last object is collected after its event loop was closed.
grpc.aio.init_grpc_aio()


# The same examples in every run, so that a change is judged by itself; HYPOTHESIS_PROFILE=random looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A blocking call made by gateway code on a running event loop raises BlockingError."""
    with blockbuster_ctx("gateway"):
        yield
