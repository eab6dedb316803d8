"""The REST door: TensorFlow Serving's routes, checks and error bodies (model_servers/http_rest_api_util.cc)."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import zlib
from concurrent.futures import Executor
from functools import partial
from urllib.parse import unquote

from aiohttp import web
from aiohttp.http_exceptions import PayloadEncodingError
from grpc import StatusCode
from tensorflow_serving.apis import model_pb2

from serving.tfserving.savedmodel_server import MARK, MARK_HEADER, json_response, status
from serving.tfserving.savedmodel_server.errors import DEADLINE_TEXT, ServingError, invalid
from serving.tfserving.savedmodel_server.predict import predict_json
from serving.tfserving.savedmodel_server.versions import Versions

log = logging.getLogger(__name__)

# RE2's FullMatch over the path with its query string, and without regard to case.
_FLAGS = re.ASCII | re.IGNORECASE | re.DOTALL
_CHOICE = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_API = re.compile(r"/v1/.*", _FLAGS)
_POST = re.compile(rf"/v1/models/(?P<name>[^/:]+){_CHOICE}:(?P<method>classify|regress|predict)", _FLAGS)
_GET = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_CHOICE}(?P<metadata>/metadata)?", _FLAGS)
_MAX_VERSION = 2**63 - 1
_MAX_DIGITS = len(str(_MAX_VERSION))

# net_http/compression/gzip_zlib.h: what inflates to more is taken as an empty body.
MAX_INFLATED = 100 * 1024 * 1024
_GZIP_WINDOW = 31

# libevent's own page (http.c), for whatever is outside /v1/.
NOT_FOUND_PAGE = b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"


class RestDoor:
    """Answers HTTP requests; `timeout_s` limits a predict call, None does not."""

    def __init__(self, versions: Versions, pool: Executor, *, timeout_s: float | None) -> None:
        self._versions = versions
        self._pool = pool
        self._timeout_s = timeout_s

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to any request; never raises."""
        # The request target as sent: the query string counts as part of the path.
        path = request.raw_path
        if not _API.fullmatch(path):
            return _response(404, NOT_FOUND_PAGE, "text/html", close=True)
        try:
            return _response(200, await self._answer(request, path, await _body(request)))
        except ServingError as exc:
            return _response(exc.http_status, json_response.error_body(exc))
        except Exception as exc:
            log.exception("a REST call failed")
            error = ServingError(StatusCode.INTERNAL, f"internal error: {type(exc).__name__}")
            return _response(error.http_status, json_response.error_body(error))

    async def _answer(self, request: web.BaseRequest, path: str, body: bytes) -> bytes:
        verb = request.method
        pattern = {"POST": _POST, "GET": _GET}.get(verb)
        match = pattern.fullmatch(path) if pattern else None
        if match is None:
            raise invalid(f"Malformed request: {verb} {path}")
        spec = _model_spec(match)
        if verb == "GET":
            about = status.metadata_json if match["metadata"] else status.status_json
            return about(self._versions, spec)
        if match["method"].lower() != "predict":
            raise ServingError(StatusCode.UNIMPLEMENTED, f"{match['method']} is not implemented by {MARK}")
        gzipped = "gzip" in request.headers.get("Content-Encoding", "").lower()
        deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        work = partial(self._predict, spec, body, gzipped, deadline)
        try:
            # The session keeps the deadline too; this is for a call that still waits for a thread, and never starts.
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except TimeoutError:
            raise ServingError(StatusCode.DEADLINE_EXCEEDED, DEADLINE_TEXT) from None

    def _predict(self, spec: model_pb2.ModelSpec, body: bytes, gzipped: bool, deadline: float | None) -> bytes:
        return predict_json(self._versions, spec, _inflated(body) if gzipped else body, deadline)


class MarkedServer(web.Server):
    """aiohttp's server for a door, with the mark on what aiohttp itself answers to what is no HTTP."""

    def __init__(self, door: RestDoor) -> None:
        # A coded body is inflated by the door, which knows the cap.
        super().__init__(door.handle, access_log=None, auto_decompress=False)

    def __call__(self) -> web.RequestHandler:
        """The protocol of one connection."""
        return _MarkedProtocol(self, loop=self._loop, **self._kwargs)


class _MarkedProtocol(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        response = super().handle_error(request, status, exc, message)
        response.headers[MARK_HEADER] = MARK
        return response


def _model_spec(match: re.Match[str]) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=unquote(match["name"] or ""))
    if match["version"] is not None:
        digits = match["version"]
        if len(digits.lstrip("0")) > _MAX_DIGITS or int(digits) > _MAX_VERSION:
            raise invalid(f"Failed to convert version: {digits} to numeric.")
        spec.version.value = int(digits)
    if match["label"] is not None:
        spec.version_label = unquote(match["label"])
    return spec


async def _body(request: web.BaseRequest) -> bytes:
    """The whole body; raises INVALID_ARGUMENT where it breaks off or is badly framed."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        # curl waits a second for this before it sends a large body.
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    try:
        return await request.content.read()
    except (ConnectionError, web.RequestPayloadError, PayloadEncodingError) as exc:
        raise invalid("the body of the request is incomplete") from exc


def _inflated(body: bytes) -> bytes:
    """The body without its gzip coding; empty where it is no gzip or too large, as TensorFlow Serving has it."""
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        inflated = inflater.decompress(body, MAX_INFLATED + 1)
    except zlib.error:
        return b""
    return inflated if inflater.eof and len(inflated) <= MAX_INFLATED else b""


def _response(code: int, body: bytes, content_type: str = "application/json", *, close: bool = False) -> web.Response:
    response = web.Response(status=code, body=body, headers={"Content-Type": content_type, MARK_HEADER: MARK})
    if close:
        response.force_close()
    return response
