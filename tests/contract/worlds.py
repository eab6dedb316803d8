"""One world per backend: the backend, the fake server behind it, and requests that both understand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gateway.backends.registry import connect
from gateway.core.backend import Backend
from gateway.core.clock import SystemClock
from gateway.core.context import CallContext
from gateway.core.contract import ModelContract
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec, TensorSpec
from gateway.core.tensor import DATATYPES, NUMPY_DTYPE, Tensor
from tests.fakes.fake_oip import FakeOip
from tests.fakes.fake_tfserving import FakeTfServing
from tests.fakes.fake_torchserve import FakeTorchServe
from tests.fakes.relay import Relay
from tests.fakes.script import FakeModel, double, echo

COUNT = FakeModel(
    "count",
    (TensorSpec("x", "FP32", (-1, 2)),),
    (TensorSpec("sum", "FP64", (1,)),),
    lambda arrays: {"sum": arrays["x"].sum(dtype=np.float64).reshape(1)},
)
MODELS: tuple[FakeModel, ...] = (double(versions=(2,)), COUNT, *(echo(datatype) for datatype in sorted(DATATYPES)))
MAX_REPLY_BYTES = 64 * 1024

Fake = FakeTfServing | FakeTorchServe | FakeOip


@dataclass(slots=True)
class World:
    """A backend under test. `fake` is None for the null backend, which has nothing behind it."""

    backend: Backend
    server: str
    """What the backend is to call the server."""
    metadata: bool
    """Whether the server describes tensors."""
    unsupported: frozenset[str] = frozenset()
    """Datatypes that the protocol cannot carry."""
    fake: Fake | None = None
    relay: Relay | None = None
    """The relay that inference goes through."""
    pooled: bool = False
    """Whether each call in flight has a connection of its own."""

    @property
    def upstream(self) -> Fake:
        """The fake, which this world has."""
        assert self.fake is not None
        return self.fake

    @property
    def wire(self) -> Relay:
        """The relay, which this world has."""
        assert self.relay is not None
        return self.relay

    async def infer(self, request: InferenceRequest, seconds: float = 10.0) -> InferenceResponse:
        """The backend's answer within `seconds`."""
        return await self.backend.infer(request, deadline_in(seconds))


def deadline_in(seconds: float) -> CallContext:
    """A call that ends `seconds` from now."""
    return CallContext("r-1", "predict", SystemClock().now() + seconds)


def sample(datatype: str) -> Tensor:
    """`x` [3, 2] of a datatype, with values that show a wrong width, sign or byte order."""
    if datatype == "BYTES":
        values: Iterable[Any] = [b"", b"a", "žluťoučký".encode(), b'"q"', b"x" * 300, b"end"]
    elif datatype == "BOOL":
        values = [True, False, False, True, True, False]
    else:
        values = [0, 1, 2, 3, 100, 127]
    array = np.empty(6, NUMPY_DTYPE[datatype])
    array[:] = list(values)
    return Tensor("x", datatype, array.reshape(3, 2))


def request(model: str = "double", datatype: str = "FP32", **spec: Any) -> InferenceRequest:
    """A request with `sample(datatype)` for a model."""
    return InferenceRequest(ModelSpec(model, **spec), (sample(datatype),), id="client-id")


@asynccontextmanager
async def closed_after(backend: Backend) -> AsyncIterator[None]:
    """Closes the backend however the body ends."""
    try:
        yield
    finally:
        await backend.close()


@asynccontextmanager
async def _tfserving_grpc() -> AsyncIterator[World]:
    async with FakeTfServing(*MODELS) as fake:
        backend = connect(stack="tfserving", transport="grpc", grpc=fake.grpc_address, max_reply_bytes=MAX_REPLY_BYTES)
        async with closed_after(backend):
            yield World(backend, "savedmodel-server 1.0 (stand-in)", True, fake=fake, relay=fake.grpc_relay)


