"""One world per backend: the backend, the fake server behind it, and requests that both understand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gateway.backends.registry import connect
from gateway.codecs.torchserve_payloads import Payload, payload_of
from gateway.core.backend import Backend
from gateway.core.clock import SystemClock
from gateway.core.context import CallContext
from gateway.core.contract import ModelContract
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec, TensorSpec
from gateway.core.tensor import DATATYPES, NUMPY_DTYPE, Tensor
from tests.fakes.fake_oip import FakeOip
from tests.fakes.fake_tfserving import FakeTfServing
from tests.fakes.fake_torchserve import FakeTorchServe
from tests.fakes.foreign_handlers import json_handler, raw_handler
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
    lists: bool = True
    """Whether the protocol has a list of models."""

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
            yield World(
                backend, "savedmodel-server 1.0 (stand-in)", True, fake=fake, relay=fake.grpc_relay, lists=False
            )


@asynccontextmanager
async def _tfserving_rest() -> AsyncIterator[World]:
    async with FakeTfServing(*MODELS) as fake:
        backend = connect(stack="tfserving", transport="rest", rest=fake.rest_url, max_reply_bytes=MAX_REPLY_BYTES)
        cannot = frozenset({"FP16", "BF16", "UINT16"})
        async with closed_after(backend):
            yield World(
                backend,
                "savedmodel-server 1.0 (stand-in)",
                True,
                cannot,
                fake,
                fake.rest_relay,
                pooled=True,
                lists=False,
            )


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


def _handlers(payload: str) -> dict[tuple[str, int | None], Payload]:
    """How a handler not ours is spoken to, by each model's contract; batches go there whole."""
    found: dict[tuple[str, int | None], Payload] = {}
    for model in MODELS:
        cap = None if model is COUNT else 256
        contract = ModelContract(model.name, model.versions[0], model.inputs, model.outputs, batch_cap=cap)
        single = payload == "raw" and model.inputs[0].datatype == "BYTES"
        if single:
            # A raw body is one element, which this contract leaves possible.
            contract = replace(contract, inputs=(TensorSpec("x", "BYTES", (-1, -1)),))
        found[(model.name, None)] = payload_of(contract, payload=payload, batch="rows" if single else "whole")
    return found


@asynccontextmanager
async def _torchserve_foreign(payload: str, transport: str) -> AsyncIterator[World]:
    async with FakeTorchServe(*MODELS, handler=json_handler if payload == "json" else raw_handler) as fake:
        backend = connect(
            stack="torchserve",
            transport=transport,
            grpc=fake.grpc_address,
            rest=fake.rest_url,
            management=fake.management_url,
            max_reply_bytes=MAX_REPLY_BYTES,
            handlers=_handlers(payload),
            slots=64,
        )
        cannot = frozenset({"BYTES"}) if payload == "raw" else frozenset[str]()
        rest = transport == "rest"
        relay = fake.rest_relay if rest else fake.grpc_relay
        async with closed_after(backend):
            yield World(backend, "TorchServe 0.12.0", False, cannot, fake, relay, pooled=rest)


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
    "torchserve-rest-json": partial(_torchserve_foreign, "json", "rest"),
    "torchserve-grpc-json": partial(_torchserve_foreign, "json", "grpc"),
    "torchserve-rest-raw": partial(_torchserve_foreign, "raw", "rest"),
    "torchserve-grpc-raw": partial(_torchserve_foreign, "raw", "grpc"),
    "oip-rest": _oip_rest,
    "oip-rest-json": _oip_rest_json,
    "oip-grpc": _oip_grpc,
    "oip-grpc-typed": _oip_grpc_typed,
    "null": _null,
}
