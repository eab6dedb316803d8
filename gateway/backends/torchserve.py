"""What both ways to a TorchServe share: which handler is spoken to how, in which version, with which access key.

The two transports differ in how one body gets to the handler and back.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gateway.backends.channel import time_left
from gateway.backends.errors import TakesNoWorkError
from gateway.backends.http_pool import HttpPool
from gateway.backends.torchserve_control import TorchServeControl
from gateway.backends.torchserve_keys import Authorization, KeyFile, NoKeys
from gateway.codecs.torchserve_payloads import Framed, Payload
from gateway.core.backend import ModelState
from gateway.core.clock import Clock
from gateway.core.context import CallContext
from gateway.core.errors import GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec

# By the model's name on the server, and a version, or None for all those that are not named.
Handlers = Mapping[tuple[str, int | None], Payload]

# Headers that go with a call.
Along = Mapping[str, str] | None

FRAMED = Framed()


class TorchServe(ABC):
    """One TorchServe. Models that are not among `handlers` run our own handler, which takes frames.

    `slots` bounds the requests at once to it, those of split batches included.
    """

    def __init__(
        self,
        http: HttpPool,
        control: TorchServeControl,
        *,
        keys: KeyFile | NoKeys,
        handlers: Handlers | None,
        slots: int,
        clock: Clock,
    ) -> None:
        self._http = http
        self._control = control
        self._keys = keys
        self._handlers = {} if handlers is None else handlers
        self._slots = asyncio.Semaphore(slots)
        self._clock = clock

    async def infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """One inference, in as many TorchServe requests as the model's handler takes it in.

        Raises the handler's own error where its answer is one, with the cause that our own handler gives it.
        """
        time_left(context, self._clock)
        payload = self._payload(request.model)
        if not payload.states_version and request.model.version is None:
            # The version that is asked for is the one that answers; the answer itself would not tell.
            version = await self._control.default(request.model.name, time_left(context, self._clock))
            request = replace(request, model=replace(request.model, version=version))
        parts = payload.requests(request)
        if len(parts) == 1:
            return await self._answer(payload, parts[0], context)
        return payload.joined(await self._answers(payload, parts, context), request)

    async def server(self) -> str:
        """`TorchServe <version>`. Where there are keys, it looks whether they still hold; raises TokenRefusedError."""
        return await self._control.server()

    async def model_state(self, model: str) -> ModelState:
        """The versions with a READY worker, newest first."""
        return await self._control.model_state(model)

    async def models(self) -> tuple[str, ...]:
        """The names on the management port's list."""
        return await self._control.models()

    async def close(self) -> None:
        """Closes every connection; calls in flight fail with UPSTREAM_LOST."""
        await self._http.close()

    @abstractmethod
    async def _predict(
        self,
        model: ModelSpec,
        payload: Payload,
        body: bytes,
        timeout_s: float,
        authorization: Authorization,
        along: Along,
    ) -> bytes:
        """The handler's answer to `body`; raises GatewayError for everything else that TorchServe says."""

    def _payload(self, model: ModelSpec) -> Payload:
        version = (model.name, model.version)
        return self._handlers.get(version) or self._handlers.get((model.name, None)) or FRAMED

    async def _answer(self, payload: Payload, part: InferenceRequest, context: CallContext) -> InferenceResponse:
        body = payload.encode(part)

        async def predict(authorization: Authorization) -> bytes:
            left = time_left(context, self._clock)
            return await self._predict(part.model, payload, body, left, authorization, context.sent_along)

        async with self._slots:
            try:
                reply = await self._keys.using("inference", predict, time_left(context, self._clock))
            except TakesNoWorkError as exc:
                raise await self._control.refusal(part.model, exc, time_left(context, self._clock)) from exc
        return payload.decode(reply, part)

    async def _answers(
        self, payload: Payload, parts: Sequence[InferenceRequest], context: CallContext
    ) -> list[InferenceResponse]:
        """The answers in the parts' order; the first failure ends all of them, and is raised."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._answer(payload, part, context)) for part in parts]
        except* GatewayError as failures:
            raise _first(failures) from failures
        return [task.result() for task in tasks]

    async def _spelling(self, model: ModelSpec, timeout_s: float) -> str | None:
        """The version as TorchServe spells it; None where its default is meant."""
        if model.version is None:
            return None
        return await self._control.spelling(model.name, model.version, timeout_s)


def _first(failures: BaseExceptionGroup[GatewayError]) -> GatewayError:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
