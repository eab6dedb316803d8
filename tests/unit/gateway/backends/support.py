"""What the backend tests share: calls with a deadline, and requests for the fakes' models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from gateway.core.clock import SystemClock
from gateway.core.context import CallContext
from gateway.core.errors import GatewayError
from gateway.core.messages import InferenceRequest, ModelSpec
from gateway.core.tensor import Tensor


def call(seconds: float = 5.0) -> CallContext:
    """A call that ends `seconds` from now."""
    return CallContext("r-1", "predict", SystemClock().now() + seconds)


def request(model: str = "double", **spec: Any) -> InferenceRequest:
    """A request of one row, `x` = [1, 2], for a fake's model."""
    return InferenceRequest(ModelSpec(model, **spec), (Tensor("x", "FP32", np.array([[1, 2]], np.float32)),), id="i")


async def failure(answer: Awaitable[object]) -> GatewayError:
    """The error that a call ends with."""
    with pytest.raises(GatewayError) as caught:
        await answer
    return caught.value


@asynccontextmanager
async def raw_server(reply: bytes) -> AsyncIterator[int]:
    """The port of a server that reads something, writes `reply` and closes."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
