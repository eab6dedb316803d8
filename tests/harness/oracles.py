"""Oracle servers: tiny HTTP/1.1 and gRPC servers that answer by a law, each in a process of its own.

    python -m tests.harness.oracles rest|grpc|h2 LAW-AS-JSON

prints its port and runs until its standard input ends. `grpc` is gRPC's own server; `h2` speaks just enough HTTP/2 to
answer a gRPC call: where the generator is what is looked at, the server must not take its cores. A reply leaves when
the law says, to the kernel's timers: an event loop's own round to a millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import heapq
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from tests.harness.laws import LAWS, Answer, Law

RIGHT, WRONG = b'{"outputs": {"y": [[1.0]]}}', b'{"outputs": {"y": [[2.0]]}}'
_REASON = {200: b"OK", 503: b"Service Unavailable"}
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_MONOTONIC, _ABSOLUTE = 1, 1


class Departures:
    """Calls back at instants of `time.monotonic`, by a timerfd that the event loop watches."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        loop.add_reader(self._fd, self._due)

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Calls at `when`, at once where that is past."""
        if when <= time.monotonic():
            call()
            return
        heapq.heappush(self._waiting, (when, next(self._number), call))
        if self._waiting[0][0] == when:
            self._set(when)

    def _due(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            heapq.heappop(self._waiting)[2]()
        if self._waiting:
            self._set(self._waiting[0][0])

    def _set(self, when: float) -> None:
        seconds = int(when)
        spec = (ctypes.c_long * 4)(0, 0, seconds, int((when - seconds) * 1e9))
        self._libc.timerfd_settime(self._fd, _ABSOLUTE, spec, None)


class Connection(asyncio.Protocol):
    """One HTTP connection; a client sends its next request after the reply."""

    def __init__(self, law: Law, departures: Departures) -> None:
        self._law, self._departures = law, departures
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answers when a request is whole."""
        now = time.monotonic()
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(body) < length:
            return
        self._buffer = b""
        answer = self._law.answer(now)
        content = RIGHT if answer.right else WRONG
        reply = b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        reply %= answer.status, _REASON[answer.status], len(content), content
        self._departures.at(answer.at, lambda: self._reply(reply))

    def _reply(self, reply: bytes) -> None:
        # The client may be gone; what is due for others must not be held up by that.
        if not self._transport.is_closing():
            self._transport.write(reply)


class H2Connection(Connection):
    """One HTTP/2 connection (RFC 9113): every stream that ends is a call, whatever its headers say."""

    _PREFACE = 24
    _DATA, _HEADERS, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 4, 6, 8
    _END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
    # 8 is `:status 200` in HPACK's static table; the others are literals without indexing.
    _OPENS = b"\x88\x00\x0ccontent-type\x10application/grpc"
    _CLOSES: ClassVar = {200: b"\x00\x0bgrpc-status\x010", 503: b"\x00\x0bgrpc-status\x018"}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport and sends the settings, all as they are by default."""
        super().connection_made(transport)
        self._skip = self._PREFACE
        self._transport.write(self._frame(self._SETTINGS, 0, 0, b""))

    def data_received(self, data: bytes) -> None:
        """Answers each stream when its request is whole."""
        now = time.monotonic()
        self._buffer += data
        if self._skip:
            if len(self._buffer) < self._skip:
                return
            self._buffer, self._skip = self._buffer[self._skip :], 0
        while len(self._buffer) >= 9:
            length, kind, flags = int.from_bytes(self._buffer[:3]), self._buffer[3], self._buffer[4]
            stream, end = int.from_bytes(self._buffer[5:9]), 9 + length
            if len(self._buffer) < end:
                return
            payload, self._buffer = self._buffer[9:end], self._buffer[end:]
            if kind in (self._SETTINGS, self._PING) and not flags & self._ACK:
                self._transport.write(self._frame(kind, self._ACK, 0, payload if kind == self._PING else b""))
            if kind == self._DATA and length:
                self._transport.write(self._frame(self._WINDOW_UPDATE, 0, 0, length.to_bytes(4)))
            if kind in (self._DATA, self._HEADERS) and flags & self._END_STREAM:
                self._answer(stream, self._law.answer(now))

    def _answer(self, stream: int, answer: Answer) -> None:
        reply = self._frame(self._HEADERS, self._END_HEADERS, stream, self._OPENS)
        if answer.status == 200:
            reply += self._frame(self._DATA, 0, stream, bytes(5))
        reply += self._frame(self._HEADERS, self._END_HEADERS | self._END_STREAM, stream, self._CLOSES[answer.status])
        self._departures.at(answer.at, lambda: self._reply(reply))

    @staticmethod
    def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


async def _serve(law: Law, protocol: type[Connection]) -> int:
    loop = asyncio.get_running_loop()
    departures = Departures(loop)
    server = await loop.create_server(lambda: protocol(law, departures), "127.0.0.1", 0, backlog=4096)
    return int(server.sockets[0].getsockname()[1])


async def _serve_grpc(law: Law) -> tuple[int, Any]:
    import grpc.aio  # noqa: PLC0415 - not where only HTTP is served

    loop = asyncio.get_running_loop()
    departures = Departures(loop)

    async def call(request: bytes, context: Any) -> bytes:
        del request
        left = loop.create_future()
        answer = law.answer(time.monotonic())
        departures.at(answer.at, lambda: left.cancelled() or left.set_result(None))
        await left
        if answer.status != 200:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the oracle refuses")
        return b""

    service, method = _METHOD[1:].rsplit("/", 1)
    handlers = {method: grpc.unary_unary_rpc_method_handler(call)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return port, server


async def _main(transport: str, law: Law) -> None:
    server = None
    if transport == "grpc":
        port, server = await _serve_grpc(law)
    else:
        port = await _serve(law, Connection if transport == "rest" else H2Connection)
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    if server is not None:
        await server.stop(None)


@contextlib.contextmanager
def oracle(law: Law, transport: str = "rest") -> Iterator[str]:
    """A server of its own with this law; yields `host:port`."""
    document = json.dumps({"name": name_of(law), "with": _parameters(law)})
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.harness.oracles", transport, document],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()
        process.stdout.close()


def name_of(law: Law) -> str:
    """A law's name in LAWS."""
    return next(name for name, kind in LAWS.items() if kind is type(law))


def _parameters(law: Law) -> dict[str, Any]:
    return {key: value for key, value in asdict(law).items() if not key.startswith("_")}  # type: ignore[call-overload]


if __name__ == "__main__":
    import uvloop

    wanted = json.loads(sys.argv[2])
    uvloop.install()
    asyncio.run(_main(sys.argv[1], LAWS[wanted["name"]](**wanted["with"])))
