"""What both TorchServe backends ask over HTTP, beside inference: who it is, and how its models are.

TorchServe's gRPC says neither its version nor, in its errors, whether a queue was full or a model had no worker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson

from gateway.backends.channel import CONTROL_TIMEOUT_S, named
from gateway.backends.errors import TORCHSERVE, TakesNoWorkError, bad_reply, probing, torchserve_http_error
from gateway.backends.http_pool import HttpPool, HttpReply
from gateway.core.backend import ModelState
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import ModelSpec

UNSTATED = f"{TORCHSERVE} (version not stated)"
# TorchServe's versions are any strings; `N` and `N.0` are the integer N here, all others have no name.
_INTEGER = re.compile(r"(\d{1,18})(?:\.0)?", re.ASCII)

Described = Mapping[str, Any]


class TorchServeControl:
    """Questions to TorchServe's two REST ports; `base_url` is the inference port, `management_url` the other."""

    def __init__(self, http: HttpPool, base_url: str, management_url: str, *, server: str | None = None) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._management_url = management_url.rstrip("/")
        self._configured = server
        self._spellings: dict[str, dict[int, str]] = {}

    async def server(self) -> str:
        """`TorchServe <version>`, by the API description, which needs no token."""
        with probing(TORCHSERVE):
            reply = await self._http.request("GET", f"{self._base_url}/api-description", timeout_s=CONTROL_TIMEOUT_S)
        document = _json(reply.body)
        info = document.get("info") if isinstance(document, dict) else None
        if reply.status != HTTPStatus.OK or not isinstance(info, dict):
            raise bad_reply(TORCHSERVE, f"HTTP status {reply.status} and no API description; is this its REST port?")
        version = info.get("version")
        return named(f"{TORCHSERVE}/{version}" if version else None, self._configured, UNSTATED)

    async def model_state(self, model: str) -> ModelState:
        """The versions with a READY worker, newest first. TorchServe has no tensor metadata.

        Raises MODEL_NOT_FOUND for an unknown model.
        """
        found = _by_number(await self._describe(model, "all", CONTROL_TIMEOUT_S))
        self._spellings[model] = {number: spelling for number, (spelling, _) in found.items()}
        return ModelState(tuple(sorted((number for number, (_, ready) in found.items() if ready), reverse=True)))

    async def spelling(self, model: str, version: int, timeout_s: float) -> str:
        """The version as TorchServe spells it, `1` or `1.0`; kept per model, and renewed by `model_state`."""
        if model not in self._spellings:
            try:
                found = _by_number(await self._describe(model, "all", timeout_s))
            except GatewayError:
                # Inference does not depend on the management port: the plain number is the usual spelling, and
                # TorchServe itself says best what it does not have.
                return str(version)
            self._spellings[model] = {number: spelling for number, (spelling, _) in found.items()}
        return self._spellings[model].get(version, str(version))

    async def refusal(self, model: ModelSpec, refused: TakesNoWorkError, timeout_s: float) -> GatewayError:
        """What TorchServe's "has no worker" meant: OVERLOADED for a full queue, NOT_READY for no workers.

        NOT_READY, which is not tried again, where the management port does not tell.
        """
        version = None if model.version is None else await self.spelling(model.name, model.version, timeout_s)
        try:
            described = await self._describe(model.name, version, timeout_s)
        except GatewayError:
            return refused
        if not any(_ready(entry) for entry in described):
            return GatewayError(Cause.NOT_READY, f"model '{model.name}' has no ready worker on {TORCHSERVE}")
        # Workers there are (a busy one is READY too), so it was the queue, whether or not it has room again by now.
        return GatewayError(Cause.OVERLOADED, f"the queue of model '{model.name}' on {TORCHSERVE} is full")

    async def _describe(self, model: str, version: str | None, timeout_s: float) -> list[Described]:
        """One object per version; without a version, the default one's."""
        path = f"/models/{quote(model, safe='')}" + ("" if version is None else f"/{quote(version, safe='')}")
        reply = await self._http.request(
            "GET", self._management_url + path, timeout_s=min(timeout_s, CONTROL_TIMEOUT_S)
        )
        if reply.status != HTTPStatus.OK:
            raise http_error(reply)
        described = _json(reply.body)
        if not isinstance(described, list) or not all(isinstance(entry, dict) for entry in described):
            raise bad_reply(TORCHSERVE, "no list of versions; is this its management port?")
        return described


def http_error(reply: HttpReply) -> GatewayError:
    """The error in TorchServe's `{"code", "type", "message"}`, or in whatever else a handler or proxy sent."""
    document = _json(reply.body)
    if not isinstance(document, dict):
        return torchserve_http_error(reply.status, "", "")
    return torchserve_http_error(
        reply.status, str(document.get("type") or ""), str(document.get("message") or document.get("error") or "")
    )


def _by_number(described: Iterable[Described]) -> dict[int, tuple[str, bool]]:
    """Version number -> its spelling, and whether a worker is READY."""
    found: dict[int, tuple[str, bool]] = {}
    for entry in described:
        spelling = str(entry.get("modelVersion"))
        match = _INTEGER.fullmatch(spelling)
        # Where `1` and `1.0` are both registered, the plain one is meant.
        if match and (spelling == match[1] or int(match[1]) not in found):
            found[int(match[1])] = (spelling, _ready(entry))
    return found


def _ready(entry: Described) -> bool:
    """Whether any worker is READY; one that is loading, or starting again after a crash, shows UNLOADING."""
    workers = entry.get("workers")
    return isinstance(workers, list) and any(
        isinstance(worker, dict) and worker.get("status") == "READY" for worker in workers
    )


def _json(body: bytes) -> Any:  # noqa: ANN401
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
