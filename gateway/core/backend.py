"""The interface to one model server, and the shape of everything wrapped around it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Protocol, TypeVar

from gateway.core.context import CallContext
from gateway.core.messages import DEFAULT_SIGNATURE, InferenceRequest, InferenceResponse, ModelMetadata

T = TypeVar("T")

Handler = Callable[[InferenceRequest, CallContext], Awaitable[InferenceResponse]]
Middleware = Callable[[Handler], Handler]

# How a call that was started has ended; asyncio's CancelledError where it was cancelled.
Outcome = InferenceResponse | BaseException
Done = Callable[[Outcome], None]
Cancel = Callable[[], object]
Start = Callable[[InferenceRequest, CallContext, Done], Cancel | None]
"""A handler without a coroutine: what it gives to `done`, once, a handler would return or raise.

That may be before it returns. None says that the call cannot be started at once: nothing was done or counted, and the
handler is to be asked. What it gives else cancels the call, whose `done` then hears so at once. It may raise
GatewayError where there was nothing to start.
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """One way to a server in both forms: as a handler, and where it has one without coroutines, as `start`."""

    handler: Handler
    start: Start | None = None


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a model server says of one model: the versions it can answer with now.

    `metadata` is that of the default signature, None where the server has no tensor metadata (TorchServe) or the model
    no default signature; `others` is that of its other signatures, by their names.
    """

    versions: tuple[int, ...]
    metadata: ModelMetadata | None = None
    others: Mapping[str, ModelMetadata] = field(default_factory=dict)

    @property
    def signatures(self) -> dict[str, ModelMetadata]:
        """The metadata of each signature; empty where the server describes no tensors."""
        default = {} if self.metadata is None else {DEFAULT_SIGNATURE: self.metadata}
        return {**default, **self.others}

    @property
    def ready(self) -> bool:
        """Whether any version can answer."""
        return bool(self.versions)


class Backend(Protocol):
    """Speaks one upstream protocol to one endpoint. Every failure is raised as a `GatewayError`."""

    async def infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """Sends one request, with the backend's own model and tensor names, and returns its answer."""
        ...

    async def server(self) -> str:
        """The program that answers, with its version, such as `TorchServe 0.12.0`.

        Raises UPSTREAM_UNREACHABLE where nothing answers.
        """
        ...

    async def model_state(self, model: str) -> ModelState:
        """The versions of `model` that can answer now; raises MODEL_NOT_FOUND for an unknown model."""
        ...

    async def models(self) -> tuple[str, ...] | None:
        """The names of the models that the server has, None where it has no way to list them."""
        ...

    async def close(self) -> None:
        """Closes connections; calls in flight fail."""
        ...


def nothing() -> None:
    """Cancels a call that has ended already."""


def into(future: asyncio.Future[T]) -> Callable[[T | BaseException], None]:
    """What gives a future its result, or its exception, unless whoever waited for it has left."""

    def done(outcome: T | BaseException) -> None:
        if future.done():
            return
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    return done


def compose(handler: Handler, *middleware: Middleware) -> Handler:
    """`handler` wrapped in `middleware`; the first listed is the outermost."""
    return reduce(lambda inner, wrap: wrap(inner), reversed(middleware), handler)
