"""Small values that many tests start from, and fakes that are real implementations of the core's interfaces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from gateway.core.backend import ModelState
from gateway.core.context import CallContext
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec, Selection, TensorSpec
from gateway.core.tensor import NUMPY_DTYPE, Tensor


class FakeClock:
    """A clock that stands still until it is moved; starts at the running machine's zero."""

    def __init__(self, now: float = 1000.0) -> None:
        self.seconds = now

    def now(self) -> float:
        """Where the clock stands."""
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Moves the clock forward."""
        self.seconds += seconds


def tensor(name: str, values: object, datatype: str = "FP32") -> Tensor:
    """A tensor from nested lists."""
    return Tensor(name, datatype, np.asarray(values, dtype=NUMPY_DTYPE[datatype]))


def contract(name: str = "doubler", **changes: object) -> ModelContract:
    """A model with one input `x` FP32 [-1, 2] and one output `y` of the same shape, version 1, at most 8 rows."""
    fields: dict[str, object] = {
        "version": 1,
        "inputs": (TensorSpec("x", "FP32", (-1, 2)),),
        "outputs": (TensorSpec("y", "FP32", (-1, 2)),),
        "batch_cap": 8,
        "variants": {"torchscript": "torchserve", "savedmodel": "tfserving"},
    }
    return ModelContract(name=name, **{**fields, **changes})  # type: ignore[arg-type]


def request(values: object = ((1.0, 2.0),), model: str = "doubler", **changes: object) -> InferenceRequest:
    """A request with input `x`."""
    spec = ModelSpec(model, version=changes.pop("version", None), label=changes.pop("label", None))  # type: ignore[arg-type]
    return InferenceRequest(spec, (tensor("x", values),), **changes)  # type: ignore[arg-type]


def selected(**chosen: str) -> Selection:
    """A selection by stack, endpoint or variant."""
    return Selection(**chosen)


def context(deadline: float = 1e12) -> CallContext:
    """A call with a deadline far away."""
    return CallContext("request-1", "predict", deadline)


def doubled(asked: InferenceRequest) -> InferenceResponse:
    """What the doubler answers: y = 2 x, from version 1 where none was asked for."""
    version = asked.model.version if asked.model.version is not None else 1
    return InferenceResponse(asked.model.name, version, (tensor("y", asked.inputs[0].array * 2),))


@dataclass
class FakeBackend:
    """A model server in memory. `answer` may return or raise; `hold`, where set, is awaited before each answer.

    It has a model of any name, in `state`, unless `has` says which; those it lists if `lists`.
    """

    answer: Callable[[InferenceRequest], InferenceResponse] = doubled
    state: ModelState = field(default_factory=lambda: ModelState((1,)))
    has: dict[str, ModelState] | None = None
    lists: bool = True
    name: str = "fake 1.0"
    reachable: bool = True
    hold: asyncio.Event | None = None
    requests: list[InferenceRequest] = field(default_factory=list)
    closed: bool = False
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a request has come."""

    async def infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """The scripted answer."""
        self.requests.append(request)
        self.asked.set()
        if self.hold is not None:
            await self.hold.wait()
        self._reach()
        return self.answer(request)

    async def server(self) -> str:
        """The scripted name."""
        self._reach()
        return self.name

    async def model_state(self, model: str) -> ModelState:
        """The scripted state."""
        self._reach()
        if self.has is None:
            return self.state
        if model not in self.has:
            raise GatewayError(Cause.MODEL_NOT_FOUND, f"no model '{model}' here")
        return self.has[model]

    async def models(self) -> tuple[str, ...] | None:
        """The scripted names."""
        self._reach()
        return tuple(self.has or ()) if self.lists else None

    async def close(self) -> None:
        """Notes that it was closed."""
        self.closed = True

    def _reach(self) -> None:
        if not self.reachable:
            raise GatewayError(Cause.UPSTREAM_UNREACHABLE, "connection refused")
