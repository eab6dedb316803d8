"""The REST door: TensorFlow Serving's routes, checks and error bodies.

Routes by model_servers/http_rest_api_util.cc, which method runs by http_rest_api_handler.cc, what is counted by
http_server.cc; what is no HTTP to libevent gets libevent's pages.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote

from aiohttp import web
from grpc import StatusCode
from tensorflow_serving.apis import model_pb2

from serving.tfserving.savedmodel_server import json_response, status
from serving.tfserving.savedmodel_server.errors import DEADLINE_TEXT, ServingError, invalid
from serving.tfserving.savedmodel_server.example_calls import classify_json, regress_json
from serving.tfserving.savedmodel_server.http_answers import body_of, inflated, page, response
from serving.tfserving.savedmodel_server.metrics import microseconds
from serving.tfserving.savedmodel_server.predict import predict_json
from serving.tfserving.savedmodel_server.runtime import Runtime
from serving.tfserving.savedmodel_server.versions import Versions

log = logging.getLogger(__name__)

# RE2's FullMatch over the path with its query string, and without regard to case.
_FLAGS = re.ASCII | re.IGNORECASE | re.DOTALL
_CHOICE = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_API = re.compile(r"/v1/.*", _FLAGS)
_POST = re.compile(rf"/v1/models/(?P<name>[^/:]+){_CHOICE}:(?P<method>classify|regress|predict)", _FLAGS)
_GET = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_CHOICE}(?:/(?P<method>metadata))?", _FLAGS)
_PATTERNS = {"POST": _POST, "GET": _GET}
_MAX_VERSION = 2**63 - 1
_MAX_DIGITS = len(str(_MAX_VERSION))

# What evhttp_uri_parse takes: a path, perhaps a query and a fragment; before it what a proxy is sent, which is ignored.
_CHARACTERS = r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/{}]++|%[0-9a-fA-F]{{2}})*+"
_TARGET = re.compile(
    rf"(?:[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*)?"
    rf"(?P<target>(?P<path>{_CHARACTERS.format('')})(?:\?{_CHARACTERS.format('?')})?(?:#{_CHARACTERS.format('?')})?)"
)
# What the server turned on in libevent (evhttp_server.cc); any other method is not implemented.
_METHODS = frozenset({"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"})

# The method is compared with its case, unlike the path: any other spelling is a malformed request.
_CALLS = {"predict": predict_json, "classify": classify_json, "regress": regress_json}
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
_JSON = "application/json"
# libevent's own, for an answer that names none.
_UNNAMED = "text/html; charset=ISO-8859-1"


@dataclass(slots=True)
class _Asked:
    """What is known of a request so far, for the counters: the model as its path spells it, and the method."""

    model: str = ""
    method: str = ""


class RestDoor:
    """Answers HTTP requests; `timeout_s` limits a call that runs a model, None does not.

    `cors` lets pages of any origin ask; `monitoring_path` is where the Prometheus page is, None for nowhere.
    """

    def __init__(
        self,
        versions: Versions,
        pool: Executor,
        runtime: Runtime,
        *,
        timeout_s: float | None,
        cors: bool = False,
        monitoring_path: str | None = None,
    ) -> None:
        self._versions = versions
        self._pool = pool
        self._runtime = runtime
        self._timeout_s = timeout_s
        self._headers = _CORS if cors else {}
        self._monitoring_path = monitoring_path

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to any request; never raises."""
        if request.method not in _METHODS:
            return page(501)
        parsed = _TARGET.fullmatch(request.raw_path)
        if parsed is None:
            return page(400)
        # As sent: the query string counts as part of the path.
        target = parsed["target"]
        if parsed["path"] == self._monitoring_path:
            return self._monitoring(target)
        if not _API.fullmatch(target):
            return page(404)
        asked = _Asked()
        started = time.perf_counter()
        content_type = _UNNAMED if request.method == "OPTIONS" else _JSON
        try:
            code, body = StatusCode.OK, await self._answer(request, target, asked)
        except ServingError as exc:
            code, body = exc.code, b"" if request.method == "OPTIONS" else json_response.error_body(exc)
        except Exception as exc:
            log.exception("a REST call failed")
            error = ServingError(StatusCode.INTERNAL, f"internal error: {type(exc).__name__}")
            code, body = error.code, json_response.error_body(error)
        metrics = self._runtime.metrics
        if code is StatusCode.OK:
            metrics.request_latency.record(microseconds(started), asked.model, asked.method, "REST")
        metrics.request_count.add(asked.model, code.name)
        return response(code, body, content_type, self._headers)

    def _monitoring(self, target: str) -> web.Response:
        if target != self._monitoring_path:
            text = f"Unexpected path: {target}. Should be {self._monitoring_path}"
            return response(StatusCode.INVALID_ARGUMENT, text.encode(), "text/plain")
        return response(StatusCode.OK, self._runtime.metrics.page().encode("utf-8", "replace"), "text/plain")

    async def _answer(self, request: web.BaseRequest, target: str, asked: _Asked) -> bytes:
        body = await body_of(request)
        verb = request.method
        if verb == "OPTIONS":
            if not re.search("https?://", request.headers.get("Origin", "")):
                raise ServingError(StatusCode.FAILED_PRECONDITION, "Origin header is missing in CORS preflight")
            return b""
        pattern = _PATTERNS.get(verb)
        match = pattern.fullmatch(target) if pattern else None
        if match is None:
            raise invalid(f"Malformed request: {verb} {target}")
        asked.model = unquote(match["name"] or "")
        spec = _model_spec(asked.model, match)
        if verb == "GET":
            about = status.metadata_json if match["method"] == "metadata" else status.status_json
            return about(self._versions, spec)
        asked.method = match["method"]
        if asked.method not in _CALLS:
            raise invalid(f"Malformed request: {verb} {target}")
        # As TensorFlow Serving reads the header: its value with its case, and other codings beside it ignored.
        gzipped = "gzip" in request.headers.get("Content-Encoding", "")
        deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        work = partial(self._call, asked.method, spec, body, gzipped, deadline)
        try:
            # The session keeps the deadline too; this is for a call that still waits for a thread, and never starts.
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except TimeoutError:
            raise ServingError(StatusCode.DEADLINE_EXCEEDED, DEADLINE_TEXT) from None

    def _call(
        self, method: str, spec: model_pb2.ModelSpec, body: bytes, gzipped: bool, deadline: float | None
    ) -> bytes:
        return _CALLS[method](self._versions, spec, inflated(body) if gzipped else body, deadline, self._runtime)


def _model_spec(name: str, match: re.Match[str]) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=name)
    if match["version"] is not None:
        digits = match["version"]
        if len(digits.lstrip("0")) > _MAX_DIGITS or int(digits) > _MAX_VERSION:
            raise invalid(f"Failed to convert version: {digits} to numeric.")
        spec.version.value = int(digits)
    if match["label"] is not None:
        spec.version_label = unquote(match["label"])
    return spec
