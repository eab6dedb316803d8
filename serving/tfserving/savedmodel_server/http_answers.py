"""HTTP as the REST door speaks it: bodies, answers with the mark, and libevent's pages."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.http_exceptions import PayloadEncodingError
from grpc import StatusCode

from serving.tfserving.savedmodel_server import MARK, MARK_HEADER
from serving.tfserving.savedmodel_server.errors import HTTP_STATUS, invalid

# net_http/compression/gzip_zlib.h: what inflates to more is taken as an empty body.
MAX_INFLATED = 100 * 1024 * 1024
_GZIP_WINDOW = 31
# libevent has no limit on a request's line and headers; ours keeps a client from filling the memory.
MAX_LINE = 1 << 20


class _Response(web.Response):
    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        # libevent's server does not name itself.
        self.headers.popall(hdrs.SERVER, None)


Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class MarkedServer(web.Server):
    """aiohttp's server for a handler, with the mark on what aiohttp itself answers to what is no HTTP."""

    def __init__(self, handler: Handler) -> None:
        # A coded body is inflated by the door, which knows the cap.
        super().__init__(
            handler, access_log=None, auto_decompress=False, max_line_size=MAX_LINE, max_field_size=MAX_LINE
        )

    def __call__(self) -> web.RequestHandler:
        """The protocol of one connection."""
        return _MarkedProtocol(self, loop=self._loop, **self._kwargs)


class _MarkedProtocol(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)
        return page(status)


async def body_of(request: web.BaseRequest) -> bytes:
    """The whole body; raises INVALID_ARGUMENT where it breaks off or is badly framed."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        # curl waits a second for this before it sends a large body.
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    try:
        return await request.content.read()
    except (ConnectionError, web.RequestPayloadError, PayloadEncodingError) as exc:
        raise invalid("the body of the request is incomplete") from exc


def inflated(body: bytes) -> bytes:
    """The body without its gzip coding; empty where it is no gzip or too large, as TensorFlow Serving has it."""
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        data = inflater.decompress(body, MAX_INFLATED + 1)
    except zlib.error:
        return b""
    return data if inflater.eof and len(data) <= MAX_INFLATED else b""


def response(code: StatusCode, body: bytes, content_type: str, headers: Mapping[str, str] = {}) -> web.Response:
    """An answer with the HTTP status of a canonical code."""
    return _Response(
        status=HTTP_STATUS[code],
        body=body,
        headers={hdrs.CONTENT_TYPE: content_type, MARK_HEADER: MARK, **headers},
    )


def page(status: int) -> web.Response:
    """What libevent itself answers (evhttp_send_error in http.c), after which it closes the connection."""
    phrase = HTTPStatus(status).phrase
    text = f"<HTML><HEAD>\n<TITLE>{status} {phrase}</TITLE>\n</HEAD><BODY>\n<H1>{phrase}</H1>\n</BODY></HTML>\n"
    answer = _Response(status=status, body=text.encode(), headers={hdrs.CONTENT_TYPE: "text/html", MARK_HEADER: MARK})
    answer.force_close()
    return answer
