"""The HTTP/2 client against gRPC's own server, and against frames that no good server sends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import gevent
import grpc
import pytest
from gevent import socket

from loadtests.engine import http2
from loadtests.engine.grpc_client import Http2GrpcClient
from loadtests.engine.http2 import Connection, request_block
from loadtests.errors import LoadTestError
from loadtests.replies import Outcome, Reply

METHOD = "/test.Service/Call"
Handle = Callable[[bytes, grpc.ServicerContext], bytes]
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@contextmanager
def grpc_server(handle: Handle, *options: tuple[str, int]) -> Iterator[tuple[str, grpc.Server]]:
    """gRPC's server on a free port."""
    with ThreadPoolExecutor(16) as pool:
        server = grpc.server(pool, options=[*UNLIMITED, *options])
        handlers = {"Call": grpc.unary_unary_rpc_method_handler(handle)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}", server
        finally:
            server.stop(0).wait()


@contextmanager
def client_of(address: str, *, timeout: float = 10.0, **metadata: str) -> Iterator[Http2GrpcClient]:
    """A client that is closed at the end."""
    client = Http2GrpcClient(address, METHOD, metadata, timeout=timeout)
    try:
        yield client
    finally:
        client.close()


def _ask(client: Http2GrpcClient, body: bytes = b"ping") -> Reply:
    return client.send(client.prepared(body))


def test_a_call_carries_its_message_and_metadata_and_brings_the_marks() -> None:
    """What the server says of itself may stand in front of the message or behind it."""
    seen: dict[str, Any] = {}

    def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.update(context.invocation_metadata())
        context.send_initial_metadata((("x-server", "fake/1.0"),))
        context.set_trailing_metadata((("server-timing", "total;dur=1.5"),))
        return request[::-1]

    with grpc_server(handle) as (address, _), client_of(address, **{"X-Endpoint": "tf"}) as client:
        reply = _ask(client, b"abc")
    assert (reply.outcome, reply.body) == (Outcome.OK, b"cba")
    assert reply.marks == {"x-server": "fake/1.0", "server-timing": "total;dur=1.5"}
    assert seen["x-endpoint"] == "tf"
    assert client.opened == 1


def test_many_calls_share_a_connection_and_get_their_own_replies() -> None:
    """Replies come in any order."""
    with grpc_server(lambda request, _: request) as (address, _), client_of(address) as client:
        calls = [gevent.spawn(_ask, client, f"{number}".encode() * (number % 7 + 1)) for number in range(300)]
        gevent.joinall(calls, timeout=30)
    assert [call.value.body for call in calls] == [f"{n}".encode() * (n % 7 + 1) for n in range(300)]
    assert client.opened == 1


def test_messages_larger_than_every_window_arrive_whole() -> None:
    """Flow control both ways: the server's window is 64 KiB, a frame at most 16 KiB."""
    large = bytes(range(256)) * 4096 * 3
    with grpc_server(lambda request, _: request) as (address, _), client_of(address) as client:
        calls = [gevent.spawn(_ask, client, large + bytes([number])) for number in range(3)]
        gevent.joinall(calls, timeout=30)
    assert [call.value.body == large + bytes([number]) for number, call in enumerate(calls)] == [True] * 3