@asynccontextmanager
async def _tfserving_rest() -> AsyncIterator[World]:
    async with FakeTfServing(*MODELS) as fake:
        backend = connect(stack="tfserving", transport="rest", rest=fake.rest_url, max_reply_bytes=MAX_REPLY_BYTES)
        cannot = frozenset({"FP16", "BF16", "UINT16"})
        async with closed_after(backend):
            yield World(backend, "savedmodel-server 1.0 (stand-in)", True, cannot, fake, fake.rest_relay, pooled=True)


@asynccontextmanager
async def _torchserve_rest() -> AsyncIterator[World]:
    async with FakeTorchServe(*MODELS) as fake:
        backend = connect(
            stack="torchserve",
            transport="rest",
            rest=fake.rest_url,
            management=fake.management_url,
            max_reply_bytes=MAX_REPLY_BYTES,
        )
        async with closed_after(backend):
            yield World(backend, "TorchServe 0.12.0", False, fake=fake, relay=fake.rest_relay, pooled=True)


@asynccontextmanager
async def _torchserve_grpc() -> AsyncIterator[World]:
    async with FakeTorchServe(*MODELS) as fake:
        backend = connect(
            stack="torchserve",
            transport="grpc",
            grpc=fake.grpc_address,
            rest=fake.rest_url,
            management=fake.management_url,
            max_reply_bytes=MAX_REPLY_BYTES,
        )
        async with closed_after(backend):
            yield World(backend, "TorchServe 0.12.0", False, fake=fake, relay=fake.grpc_relay)


@asynccontextmanager
async def _oip_rest() -> AsyncIterator[World]:
    async with FakeOip(*MODELS) as fake:
        backend = connect(stack="oip", transport="rest", rest=fake.rest_url, max_reply_bytes=MAX_REPLY_BYTES)
        async with closed_after(backend):
            yield World(backend, "fakeserver 2.1", True, fake=fake, relay=fake.rest_relay, pooled=True)


@asynccontextmanager
async def _oip_rest_json() -> AsyncIterator[World]:
    async with FakeOip(*MODELS, binary=False) as fake:
        backend = connect(stack="oip", transport="rest", rest=fake.rest_url, max_reply_bytes=MAX_REPLY_BYTES)
        cannot = frozenset({"FP16", "BF16"})
        async with closed_after(backend):
            yield World(backend, "fakeserver 2.1", True, cannot, fake, fake.rest_relay, pooled=True)


@asynccontextmanager
async def _oip_grpc() -> AsyncIterator[World]:
    async with FakeOip(*MODELS) as fake:
        backend = connect(stack="oip", transport="grpc", grpc=fake.grpc_address, max_reply_bytes=MAX_REPLY_BYTES)
        async with closed_after(backend):
            yield World(backend, "fakeserver 2.1", True, fake=fake, relay=fake.grpc_relay)


@asynccontextmanager
async def _oip_grpc_typed() -> AsyncIterator[World]:
    async with FakeOip(*MODELS, typed=True) as fake:
        backend = connect(stack="oip", transport="grpc", grpc=fake.grpc_address, max_reply_bytes=MAX_REPLY_BYTES)
        async with closed_after(backend):
            yield World(backend, "fakeserver 2.1", True, fake=fake, relay=fake.grpc_relay)


@asynccontextmanager
async def _null() -> AsyncIterator[World]:
    contracts = {
        model.name: ModelContract(model.name, model.versions[0], model.inputs, model.outputs, batch_cap=256)
        for model in MODELS
    }
    backend = connect(stack="noop", transport="rest", contracts=contracts)
    async with closed_after(backend):
        yield World(backend, "null backend", True)


WORLDS: Mapping[str, Callable[[], AbstractAsyncContextManager[World]]] = {
    "tfserving-grpc": _tfserving_grpc,
    "tfserving-rest": _tfserving_rest,
    "torchserve-rest": _torchserve_rest,
    "torchserve-grpc": _torchserve_grpc,
    "oip-rest": _oip_rest,
    "oip-rest-json": _oip_rest_json,
    "oip-grpc": _oip_grpc,
    "oip-grpc-typed": _oip_grpc_typed,
    "null": _null,
}
