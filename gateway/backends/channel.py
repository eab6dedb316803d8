"""The two ways to a model server: a gRPC channel of raw bytes, and a pool of HTTP connections.

Both are bounded in time by the caller's deadline and in size by the reply cap, follow no redirect, use no proxy,
inflate nothing, and never send a request twice.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import aiohttp
import grpc
from yarl import URL

from gateway.backends.errors import Answered, bad_reply, translated
from gateway.core.clock import Clock
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError

MAX_REPLY_BYTES = 64 * 1024 * 1024
# Status, metadata and describe calls have no client waiting with a deadline of its own.
CONTROL_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 5.0
# Shorter than any model server keeps an idle connection, so that it is we who close it.
_KEEPALIVE_S = 15.0
_CONNECTIONS = 256
# aiohttp writes larger bodies in pieces, and only from a file object.
_ONE_WRITE = 1024 * 1024
_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNIMPLEMENTED)

RawMethod = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


def time_left(context: CallContext, clock: Clock) -> float:
    """Seconds until the call's deadline; raises DEADLINE where it has passed, so that nothing is sent."""
    left = context.deadline - clock.now()
    if left <= 0:
        raise GatewayError(Cause.DEADLINE, "the deadline passed before the request was sent")
    return left


def named(mark: str | None, configured: str | None, unstated: str) -> str:
    """The server's name: by its own mark (`name/version ...`), else as configured, else `unstated`."""
    text = "".join(char for char in (mark or "") if char.isprintable() and char != '"')[:80].strip()
    return text.replace("/", " ", 1) if text else configured or unstated


@dataclass(frozen=True, slots=True)
class RpcAnswer:
    """How the server ended a gRPC call: its status, and the metadata of both ends of the stream."""

    code: grpc.StatusCode
    metadata: Mapping[str, str]


class GrpcChannel:
    """One HTTP/2 connection to `address` (host:port), reconnecting by itself; messages are raw bytes.

    Construct it on the event loop that uses it. `answered` judges a status that the server sent.
    """

    def __init__(
        self, address: str, *, server: str, answered: Answered, max_reply_bytes: int = MAX_REPLY_BYTES
    ) -> None:
        _keep_grpc_running()
        self._server = server
        self._answered = answered
        self._channel = grpc.aio.insecure_channel(address, options=_channel_options(max_reply_bytes))
        self._methods: dict[str, RawMethod] = {}

    async def call(self, method: str, message: bytes, timeout_s: float) -> bytes:
        """The reply to `message`; raises GatewayError by the transport's table and `answered`."""
        with translated(self._server, self._answered):
            return await self._method(method)(message, timeout=timeout_s)

    async def ask(self, method: str, message: bytes, timeout_s: float) -> RpcAnswer:
        """Whatever status the server ends the call with; raises GatewayError only where it does not speak."""
        with translated(self._server, self._answered):
            call = self._method(method)(message, timeout=timeout_s)
            try:
                await call
            except grpc.aio.AioRpcError as exc:
                if exc.code() in _NO_ANSWER:
                    raise
                return RpcAnswer(exc.code(), _as_dict(exc.initial_metadata(), exc.trailing_metadata()))
            return RpcAnswer(
                grpc.StatusCode.OK, _as_dict(await call.initial_metadata(), await call.trailing_metadata())
            )

    async def close(self) -> None:
        """Closes the connection; calls in flight fail with UPSTREAM_LOST, later ones with UPSTREAM_UNREACHABLE."""
        await self._channel.close()

    def _method(self, method: str) -> RawMethod:
        found = self._methods.get(method)
        if found is None:
            found = self._methods[method] = self._channel.unary_unary(method, None, None)
        return found


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A complete HTTP answer; `headers` ignores case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> bool:
        """Whether the answer calls itself JSON."""
        return "json" in self.headers.get("Content-Type", "")