def test_a_server_that_takes_few_calls_at_once_gets_few() -> None:
    """The others wait for their turn."""
    under_way, most, lock = 0, 0, threading.Lock()
    enough = threading.Event()

    def handle(request: bytes, _: grpc.ServicerContext) -> bytes:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        enough.wait(0.01)
        with lock:
            under_way -= 1
        return request

    with grpc_server(handle, ("grpc.max_concurrent_streams", 2)) as (address, _), client_of(address) as client:
        _ask(client)  # the settings have come
        calls = [gevent.spawn(_ask, client) for _ in range(12)]
        gevent.joinall(calls, timeout=30)
    assert {call.value.outcome for call in calls} == {Outcome.OK}
    assert most <= 2


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, Outcome.HTTP_4XX),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Outcome.SHED),
        (grpc.StatusCode.UNAVAILABLE, Outcome.SHED),
        (grpc.StatusCode.INTERNAL, Outcome.HTTP_5XX),
    ],
)
def test_a_status_is_counted_and_its_message_kept(code: grpc.StatusCode, outcome: Outcome) -> None:
    """Percent-encoding is undone."""

    def handle(_: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(code, "größer als 100 %")

    with grpc_server(handle) as (address, _), client_of(address) as client:
        reply = _ask(client)
    assert (reply.outcome, reply.detail) == (outcome, f"{code.name}: größer als 100 %")


def test_a_call_without_a_reply_is_a_timeout_and_the_connection_goes_on() -> None:
    """The stream is given up, not the connection."""
    release = threading.Event()

    def handle(request: bytes, _: grpc.ServicerContext) -> bytes:
        if request == b"slow":
            release.wait(20)
        return request

    with grpc_server(handle) as (address, _), client_of(address, timeout=0.3) as client:
        slow = _ask(client, b"slow")
        release.set()
        # The server's own deadline may be the first to tell.
        assert slow.outcome is Outcome.TIMEOUT
        assert _ask(client, b"quick").outcome is Outcome.OK
        assert client.opened == 1


def test_a_server_that_leaves_loses_its_calls_and_the_next_one_connects_anew() -> None:
    """Calls under way are connection errors; nothing is retried."""
    release, entered = threading.Event(), threading.Event()

    def handle(request: bytes, _: grpc.ServicerContext) -> bytes:
        entered.set()
        release.wait(20)
        return request

    with grpc_server(handle) as (address, server):
        client = Http2GrpcClient(address, METHOD, {}, timeout=5)
        call = gevent.spawn(_ask, client)
        gevent.get_hub().threadpool.apply(entered.wait, (20,))
        server.stop(0)
        call.join(10)
        release.set()
        assert call.value.outcome in (Outcome.CONN_ERROR, Outcome.HTTP_5XX, Outcome.SHED)
    assert _ask(client).outcome is Outcome.CONN_ERROR
    assert client.opened == 2
    client.close()


def test_nobody_there_is_a_connection_error() -> None:
    """At once, with the system's words."""
    with client_of("127.0.0.1:1") as client:
        reply = _ask(client)
    assert (reply.outcome, "refused" in reply.detail) == (Outcome.CONN_ERROR, True)


def test_an_address_without_a_port_is_refused() -> None:
    """Before anything is measured."""
    with pytest.raises(LoadTestError, match="expected host:port"):
        Http2GrpcClient("localhost", METHOD, {}, timeout=1)


@contextmanager
def scripted(*replies: bytes, closes: bool = True) -> Iterator[str]:
    """A server that takes a connection, sends these bytes when it has heard something, and no more."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def serve() -> None:
        near, _ = listener.accept()
        with near:
            near.recv(4096)
            for reply in replies:
                near.sendall(reply)
            if closes:
                near.shutdown(socket.SHUT_WR)
            while near.recv(4096):
                pass

    server = gevent.spawn(serve)
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.kill()
        listener.close()


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


OK_HEADERS = _literal(b":status", b"200")
OK_TRAILERS = _literal(b"grpc-status", b"0")
MESSAGE = b"\x00\x00\x00\x00\x02hi"


def test_headers_in_pieces_and_padding_are_read() -> None:
    """CONTINUATION, PADDED and PRIORITY change nothing of what is said."""
    with scripted(
        http2._frame(http2.SETTINGS, 0, 0, b""),
        http2._frame(http2.PING, 0, 0, b"12345678"),
        http2._frame(http2.HEADERS, http2.PRIORITY, 1, b"\x00\x00\x00\x00\x10" + OK_HEADERS[:5]),
        http2._frame(http2.CONTINUATION, http2.END_HEADERS, 1, OK_HEADERS[5:]),
        http2._frame(http2.DATA, http2.PADDED, 1, b"\x03" + MESSAGE + b"\x00\x00\x00"),
        http2._frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, OK_TRAILERS),
    ) as address, client_of(address) as client:  # fmt: skip
        reply = _ask(client)
    assert (reply.outcome, reply.body) == (Outcome.OK, b"hi")


@pytest.mark.parametrize(
    ("frames", "outcome", "words"),
    [
        ([http2._frame(http2.RST_STREAM, 0, 1, b"\x00\x00\x00\x07")], Outcome.SHED, "UNAVAILABLE"),
        ([http2._frame(http2.GOAWAY, 0, 0, bytes(8))], Outcome.CONN_ERROR, "goaway"),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], Outcome.CONN_ERROR, "closed"),
        ([http2._frame(http2.HEADERS, 0x5, 1, _literal(b":status", b"404"))], Outcome.HTTP_5XX, "UNIMPLEMENTED"),
        (
            [http2._frame(http2.HEADERS, 0x4, 1, OK_HEADERS), http2._frame(http2.HEADERS, 0x5, 1, OK_TRAILERS)],
            Outcome.WRONG_ANSWER,
            "no message",
        ),
        ([http2._frame(http2.HEADERS, 0x5, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff")], Outcome.CONN_ERROR, ""),
    ],
)
def test_what_no_good_server_sends_is_a_failed_request(frames: list[bytes], outcome: Outcome, words: str) -> None:
    """Never an exception, and never a right answer."""
    with scripted(*frames) as address, client_of(address, timeout=3) as client:
        reply = _ask(client)
    assert reply.outcome is outcome
    assert words in reply.detail


def test_long_header_values_keep_their_length() -> None:
    """Lengths from 127 take more than one byte."""
    for length in (126, 127, 128, 255, 300, 20_000):
        block = request_block(METHOD, "h:1", 1.0, {"x": "v" * length})
        decoded = dict(http2.Decoder().decode(block)) if length < 10_000 else {}
        assert decoded.get("x", "v" * length) == "v" * length


def test_a_request_that_its_time_cuts_off_does_not_spoil_the_next_one() -> None:
    """The server's window stays shut: the body waits, its time is up, the stream is given up."""
    with scripted(http2._frame(http2.PING, 0, 0, b"12345678"), closes=False) as address:
        client = Http2GrpcClient(address, METHOD, {}, timeout=0.3)
        reply = client.send(client.prepared(bytes(200_000)))
        assert reply.outcome is Outcome.TIMEOUT
        assert client._connection is not None
        assert client._connection._streams == {}
        client.close()


def test_closing_ends_calls_under_way() -> None:
    """They are lost, as with a server that goes."""
    with scripted() as address:
        host, port = address.split(":")
        connection = Connection(host, int(port), 1.0)
        _, stream = connection.begin(request_block(METHOD, address, 1.0, {}), b"")
        connection.close()
        with pytest.raises(http2.LostError):
            stream.ended.get(timeout=1)
    assert not connection.usable
