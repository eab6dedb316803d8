"""Any server of the Open Inference Protocol v2 over REST (specification/protocol/inference_rest.md).

Tensors travel in the binary tensor data extension where the server's metadata advertises it, else as JSON.
"""

from __future__ import annotations

from enum import Enum
from http import HTTPStatus
from urllib.parse import quote

from gateway.backends.channel import CONTROL_TIMEOUT_S, MAX_LISTED, MAX_REPLY_BYTES, time_left
from gateway.backends.errors import OIP, bad_reply, oip_http_error, probing
from gateway.backends.http_pool import HttpPool, HttpReply
from gateway.backends.oip_models import OipModels, server_name
from gateway.codecs import oip_json_client
from gateway.codecs.oip_server import BINARY, ServedModel, ServerMetadata
from gateway.core.backend import ModelState
from gateway.core.clock import Clock, SystemClock
from gateway.core.context import CallContext
from gateway.core.messages import InferenceRequest, InferenceResponse

JSON_LENGTH = "Inference-Header-Content-Length"
# What servers say of a model that cannot answer now: Triton 400, KServe 503, and all of them 404 once it is gone.
_NOT_READY = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE})

# How servers refuse a path, or a method on it, that they do not have.
_NO_SUCH_ROUTE = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.NOT_IMPLEMENTED,
    }
)


class _Lists(Enum):
    """Which list of its models a server has."""

    INDEX = 1
    KSERVE = 2
    NOTHING = 3


class OipRest:
    """The backend for one OIP server's REST port; `base_url` is such as `http://127.0.0.1:9080`.

    `server` names the program where it does not state its name and version.
    """

    def __init__(
        self,
        base_url: str,
        *,
        server: str | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self._http = HttpPool(server=OIP, max_reply_bytes=max_reply_bytes)
        self._base_url = base_url.rstrip("/")
        self._configured = server
        self._clock = clock or SystemClock()
        self._models = OipModels(self._describe, self._ready)
        self._binary: bool | None = None
        self._name = ""
        self._lists: _Lists | None = None

    async def infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """One infer call; the first also asks for the server's metadata, and the first of a model for the model's.

        Raises UNSUPPORTED_DATATYPE for inputs that only the binary extension carries, where the server has it not.
        """
        spelling = await self._models.spelling(request.model, time_left(context, self._clock))
        binary = self._binary
        if binary is None:
            binary = BINARY in (await self._server(time_left(context, self._clock))).extensions
        body = oip_json_client.encode_request(request, binary=binary)
        headers = context.sent_along
        if body.json_length is not None:
            headers = {JSON_LENGTH: str(body.json_length), **(headers or {})}
        reply = await self._http.request(
            "POST",
            f"{self._base_url}{_path(request.model.name, spelling)}/infer",
            timeout_s=time_left(context, self._clock),
            body=body.data,
            content_type="application/json" if body.json_length is None else "application/octet-stream",
            headers=headers,
        )
        _check(reply)
        response = oip_json_client.decode_response(reply.body, reply.headers.get(JSON_LENGTH))
        return self._models.completed(request, response)

    async def server(self) -> str:
        """The name and version in the server's metadata, such as `mlserver 1.7.1`."""
        with probing(OIP):
            name = server_name(await self._server(CONTROL_TIMEOUT_S), self._configured)
        if name != self._name:
            self._name, self._lists = name, None
        return name

    async def model_state(self, model: str) -> ModelState:
        """The ready versions among those that the model's metadata lists; version 1 where it lists none."""
        return await self._models.state(model)

    async def models(self) -> tuple[str, ...] | None:
        """The models in the repository index, or on KServe's list; None of a server that has neither.

        What a server does not have is asked for again once it is found to be another server.
        """
        if self._lists is None or self._lists is _Lists.INDEX:
            reply = await self._ask_for_list("POST", "/v2/repository/index", b"{}")
            if reply is not None:
                self._lists = _Lists.INDEX
                return oip_json_client.decode_index(reply.body)[:MAX_LISTED]
        if self._lists is not _Lists.NOTHING:
            reply = await self._ask_for_list("GET", "/v2/models", None)
            if reply is not None:
                self._lists = _Lists.KSERVE
                return oip_json_client.decode_model_list(reply.body)[:MAX_LISTED]
        self._lists = _Lists.NOTHING
        return None

    async def close(self) -> None:
        """Closes every connection; calls in flight fail with UPSTREAM_LOST."""
        await self._http.close()

    async def _server(self, timeout_s: float) -> ServerMetadata:
        metadata = oip_json_client.decode_server_metadata((await self._get("/v2", timeout_s)).body)
        self._binary = BINARY in metadata.extensions
        return metadata

    async def _ask_for_list(self, method: str, path: str, body: bytes | None) -> HttpReply | None:
        reply = await self._http.request(
            method,
            self._base_url + path,
            timeout_s=CONTROL_TIMEOUT_S,
            body=body,
            content_type=None if body is None else "application/json",
        )
        if reply.status in _NO_SUCH_ROUTE:
            return None
        _check(reply)
        return reply

    async def _describe(self, model: str, timeout_s: float) -> ServedModel:
        reply = await self._get(_path(model, ""), timeout_s)
        return oip_json_client.decode_model_metadata(reply.body)

    async def _ready(self, model: str, spelling: str, timeout_s: float) -> bool:
        reply = await self._http.request("GET", f"{self._base_url}{_path(model, spelling)}/ready", timeout_s=timeout_s)
        if reply.status in _NOT_READY:
            return False
        _check(reply)
        return not oip_json_client.says_not_ready(reply.body)

    async def _get(self, path: str, timeout_s: float) -> HttpReply:
        reply = await self._http.request("GET", self._base_url + path, timeout_s=timeout_s)
        _check(reply)
        return reply


def _path(model: str, spelling: str) -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(spelling, safe='')}" if spelling else path


def _check(reply: HttpReply) -> None:
    if reply.status == HTTPStatus.OK:
        return
    if reply.status == HTTPStatus.NOT_FOUND and not reply.json:
        raise bad_reply(OIP, "HTTP status 404 without JSON; is this its REST port?")
    raise oip_http_error(reply.status, oip_json_client.error_text(reply.body))
