"""TorchServe over REST: one frame to /predictions and back (see `gateway.codecs.torchserve`)."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from urllib.parse import quote

from gateway.backends.channel import MAX_REPLY_BYTES, time_left
from gateway.backends.errors import TORCHSERVE, TakesNoWorkError
from gateway.backends.http_pool import HttpPool
from gateway.backends.torchserve_control import TorchServeControl, http_error
from gateway.codecs import torchserve
from gateway.core.backend import ModelState
from gateway.core.clock import Clock, SystemClock
from gateway.core.context import CallContext
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec

FRAME_TYPE = "application/octet-stream"


class TorchServeRest:
    """The backend for one TorchServe's inference and management ports.

    `base_url` and `management_url` are such as `http://127.0.0.1:8080`; `server` names the program where it does
    not state its version.
    """

    def __init__(
        self,
        base_url: str,
        management_url: str,
        *,
        server: str | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self._http = HttpPool(server=TORCHSERVE, max_reply_bytes=max_reply_bytes)
        self._control = TorchServeControl(self._http, base_url, management_url, server=server)
        self._base_url = base_url.rstrip("/")
        self._clock = clock or SystemClock()

    async def infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """One prediction; the frame's own error is raised with the cause that the handler gave it."""
        path = await self._path(request.model, time_left(context, self._clock))
        reply = await self._http.request(
            "POST",
            self._base_url + path,
            timeout_s=time_left(context, self._clock),
            body=torchserve.encode_frame(request),
            content_type=FRAME_TYPE,
        )
        if reply.status != HTTPStatus.OK:
            error = http_error(reply)
            if isinstance(error, TakesNoWorkError):
                error = await self._control.refusal(request.model, error, time_left(context, self._clock))
            raise error
        return replace(torchserve.decode_frame(reply.body), id=request.id)

    async def server(self) -> str:
        """`TorchServe <version>`."""
        return await self._control.server()

    async def model_state(self, model: str) -> ModelState:
        """The versions with a READY worker, newest first."""
        return await self._control.model_state(model)

    async def close(self) -> None:
        """Closes every connection; calls in flight fail with UPSTREAM_LOST."""
        await self._http.close()

    async def _path(self, model: ModelSpec, timeout_s: float) -> str:
        path = f"/predictions/{quote(model.name, safe='')}"
        if model.version is None:
            return path
        return f"{path}/{await self._control.spelling(model.name, model.version, timeout_s)}"
