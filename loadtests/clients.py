"""Two small clients for one user each: one connection, one request at a time, nothing retried or followed.

They are used in the Locust process only, where gevent has patched the standard library; a reply's time runs from just
before the send until its last byte is read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import urlsplit

import gevent
from gevent import socket
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError, HTTPSocketResponse

from loadtests.cells import Cell
from loadtests.errors import LoadTestError
from loadtests.replies import Outcome, Reply, outcome_of_code, outcome_of_status
from loadtests.wires import WIRES

if TYPE_CHECKING:
    import grpc

MARKS = ("x-served-by", "x-server", "server-timing")
CHANNEL_OPTIONS = (
    # Without it all users would share one TCP connection, unlike over REST.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
_READ_BYTES = 64 * 1024
_DETAIL_CHARACTERS = 200


class Client(Protocol):
    """What a user needs of a transport. `opened` counts the connections that it has made."""

    opened: int

    def prepared(self, body: bytes) -> bytes:
        """The bytes that `send` takes for a request body; made once, outside every timer."""
        ...

    def send(self, request: bytes) -> Reply:
        """Sends one prepared request and reads its reply; failures are outcomes, never exceptions."""
        ...

    def close(self) -> None:
        """Closes the connection."""
        ...


def client_for(cell: Cell, *, timeout: float) -> Client:
    """The client of a cell; `timeout` is in seconds and covers one request from connecting to the last byte."""
    wire = WIRES[cell.wire]
    target = wire.target(cell.model)
    if wire.transport == "rest":
        return HttpClient(cell.address, target, cell.pins, timeout=timeout)
    return GrpcClient(cell.address, target, cell.pins, timeout=timeout)


class HttpClient:
    """HTTP/1.1 POST over one kept-alive connection, which is reopened after an error. Plain http only."""

    def __init__(self, address: str, path: str, headers: Mapping[str, str], *, timeout: float) -> None:
        parts = urlsplit(address if "//" in address else f"//{address}")
        if parts.scheme not in ("", "http") or not parts.hostname:
            raise LoadTestError(f"'{address}': expected host:port or http://host:port")
        self._host, self._port = parts.hostname, parts.port or 80
        self._timeout = timeout
        self._socket: Any = None
        self.opened = 0
        lines = {
            "Host": parts.netloc,
            "Content-Type": "application/json",
            "Accept": "application/json",
            # A compressed answer would measure the compressor.
            "Accept-Encoding": "identity",
            "User-Agent": "twinserve-loadtest",
            **headers,
        }
        head = f"POST {parts.path.rstrip('/')}{path} HTTP/1.1\r\n"
        self._head = head + "".join(f"{name}: {value}\r\n" for name, value in lines.items())

    def prepared(self, body: bytes) -> bytes:
        """The whole request: head and body."""
        return f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body

    def send(self, request: bytes) -> Reply:
        """One request. Its time includes the connection's set-up where there is none yet."""
        started = time.perf_counter()
        timer = gevent.Timeout.start_new(self._timeout)
        try:
            status, body, marks = self._exchange(request)
        except gevent.Timeout as expired:
            self.close()
            if expired is not timer:
                raise
            return Reply(Outcome.TIMEOUT, time.perf_counter() - started, detail=f"no reply in {self._timeout:g} s")
        except (OSError, HTTPConnectionClosed, HTTPParseError) as exc:
            self.close()
            return Reply(Outcome.CONN_ERROR, time.perf_counter() - started, detail=str(exc) or type(exc).__name__)
        finally:
            timer.close()
        seconds = time.perf_counter() - started
        outcome = outcome_of_status(status)
        detail = "" if outcome is Outcome.OK else f"HTTP {status}: {_text(body)}"
        return Reply(outcome, seconds, body, detail, marks)

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, request: bytes) -> tuple[int, bytes, dict[str, str]]:
        if self._socket is not None and self._left():
            self.close()
        if self._socket is None:
            self.opened += 1
            self._socket = socket.create_connection((self._host, self._port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)
        response = HTTPSocketResponse(self._socket, block_size=_READ_BYTES, method="POST")
        body = bytes(response.read())
        if response.should_close():
            self.close()
        marks = {name: value for name in MARKS if isinstance(value := response.get(name), str)}
        return int(response.status_code), body, marks

    def _left(self) -> bool:
        """Whether the server closed the idle connection (or wrote what nobody asked for): it carries no request."""
        self._socket.settimeout(0.0)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self._socket.settimeout(None)
        return True


class GrpcClient:
    """Unary gRPC over a channel of its own, with raw bytes: no message is built or parsed inside the timer."""

    def __init__(self, address: str, method: str, metadata: Mapping[str, str], *, timeout: float) -> None:
        # Imported here, so that `locust --processes` forks before gRPC has started any thread.
        import grpc  # noqa: PLC0415
        from grpc.experimental import gevent as grpc_gevent  # noqa: PLC0415

        grpc_gevent.init_gevent()
        self.opened = 1  # gRPC reconnects by itself and does not tell
        self._error = grpc.RpcError
        self._timeout = timeout
        self._metadata = tuple(metadata.items())
        parts = urlsplit(address if "//" in address else f"//{address}")
        self._channel = grpc.insecure_channel(
            parts.netloc,
            options=CHANNEL_OPTIONS,
        )
        self._call: Any = self._channel.unary_unary(method)

    def prepared(self, body: bytes) -> bytes:
        """The serialised message itself."""
        return body

    def send(self, request: bytes) -> Reply:
        """One call. The first one's time includes the connection's set-up."""
        started = time.perf_counter()
        try:
            body, call = self._call.with_call(request, timeout=self._timeout, metadata=self._metadata)
        except self._error as error:
            return grpc_reply(error, time.perf_counter() - started)
        seconds = time.perf_counter() - started
        return Reply(Outcome.OK, seconds, body, marks=_marks(call))

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()


def grpc_reply(call: grpc.Call, seconds: float) -> Reply:
    """The reply of a call that has ended after `seconds`; it is a future or the error that it raised."""
    code, details = call.code().name, call.details() or ""
    if code != "OK":
        return Reply(outcome_of_code(code, details), seconds, detail=f"{code}: {details[:_DETAIL_CHARACTERS]}")
    return Reply(Outcome.OK, seconds, cast(Any, call).result(), marks=_marks(call))


def _marks(call: grpc.Call) -> dict[str, str]:
    metadata = (*(call.initial_metadata() or ()), *(call.trailing_metadata() or ()))
    return {key: value for key, value in metadata if key in MARKS and isinstance(value, str)}


def _text(body: bytes) -> str:
    return " ".join(body[:_DETAIL_CHARACTERS].decode("utf-8", "replace").split())
