"""Single questions to a target, outside every measurement: is it there, is it right, does it remember answers?"""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from gateway.core.tensor import NDArray
from loadtests.cell_spec import Target
from loadtests.errors import LoadTestError
from loadtests.golden import Golden
from loadtests.replies import BadReplyError, Outcome, RefusedError, outcome_of_code, outcome_of_status
from loadtests.wires import WIRES

_CONNECT_S = 5.0
_DETAIL_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Told:
    """A reply: its outcome, the decoded answer where there is one, why it failed, its time and its sizes."""

    outcome: Outcome
    seconds: float
    answer: dict[str, NDArray] | None = None
    detail: str = ""
    status: str = ""
    bytes_out: int = 0
    bytes_in: int = 0


class Asker:
    """One connection to a target that asks golden questions, one at a time. Every failure is told, none raised."""

    def __init__(self, target: Target, golden: Golden, *, timeout: float = 10.0) -> None:
        self._wire = WIRES[target.protocol]
        self._target, self._golden, self._timeout = target, golden, timeout
        self._bodies: dict[tuple[int, int], bytes] = {}
        self._connection: _Http | _Grpc = (_Http if self._wire.transport == "rest" else _Grpc)(target, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def ask(self, question: int, rows: int) -> Told:
        """Asks one golden question of `rows` rows; the time covers the exchange, not the codec."""
        key = (question, rows)
        if key not in self._bodies:
            tensors = self._golden.tensors(question, rows)
            self._bodies[key] = self._wire.encode(self._target.asked_for, tensors)
        body = self._bodies[key]
        began = time.perf_counter()
        outcome, status, reply, detail = self._connection.exchange(self._wire.target(self._target.asked_for), body)
        seconds = time.perf_counter() - began
        sizes = {"bytes_out": len(body), "bytes_in": len(reply)}
        if outcome is not Outcome.OK:
            return Told(outcome, seconds, None, detail, status, **sizes)
        try:
            answer = self._wire.decode(reply, self._golden.contract.outputs)
        except RefusedError as exc:
            return Told(outcome_of_status(exc.status), seconds, None, str(exc), str(exc.status), **sizes)
        except BadReplyError as exc:
            return Told(Outcome.WRONG_ANSWER, seconds, None, str(exc), status, **sizes)
        return Told(Outcome.OK, seconds, answer, "", status, **sizes)


def check_listening(target: Target) -> None:
    """Raises LoadTestError where nothing takes connections at the target's address."""
    host, port = host_and_port(target.address)
    try:
        socket.create_connection((host, port), _CONNECT_S).close()
    except OSError as exc:
        raise LoadTestError(
            f"target '{target.name}': nothing answers at {target.address} ({exc.strerror or exc}); "
            "start the server, or correct the address; nothing was measured"
        ) from exc


def host_and_port(address: str) -> tuple[str, int]:
    """The host and the port of `host:port` or `http://host:port`; raises LoadTestError for anything else."""
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if parts.scheme not in ("", "http") or not host or (port is None and not parts.scheme):
        raise LoadTestError(f"'{address}': expected host:port or http://host:port")
    return host, port or 80


class _Http:
    def __init__(self, target: Target, timeout: float) -> None:
        host, port = host_and_port(target.address)
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout)
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            **target.pins,
        }

    def exchange(self, path: str, body: bytes) -> tuple[Outcome, str, bytes, str]:
        try:
            self._connection.request("POST", path, body, self._headers)
            response = self._connection.getresponse()
            reply = response.read()
        except TimeoutError:
            self._connection.close()
            return Outcome.TIMEOUT, "", b"", "no reply in time"
        except (OSError, http.client.HTTPException) as exc:
            self._connection.close()
            return Outcome.CONN_ERROR, "", b"", str(exc) or type(exc).__name__
        outcome = outcome_of_status(response.status)
        text = "" if outcome is Outcome.OK else reply[:_DETAIL_CHARACTERS].decode("utf-8", "replace")
        return outcome, str(response.status), reply, f"HTTP {response.status}: {text}" if text else ""

    def close(self) -> None:
        self._connection.close()


class _Grpc:
    def __init__(self, target: Target, timeout: float) -> None:
        import grpc  # noqa: PLC0415 - only where a target speaks it

        host, port = host_and_port(target.address)
        self._error = grpc.RpcError
        self._timeout = timeout
        self._metadata = tuple(target.pins.items())
        self._channel = grpc.insecure_channel(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            options=[
                ("grpc.enable_http_proxy", 0),
                ("grpc.enable_retries", 0),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
            ],
        )
        self._calls: dict[str, Callable[..., Any]] = {}

    def exchange(self, method: str, body: bytes) -> tuple[Outcome, str, bytes, str]:
        call = self._calls.setdefault(method, self._channel.unary_unary(method))
        try:
            return Outcome.OK, "OK", call(body, timeout=self._timeout, metadata=self._metadata), ""
        except self._error as exc:
            code, details = exc.code().name, exc.details() or ""
            return outcome_of_code(code, details), code, b"", f"{code}: {details[:_DETAIL_CHARACTERS]}"

    def close(self) -> None:
        self._channel.close()


def questions_of(golden: Golden, rows: int) -> Sequence[int]:
    """The numbers of all questions of `rows` rows."""
    return range(golden.questions(rows))
