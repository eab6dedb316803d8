"""TorchServe over REST: one body to /predictions and back (docs/inference_api.md)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from gateway.backends.channel import MAX_REPLY_BYTES
from gateway.backends.errors import TORCHSERVE
from gateway.backends.http_pool import HttpPool
from gateway.backends.torchserve import Along, Handlers, TorchServe
from gateway.backends.torchserve_control import TorchServeControl, authorized, http_error
from gateway.backends.torchserve_keys import Authorization, KeyFile, NoKeys
from gateway.codecs.torchserve_payloads import Payload
from gateway.core.clock import Clock, SystemClock
from gateway.core.messages import ModelSpec


class TorchServeRest(TorchServe):
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
        token_file: Path | None = None,
        handlers: Handlers | None = None,
        versions: Mapping[str, Mapping[str, int]] | None = None,
        slots: int = 4,
    ) -> None:
        http = HttpPool(server=TORCHSERVE, max_reply_bytes=max_reply_bytes)
        keys = NoKeys() if token_file is None else KeyFile(token_file)
        control = TorchServeControl(http, base_url, management_url, server=server, keys=keys, versions=versions)
        super().__init__(http, control, keys=keys, handlers=handlers, slots=slots, clock=clock or SystemClock())
        self._base_url = base_url.rstrip("/")

    async def _predict(
        self,
        model: ModelSpec,
        payload: Payload,
        body: bytes,
        timeout_s: float,
        authorization: Authorization,
        along: Along,
    ) -> bytes:
        version = await self._spelling(model, timeout_s)
        headers = authorized(authorization)
        if along:
            headers.update(along)
        reply = await self._http.request(
            "POST",
            self._base_url + _path(model.name, version),
            timeout_s=timeout_s,
            body=body,
            content_type=payload.content_type,
            headers=headers,
        )
        if reply.status != HTTPStatus.OK:
            raise http_error(reply)
        return reply.body


@lru_cache(maxsize=1024)
def _path(model: str, version: str | None) -> str:
    path = f"/predictions/{quote(model, safe='')}"
    return path if version is None else f"{path}/{quote(version, safe='')}"