class HttpPool:
    """Pooled HTTP/1.1 connections to one model server. Construct it on the event loop that uses it."""

    def __init__(
        self, *, server: str, max_reply_bytes: int = MAX_REPLY_BYTES, connect_timeout_s: float = CONNECT_TIMEOUT_S
    ) -> None:
        self._server = server
        self._max_reply_bytes = max_reply_bytes
        self._connect_timeout_s = connect_timeout_s
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS, keepalive_timeout=_KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "User-Agent": "twinserve"},
            auto_decompress=False,
            trust_env=False,
        )

    async def request(
        self, method: str, url: str, *, timeout_s: float, body: bytes | None = None, content_type: str | None = None
    ) -> HttpReply:
        """The answer, whatever its status; raises GatewayError where none comes, or one over the cap.

        `url` is sent as it is: names in its path come percent-encoded.
        """
        with translated(self._server):
            if self._session.closed:
                raise GatewayError(Cause.UPSTREAM_UNREACHABLE, f"the connections to {self._server} are closed")
            try:
                async with self._session.request(
                    method,
                    URL(url, encoded=True),
                    data=io.BytesIO(body) if body is not None and len(body) > _ONE_WRITE else body,
                    headers={"Content-Type": content_type} if content_type else None,
                    allow_redirects=False,
                    timeout=self._timeout(timeout_s),
                ) as response:
                    return HttpReply(response.status, response.headers, await self._read(response))
            except aiohttp.ConnectionTimeoutError as exc:
                if timeout_s <= self._connect_timeout_s:
                    raise TimeoutError from exc
                raise

    async def close(self) -> None:
        """Closes every connection; calls in flight fail with UPSTREAM_LOST, later ones with UPSTREAM_UNREACHABLE."""
        await self._session.close()

    def _timeout(self, timeout_s: float) -> aiohttp.ClientTimeout:
        # aiohttp rounds timeouts over its threshold up to whole seconds; a deadline is exact.
        return aiohttp.ClientTimeout(total=timeout_s, sock_connect=self._connect_timeout_s, ceil_threshold=float("inf"))

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body; leaving early drops the connection, since the rest of the answer is still on it."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise bad_reply(self._server, "a content encoding that was not asked for")
        size = response.content_length
        if size is not None and size <= self._max_reply_bytes:
            return await response.read()
        parts: list[bytes] = []
        left = self._max_reply_bytes if size is None else 0
        async for part in response.content.iter_any():
            left -= len(part)
            if left < 0:
                raise bad_reply(self._server, f"more than {self._max_reply_bytes} bytes")
            parts.append(part)
        return b"".join(parts)


@cache
def _keep_grpc_running() -> None:
    """Keeps grpc.aio's poller thread for the life of the process.

    Else it is stopped when the last channel is collected as garbage, and whichever turn of the event loop the
    collector runs in waits for it, up to 0.2 s.
    """
    grpc.aio.init_grpc_aio()


def _channel_options(max_reply_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_reply_bytes),
        # What we send is bounded at the edge, and by the server's own limit.
        ("grpc.max_send_message_length", -1),
        # Neither service-config retries nor transparent ones: what is sent twice is for the retry layer to decide.
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_http_proxy", 0),
        # grpc core inflates a message before it checks the size, so no compression is offered (bit 0: identity).
        ("grpc.compression_enabled_algorithms_bitset", 1),
        # Servers end connections that ping more often than every 5 minutes. The timeout also bounds how long
        # sent bytes may stay unacknowledged (TCP_USER_TIMEOUT), by which a dead peer is noticed under load.
        ("grpc.keepalive_time_ms", 330_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # A server that restarts is found again within a second. The first is also the connect timeout.
        ("grpc.min_reconnect_backoff_ms", int(CONNECT_TIMEOUT_S * 1000)),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Else channels to one address share a connection, and closing a backend would not close its own.
        ("grpc.use_local_subchannel_pool", 1),
    ]


def _as_dict(*parts: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    return {key: value for part in parts for key, value in part or () if isinstance(value, str)}
