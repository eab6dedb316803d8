"""Unary gRPC over HTTP/2 (RFC 9113, gRPC's PROTOCOL-HTTP2.md) on gevent's sockets, as thin as the HTTP/1.1 client.

gRPC's own Python client takes a third of a millisecond of processor time for a call: it would be late with the next,
and a comparison of REST with gRPC would measure it. Here a call is one write, and one greenlet a connection reads the
replies. The peer is asked to compress headers without a table, so that equal header blocks mean the same.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import gevent
from gevent import socket
from gevent.event import AsyncResult, Event
from gevent.lock import BoundedSemaphore
from hpack import Decoder, HPACKError

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = struct.Struct(">BHBBI")  # length (8 + 16 bits), type, flags, stream
_SETTING = struct.Struct(">HI")
_NUMBER = struct.Struct(">I")
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_TABLE_SIZE, _PUSH, _MOST_STREAMS, _WINDOW, _FRAME_SIZE = 1, 2, 3, 4, 5
_LARGEST, _USUAL = 2**31 - 1, 65_535
_READ_BYTES = 256 * 1024
_CANCEL = 8
# Header blocks that are remembered: a server repeats those without a clock in them.
_MOST_BLOCKS = 256
Headers = dict[str, str]


class LostError(Exception):
    """Raised where the connection ended before a reply did."""


class Stream:
    """One call under way; `ended` gets the instant of its last byte, or the error that ended it."""

    __slots__ = ("data", "ended", "headers", "reset", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.headers: Headers = {}
        self.data = bytearray()
        self.reset: int | None = None
        self.ended = AsyncResult()


class Connection:
    """One HTTP/2 connection that any number of greenlets call over. `usable` is false once it takes no new call."""

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self.usable = True
        self._socket: Any = socket.create_connection((host, port), timeout)
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._window, self._stream_window, self._frame_size, self._most = _USUAL, _USUAL, 16_384, _LARGEST
        self._moved = Event()  # a window grew or a stream ended
        self._lock = BoundedSemaphore()  # frames of two calls must not mix
        self._decoder = Decoder()
        self._blocks: dict[bytes, Headers] = {}
        self._partial: tuple[int, int, bytearray] | None = None
        self._taken = 0
        ours = _setting(_TABLE_SIZE, 0) + _setting(_PUSH, 0) + _setting(_WINDOW, _LARGEST)
        grown = _NUMBER.pack(_LARGEST - _USUAL)
        self._socket.sendall(_PREFACE + _frame(SETTINGS, 0, 0, ours) + _frame(WINDOW_UPDATE, 0, 0, grown))
        self._reader = gevent.spawn(self._read)

    def begin(self, block: bytes, body: bytes) -> tuple[int, Stream]:
        """Sends a request's headers and body; raises OSError or LostError where the connection is gone."""
        number, stream, sent = self._opened(block, body)
        try:
            if not sent:
                self._send_in_pieces(number, stream, body)
        except BaseException:
            self.abandon(number)
            raise
        return number, stream

    def _opened(self, block: bytes, body: bytes) -> tuple[int, Stream, bool]:
        """A stream with its headers sent, and the body too where it fits into one frame and every window."""
        while True:
            while len(self._streams) >= self._most and self.usable:
                self._wait()
            with self._lock:
                if not self.usable:
                    raise LostError("the connection takes no new request")
                if len(self._streams) >= self._most:
                    continue  # another took the place while we waited for the lock
                number, self._next = self._next, self._next + 2
                if self._next > _LARGEST:
                    self.usable = False
                stream = self._streams[number] = Stream(self._stream_window)
                head = _frame(HEADERS, END_HEADERS, number, block)
                fits = len(body) <= min(self._window, stream.window, self._frame_size)
                if fits:
                    self._window -= len(body)
                    head += _frame(DATA, END_STREAM, number, body)
                self._write(head)
                return number, stream, fits

    def abandon(self, number: int) -> None:
        """Nobody waits for this reply any more."""
        if self._streams.pop(number, None) is not None:
            self._moved.set()
            self._send(_frame(RST_STREAM, 0, number, _NUMBER.pack(_CANCEL)))

    def close(self) -> None:
        """Closes the connection; calls under way are lost."""
        self._reader.kill(block=False)
        self._lose("closed")

    def _send_in_pieces(self, number: int, stream: Stream, body: bytes) -> None:
        sent = 0
        while sent < len(body) and number in self._streams:
            size = min(len(body) - sent, self._window, stream.window, self._frame_size)
            if size <= 0:
                self._wait()
                continue
            piece = body[sent : sent + size]
            sent += size
            self._window -= size
            stream.window -= size
            with self._lock:
                self._write(_frame(DATA, END_STREAM if sent == len(body) else 0, number, piece))

    def _wait(self) -> None:
        self._moved.clear()
        self._moved.wait()

    def _write(self, data: bytes) -> None:
        """Writes whole frames; call it with the lock. One that was cut off leaves nothing that could be read."""
        try:
            self._socket.sendall(data)
        except BaseException:
            self._lose("a request was cut off while it was sent")
            raise

    def _send(self, data: bytes) -> None:
        try:
            with self._lock:
                self._write(data)
        except OSError:
            pass  # the reader meets the same end, and tells every call

    def _read(self) -> None:
        buffer, reason = bytearray(), "the server closed the connection"
        try:
            while data := self._socket.recv(_READ_BYTES):
                now = time.perf_counter()
                buffer += data
                for kind, flags, number, payload in _frames(buffer):
                    self._take(kind, flags, number, payload, now)
        except (OSError, HPACKError, struct.error, IndexError, ValueError) as exc:
            reason = str(exc) or type(exc).__name__
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        self.usable = False
        self._socket.close()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.ended.set_exception(LostError(reason))
        self._moved.set()

    def _take(self, kind: int, flags: int, number: int, payload: bytes, now: float) -> None:
        if kind == DATA:
            self._taken += len(payload)
            if self._taken > _LARGEST // 2:
                gevent.spawn(self._send, _frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(self._taken)))
                self._taken = 0
            if (stream := self._streams.get(number)) is not None:
                stream.data += _unpadded(payload, flags)
        elif kind == HEADERS:
            block = _unpadded(payload, flags)[5 if flags & PRIORITY else 0 :]
            self._partial = (number, flags, bytearray(block))
        elif kind == CONTINUATION and self._partial is not None:
            self._partial[2].extend(payload)
        elif kind == RST_STREAM:
            if (stream := self._streams.pop(number, None)) is not None:
                stream.reset = _NUMBER.unpack(payload)[0]
                stream.ended.set(now)
                self._moved.set()
            return
        else:
            self._manage(kind, flags, number, payload)
            return
        if self._partial is not None and kind != DATA:
            if not flags & END_HEADERS:
                return
            number, flags, block = self._partial[0], self._partial[1], bytes(self._partial[2])
            self._partial = None
            headers = self._decoded(block)
            if (stream := self._streams.get(number)) is not None:
                stream.headers.update(headers)
        if flags & END_STREAM and (stream := self._streams.pop(number, None)) is not None:
            stream.ended.set(now)
            self._moved.set()

    def _manage(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            gevent.spawn(self._settle, payload)
        elif kind == PING and not flags & ACK:
            gevent.spawn(self._send, _frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            grown = _NUMBER.unpack(payload)[0]
            if number == 0:
                self._window += grown
            elif (stream := self._streams.get(number)) is not None:
                stream.window += grown
            self._moved.set()
        elif kind == GOAWAY:
            self.usable = False
            last = _NUMBER.unpack_from(payload)[0] & _LARGEST
            for later in [number for number in self._streams if number > last]:
                self._streams.pop(later).ended.set_exception(LostError("goaway: the server is leaving"))
            self._moved.set()

    def _settle(self, payload: bytes) -> None:
        # The peer holds us to its old settings until it has the acknowledgement.
        self._send(_frame(SETTINGS, ACK, 0, b""))
        for name, value in _SETTING.iter_unpack(payload):
            if name == _MOST_STREAMS:
                self._most = value
            elif name == _FRAME_SIZE:
                self._frame_size = value
            elif name == _WINDOW:
                for stream in self._streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
        self._moved.set()

    def _decoded(self, block: bytes) -> Headers:
        known = self._blocks.get(block)
        if known is None:
            decoded = self._decoder.decode(block, raw=True)
            known = {bytes(name).decode("ascii"): bytes(value).decode("latin-1") for name, value in decoded}
            # A peer that keeps a table in spite of our setting may mean something else by the same bytes later.
            if len(self._blocks) < _MOST_BLOCKS and not self._decoder.header_table.dynamic_entries:
                self._blocks[block] = known
        return known


def request_block(method: str, authority: str, timeout: float, metadata: Mapping[str, str]) -> bytes:
    """The header block of a call: literals that no table keeps (RFC 7541, 6.2.2), the same for every call."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": authority,
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "twinserve-loadtest",
        "grpc-timeout": f"{round(timeout * 1000)}m",
        **{name.lower(): value for name, value in metadata.items()},
    }
    block = bytearray()
    for name, value in headers.items():
        block += b"\x00" + _literal(name.encode("ascii")) + _literal(value.encode("latin-1"))
    return bytes(block)


def status_of(stream: Stream) -> tuple[str, str]:
    """The gRPC status of an ended call by name, and its message."""
    if stream.reset is not None:
        return _OF_RESET.get(stream.reset, "INTERNAL"), f"the server reset the stream: error {stream.reset}"
    code = stream.headers.get("grpc-status")
    if code is None:
        status = stream.headers.get(":status", "")
        return _OF_HTTP.get(status, "UNKNOWN"), f"HTTP {status or '?'} without a gRPC status"
    name = _CODES[int(code)] if code.isdecimal() and int(code) < len(_CODES) else "UNKNOWN"
    return name, unquote(stream.headers.get("grpc-message", ""))


_CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
# gRPC's doc/http-grpc-status-mapping.md, and PROTOCOL-HTTP2.md for the errors of a reset.
_OF_HTTP = {
    "400": "INTERNAL",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "UNIMPLEMENTED",
} | dict.fromkeys(("429", "502", "503", "504"), "UNAVAILABLE")
_OF_RESET = {7: "UNAVAILABLE", 8: "CANCELLED", 11: "RESOURCE_EXHAUSTED", 12: "PERMISSION_DENIED"}


def _literal(text: bytes) -> bytes:
    """A string as it is: its length with a prefix of seven bits (RFC 7541, 5.1), then itself."""
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, length = len(text) - 127, bytearray([127])
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes(length) + bytes([rest]) + text


def _setting(name: int, value: int) -> bytes:
    return _SETTING.pack(name, value)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def _frames(buffer: bytearray) -> Iterator[tuple[int, int, int, bytes]]:
    """Takes the whole frames out of the front of `buffer`."""
    begin = 0
    while len(buffer) - begin >= _HEAD.size:
        high, low, kind, flags, stream = _HEAD.unpack_from(buffer, begin)
        end = begin + _HEAD.size + (high << 16 | low)
        if len(buffer) < end:
            break
        payload = bytes(buffer[begin + _HEAD.size : end])
        begin = end
        yield kind, flags, stream & _LARGEST, payload
    del buffer[:begin]


def _unpadded(payload: bytes, flags: int) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & PADDED else payload
