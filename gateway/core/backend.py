"""The interface to one model server, and the shape of everything wrapped around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

from gateway.core.context import CallContext
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelMetadata

Handler = Callable[[InferenceRequest, CallContext], Awaitable[InferenceResponse]]
Middleware = Callable[[Handler], Handler]


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a model server says of one model: the versions it can answer with now.

    `metadata` is None where the server has no tensor metadata (TorchServe).
    """

    versions: tuple[int, ...]
    metadata: ModelMetadata | None = None

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

    async def close(self) -> None:
        """Closes connections; calls in flight fail."""
        ...


def compose(handler: Handler, *middleware: Middleware) -> Handler:
    """`handler` wrapped in `middleware`; the first listed is the outermost."""
    return reduce(lambda inner, wrap: wrap(inner), reversed(middleware), handler)
