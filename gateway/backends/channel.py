"""The gRPC way to a model server: one channel of raw bytes; and what both ways share.

A call is bounded in time by its deadline and in size by the reply cap; nothing goes through a proxy, is inflated, or
is sent twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import grpc

from gateway.backends.errors import Answered, translated
from gateway.core.clock import Clock
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError

MAX_REPLY_BYTES = 64 * 1024 * 1024
# Status, metadata and describe calls have no client waiting with a deadline of its own.
CONTROL_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 5.0
# How many models of one server are listed; more than anyone serves, and an end to a list without one.
MAX_LISTED = 1000
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

    async def call(
        self, method: str, message: bytes, timeout_s: float, metadata: Mapping[str, str] | None = None
    ) -> bytes:
        """The reply to `message`; raises GatewayError by the transport's table and `answered`."""
        pairs = tuple(metadata.items()) if metadata else None
        with translated(self._server, self._answered):
            return await self._method(method)(message, timeout=timeout_s, metadata=pairs)

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
