"""The generator's gRPC client: unary calls with raw bytes, any number at once over one connection."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import gevent
from gevent.lock import BoundedSemaphore

from loadtests.clients import MARKS
from loadtests.engine.http2 import Connection, LostError, Stream, request_block, status_of
from loadtests.errors import LoadTestError
from loadtests.replies import Outcome, Reply, outcome_of_code

_PREFIX = struct.Struct(">BI")  # compressed or not, the message's length
_DETAIL_CHARACTERS = 200
# A refused stream was not processed (RFC 9113, section 8.7), and gRPC's own clients send it again: servers count a
# stream for a moment after its end, and refuse the next one at their limit.
_REFUSED_STREAM = 7
_SENT_AGAIN = 8
_PAUSE_S = 0.001


class Http2GrpcClient:
    """One connection, opened when it is first needed and again after it was lost. Plain text only.

    Nothing is sent twice but a stream that the server refused, which counts on from its first sending.

    `timeout` is in seconds and covers a call from connecting to the last byte.
    """

    def __init__(self, address: str, method: str, metadata: Mapping[str, str], *, timeout: float) -> None:
        parts = urlsplit(address if "//" in address else f"//{address}")
        if not parts.hostname or parts.port is None:
            raise LoadTestError(f"'{address}': expected host:port")
        self._host, self._port, self._timeout = parts.hostname, parts.port, timeout
        self._block = request_block(method, parts.netloc, timeout, metadata)
        self._connection: Connection | None = None
        self._opening = BoundedSemaphore()
        self.opened = 0

    def prepared(self, body: bytes) -> bytes:
        """The message with its prefix."""
        return _PREFIX.pack(0, len(body)) + body

    def send(self, request: bytes) -> Reply:
        """One call; its time ends when the last byte was read. The first one's includes the connection's set-up."""
        started = time.perf_counter()
        connection: Connection | None = None
        number = 0
        timer = gevent.Timeout.start_new(self._timeout)
        try:
            connection = self._connected()
            number, stream = connection.begin(self._block, request)
            ended = stream.ended.get()
            again = _SENT_AGAIN
            while stream.reset == _REFUSED_STREAM and again and connection.usable:
                again -= 1
                gevent.sleep(_PAUSE_S)
                refused = stream
                try:
                    number, stream = connection.begin(self._block, request)
                    ended = stream.ended.get()
                except (OSError, LostError):
                    stream = refused
                    break
        except gevent.Timeout as expired:
            if expired is not timer:
                raise
            _abandon(connection, number)
            return Reply(Outcome.TIMEOUT, time.perf_counter() - started, detail=f"no reply in {self._timeout:g} s")
        except (OSError, LostError) as exc:
            return Reply(Outcome.CONN_ERROR, time.perf_counter() - started, detail=str(exc) or type(exc).__name__)
        except BaseException:
            _abandon(connection, number)
            raise
        finally:
            timer.close()
            del timer  # its traceback has this frame, which has it
        return _reply(stream, ended - started)

    def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> Connection:
        connection = self._connection
        if connection is not None and connection.usable:
            return connection
        with self._opening:
            if self._connection is None or not self._connection.usable:
                self.opened += 1
                self._connection = Connection(self._host, self._port, self._timeout)
            return self._connection


def _abandon(connection: Connection | None, number: int) -> None:
    if connection is not None and number:
        connection.abandon(number)


def _reply(stream: Stream, seconds: float) -> Reply:
    code, details = status_of(stream)
    if code != "OK":
        return Reply(outcome_of_code(code, details), seconds, detail=f"{code}: {details[:_DETAIL_CHARACTERS]}")
    marks = {name: value for name in MARKS if (value := stream.headers.get(name))}
    if len(stream.data) < _PREFIX.size:
        return Reply(Outcome.WRONG_ANSWER, seconds, detail="the reply has no message", marks=marks)
    compressed, length = _PREFIX.unpack_from(stream.data)
    body = bytes(stream.data[_PREFIX.size :])
    if compressed or length != len(body):
        return Reply(Outcome.WRONG_ANSWER, seconds, detail="the reply is not one plain message", marks=marks)
    return Reply(Outcome.OK, seconds, body, marks=marks)
