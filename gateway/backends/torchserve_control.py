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

from gateway.backends.channel import CONTROL_TIMEOUT_S, MAX_LISTED, named
from gateway.backends.errors import (
    TORCHSERVE,
    TakesNoWorkError,
    TokenRefusedError,
    bad_reply,
    probing,
    torchserve_http_error,
    with_text,
)
from gateway.backends.http_pool import HttpPool, HttpReply
from gateway.backends.torchserve_keys import Authorization, KeyFile, NoKeys
from gateway.core.backend import ModelState
from gateway.core.errors import Cause, GatewayError, capped
from gateway.core.messages import ModelSpec

UNSTATED = f"{TORCHSERVE} (version not stated)"
REQUEST_ID = "x-request-id"
# TorchServe's versions are any strings; `N` and `N.0` are the integer N here, all others need a configured number.
_INTEGER = re.compile(r"(\d{1,18})(?:\.0)?", re.ASCII)

# TorchServe lists at most this many models at once.
_PAGE = 100

Described = Mapping[str, Any]


class TorchServeControl:
    """Questions to TorchServe's two REST ports; `base_url` is the inference port, `management_url` the other.

    `versions` are, by model, the numbers of version names that are none, such as `2024-05a`.
    """

    def __init__(
        self,
        http: HttpPool,
        base_url: str,
        management_url: str,
        *,
        server: str | None = None,
        keys: KeyFile | NoKeys | None = None,
        versions: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        self._http = http
        self._keys = keys or NoKeys()
        self._numbers = {} if versions is None else versions
        self._base_url = base_url.rstrip("/")
        self._management_url = management_url.rstrip("/")
        self._configured = server
        self._spellings: dict[str, dict[int, str]] = {}
        self._defaults: dict[str, int | None] = {}

    async def server(self) -> str:
        """`TorchServe <version>`, by the API description, which needs no token.

        The keys are renewed here, off the way of requests, and tried, so that an endpoint whose keys have expired is
        not sent any: raises TokenRefusedError.
        """
        await self._keys.renew()
        with probing(TORCHSERVE):
            reply = await self._http.request("GET", f"{self._base_url}/api-description", timeout_s=CONTROL_TIMEOUT_S)
        document = _json(reply.body)
        info = document.get("info") if isinstance(document, dict) else None
        if reply.status != HTTPStatus.OK or not isinstance(info, dict):
            raise bad_reply(TORCHSERVE, f"HTTP status {reply.status} and no API description; is this its REST port?")
        if isinstance(self._keys, KeyFile):
            await self._keys.using("inference", self._ping, CONTROL_TIMEOUT_S)
        version = info.get("version")
        return named(f"{TORCHSERVE}/{version}" if version else None, self._configured, UNSTATED)

    async def model_state(self, model: str) -> ModelState:
        """The versions with a READY worker, newest first. TorchServe has no tensor metadata.

        Raises MODEL_NOT_FOUND for an unknown model, NOT_READY where no version of it has a number.
        """
        described = await self._describe(model, "all", CONTROL_TIMEOUT_S)
        found = self._by_number(model, described)
        if described and not found:
            spelling = capped(str(described[0].get("modelVersion")), 64)
            raise GatewayError(
                Cause.NOT_READY,
                f"version '{spelling}' of model '{model}' is no whole number; write versions: "
                f'{{"{spelling}": 1}}, or another number, on the target',
            )
        self._spellings[model] = {number: spelling for number, (spelling, _) in found.items()}
        if model in self._defaults:
            self._defaults[model] = await self._ask_default(model, CONTROL_TIMEOUT_S)
        return ModelState(tuple(sorted((number for number, (_, ready) in found.items() if ready), reverse=True)))

    async def models(self) -> tuple[str, ...]:
        """The names on the management port's list, page by page, at most `MAX_LISTED`."""
        names: list[str] = []
        token = ""
        while len(names) < MAX_LISTED:
            path = f"/models?limit={_PAGE}" + (f"&next_page_token={quote(token, safe='')}" if token else "")
            document = _json((await self.manage(path)).body)
            page = document.get("models") if isinstance(document, dict) else None
            if not isinstance(page, list):
                raise bad_reply(TORCHSERVE, "no list of models; is this its management port?")
            names += [str(entry["modelName"]) for entry in page if isinstance(entry, dict) and entry.get("modelName")]
            token = str(document.get("nextPageToken") or "")
            if not page or not token:
                break
        return tuple(dict.fromkeys(names))[:MAX_LISTED]

    async def spelling(self, model: str, version: int, timeout_s: float) -> str:
        """The version as TorchServe spells it, `1` or `1.0`; kept per model, and renewed by `model_state`."""
        if model not in self._spellings:
            try:
                found = self._by_number(model, await self._describe(model, "all", timeout_s))
            except GatewayError:
                # Inference does not depend on the management port: the plain number is the usual spelling, and
                # TorchServe itself says best what it does not have.
                return self._named(model, version)
            self._spellings[model] = {number: spelling for number, (spelling, _) in found.items()}
        return self._spellings[model].get(version, self._named(model, version))

    async def default(self, model: str, timeout_s: float) -> int | None:
        """The version that answers where none is asked for; kept per model, and renewed by `model_state`.

        None where it has no number, or the management port does not tell.
        """
        if model not in self._defaults:
            try:
                self._defaults[model] = await self._ask_default(model, timeout_s)
            except GatewayError:
                return None
        return self._defaults[model]

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

    async def manage(self, path: str, timeout_s: float = CONTROL_TIMEOUT_S) -> HttpReply:
        """The answer to a GET of the management port, which reads only; raises GatewayError for all but 200."""

        async def get(authorization: Authorization) -> HttpReply:
            reply = await self._get(self._management_url + path, timeout_s, authorization)
            if reply.status != HTTPStatus.OK:
                raise http_error(reply)
            return reply

        return await self._keys.using("management", get, timeout_s)

    async def _ping(self, authorization: Authorization) -> None:
        """Asks for the health, whose 500 for a model with too few workers is no trouble here; raises for a bad key."""
        with probing(TORCHSERVE):
            reply = await self._get(f"{self._base_url}/ping", CONTROL_TIMEOUT_S, authorization)
        if isinstance(error := http_error(reply), TokenRefusedError):
            raise error

    async def _get(self, url: str, timeout_s: float, authorization: Authorization) -> HttpReply:
        return await self._http.request(
            "GET", url, timeout_s=min(timeout_s, CONTROL_TIMEOUT_S), headers=authorized(authorization)
        )

    async def _ask_default(self, model: str, timeout_s: float) -> int | None:
        return next(iter(self._by_number(model, await self._describe(model, None, timeout_s))), None)

    def _by_number(self, model: str, described: Iterable[Described]) -> dict[int, tuple[str, bool]]:
        """Version number -> its spelling, and whether a worker is READY."""
        numbers = self._numbers.get(model, {})
        found: dict[int, tuple[str, bool]] = {}
        for entry in described:
            spelling = str(entry.get("modelVersion"))
            match = _INTEGER.fullmatch(spelling)
            number = numbers.get(spelling, int(match[1]) if match else None)
            if number is None:
                continue
            # Where several names have one number, a configured one is meant, then the plain one: `1` and not `1.0`.
            if number not in found or spelling in numbers or (spelling.isdigit() and found[number][0] not in numbers):
                found[number] = (spelling, _ready(entry))
        return found

    def _named(self, model: str, version: int) -> str:
        """A version's configured name, or its digits."""
        return next((name for name, number in self._numbers.get(model, {}).items() if number == version), str(version))

    async def _describe(self, model: str, version: str | None, timeout_s: float) -> list[Described]:
        """One object per version; without a version, the default one's."""
        path = f"/models/{quote(model, safe='')}" + ("" if version is None else f"/{quote(version, safe='')}")
        reply = await self.manage(path, timeout_s)
        described = _json(reply.body)
        if not isinstance(described, list) or not all(isinstance(entry, dict) for entry in described):
            raise bad_reply(TORCHSERVE, "no list of versions; is this its management port?")
        return described


def authorized(authorization: Authorization) -> dict[str, str]:
    """The headers of a request with or without an access key."""
    return {} if authorization is None else {"Authorization": authorization}


def http_error(reply: HttpReply) -> GatewayError:
    """The error in TorchServe's `{"code", "type", "message"}`, or in whatever else a handler or proxy sent.

    A 503 without the triple is a handler's own where it has the id that TorchServe gives each request, which no proxy
    in front of an absent server can have.
    """
    document = _json(reply.body)
    if not isinstance(document, dict):
        document = {}
    kind, text = str(document.get("type") or ""), str(document.get("message") or document.get("error") or "")
    if reply.status == HTTPStatus.SERVICE_UNAVAILABLE and not kind and REQUEST_ID in reply.headers:
        return with_text(TORCHSERVE, Cause.UPSTREAM_FAILED, text)
    return torchserve_http_error(reply.status, kind, text)


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
