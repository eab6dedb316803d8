"""Which requests go the short way, and how it ends, with the endpoint and the transport played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from gateway.core.backend import Done, Outcome
from gateway.core.deadlines import Deadlines
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceResponse
from gateway.dataplane import Flying
from gateway.frontends.rest.direct import MAX_BODY_BYTES, DirectHttpProtocol, Fields
from tests.unit.gateway.frontends.rest.test_http_protocol import Wire

LENGTH = b"Content-Length: 5\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nx-way: short\r\n\r\nhello"
RESPONSE = InferenceResponse("m", 1, ())
LONG = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Answering:
    """The endpoint of one model: it keeps what it is asked, and answers once it may."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.arrived = asyncio.Semaphore(0)
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.outcome: tuple[int, bytes, bytes] | None = (200, b"x-way: short\r\n", b"hello")
        self.broken = False
        self.left = False
        self.straight = False
        self.waiting: list[Flying] = []
        self.causes: list[Cause] = []

    def answer(self) -> None:
        """Answers what goes the way without coroutines."""
        self.may_answer.set()
        waiting, self.waiting = self.waiting, []
        for flying in waiting:
            flying.landed(RESPONSE)

    def head(self, _headers: Fields, path: Mapping[str, str]) -> str:
        """The model."""
        return path["model"]

    def begin(self, head: str, _caller: str, body: bytes, connection: Any) -> Asked:
        """What is asked."""
        return Asked(self, head, body, connection)


class Asked:
    """One request, which goes the way without coroutines where its endpoint has `straight`."""

    def __init__(self, endpoint: Answering, model: str, body: bytes, connection: Any) -> None:
        self._endpoint = endpoint
        self._connection = connection
        self._asked = (model, body)

    def open(self) -> None:
        """Keeps what is asked."""
        self._endpoint.asked.append(self._asked)
        self._endpoint.arrived.release()

    def start(self, done: Done) -> Flying | None:
        """Answers once the endpoint may, without a task of the connection's."""
        if not self._endpoint.straight:
            return None
        flying = Flying(Deadlines(), done, 1.0)
        self._endpoint.waiting.append(flying)
        flying.started(lambda: flying.landed(asyncio.CancelledError()))
        if self._endpoint.may_answer.is_set():
            self._endpoint.answer()
        return flying

    async def run(self) -> InferenceResponse:
        """Waits until the endpoint may answer, while the client is there."""
        endpoint = self._endpoint

        def gone() -> None:
            endpoint.left = True
            endpoint.may_answer.set()

        self._connection.watch(gone)
        await endpoint.may_answer.wait()
        self._connection.watch(None)
        return RESPONSE

    def closed(self, outcome: Outcome) -> tuple[int, bytes, bytes] | None:
        """The outcome, while the client is there."""
        endpoint = self._endpoint
        if endpoint.broken:
            raise ValueError("as a bug would")
        if isinstance(outcome, GatewayError):
            endpoint.causes.append(outcome.cause)
            endpoint.left = outcome.cause is Cause.CLIENT_GONE
        return None if endpoint.left else endpoint.outcome


class App:
    """An application of one short way, which answers all else the long one."""

    def __init__(self) -> None:
        self.endpoint = Answering()
        self.bodies: list[bytes] = []

    def direct(self, url: bytes) -> tuple[Answering, dict[str, str]] | None:
        """The way to `/m`."""
        return (self.endpoint, {"model": "m"}) if url == b"/m" else None

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        # One that answers before it has read anything, and so ends no connection.
        more = _scope["path"] != "/early"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if body:
            self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


class Client:
    """A connection to the application, in a running event loop."""

    def __init__(self) -> None:
        self.app = App()
        self.endpoint = self.app.endpoint
        self.wire = Wire()
        config = uvicorn.Config(self.app, http=DirectHttpProtocol, ws="none", log_config=None, lifespan="off")
        config.load()
        self.protocol = DirectHttpProtocol(config, ServerState(), {}, asyncio.get_running_loop())
        self.protocol.connection_made(self.wire)

    async def say(self, *parts: bytes) -> None:
        """Sends parts, and lets all that can be done be done."""
        for part in parts:
            self.protocol.data_received(part)
        for _ in range(10):
            await asyncio.sleep(0)

    def close(self) -> None:
        """Leaves."""
        self.protocol.connection_lost(None)


@pytest.fixture(params=[False, True], ids=["in a task", "straight"])
async def client(request: pytest.FixtureRequest) -> Client:
    """Of an endpoint that answers by a coroutine, and of one that needs none."""
    client = Client()
    client.endpoint.straight = request.param
    return client


def post(head: bytes = LENGTH, target: bytes = b"/m", version: bytes = b"1.1", body: bytes = b"12345") -> bytes:
    """A request."""
    return b"POST %s HTTP/%s\r\n%s\r\n%s" % (target, version, head, body)


async def test_a_whole_request_is_answered_by_its_endpoint_alone(client: Client) -> None:
    """No ASGI application is asked."""
    await client.say(post())
    await client.say(post(body=b"67890"))
    assert client.endpoint.asked == [("m", b"12345"), ("m", b"67890")]
    assert client.wire.written == ANSWER * 2
    assert client.app.bodies == []
    client.close()


@pytest.mark.parametrize(
    "request_",
    [
        post(target=b"/other"),
        post(target=b"/m?x=1"),
        post(LENGTH + b"Expect: 100-continue\r\n"),
        post(LENGTH + b"Connection: close\r\n"),
        post(version=b"1.0"),
        post().replace(b"POST", b"PUT"),
    ],
)
async def test_what_is_not_simple_goes_the_long_way(client: Client, request_: bytes) -> None:
    """The application decides."""
    await client.say(request_)
    assert client.endpoint.asked == []
    assert client.app.bodies == [b"12345"]
    client.close()


@pytest.mark.parametrize("cut", range(1, 5))
async def test_a_body_that_comes_in_pieces_goes_the_long_way_whole(client: Client, cut: int) -> None:
    """Wherever it was cut."""
    whole = post()
    await client.say(whole[:-cut], whole[-cut:])
    assert client.app.bodies == [b"12345"]
    assert client.wire.written == LONG
    await client.say(post())
    assert client.endpoint.asked == [("m", b"12345")]
    client.close()


async def test_a_head_in_pieces_leaves_no_clock_running(client: Client) -> None:
    """The clock of a head that does not end is stopped by its end."""
    client.protocol.head_seconds = 0.0
    client.endpoint.may_answer.clear()
    client.protocol.data_received(post()[:20])
    client.protocol.data_received(post()[20:])
    await client.say()
    client.endpoint.answer()
    await client.say()
    assert client.wire.written == ANSWER
    client.close()


async def test_a_body_in_chunks_is_put_together(client: Client) -> None:
    """As if it had come whole."""
    await client.say(post(b"Transfer-Encoding: chunked\r\n", body=b"1\r\n1\r\n2\r\n23\r\n2\r\n45\r\n0\r\n\r\n"))
    assert client.endpoint.asked == [("m", b"12345")]
    client.close()


async def test_a_large_body_goes_the_long_way(client: Client) -> None:
    """It is read under the body's own limits."""
    body = b"x" * (MAX_BODY_BYTES + 1)
    await client.say(post(b"Content-Length: %d\r\n" % len(body), body=body))
    assert client.app.bodies == [body]
    client.close()


async def test_what_follows_a_request_waits_for_its_answer(client: Client) -> None:
    """Answers come in the order of the requests."""
    client.endpoint.may_answer.clear()
    await client.say(post() + post(target=b"/other"))
    assert client.wire.written == b""
    client.endpoint.answer()
    await client.say()
    assert client.wire.written == ANSWER + LONG
    client.close()


async def test_what_is_no_http_behind_a_request_ends_the_connection_after_its_answer(client: Client) -> None:
    """The answer is still the client's."""
    client.endpoint.may_answer.clear()
    await client.say(post() + b"\x00\r\n\r\n")
    assert client.wire.written == b""
    client.endpoint.answer()
    await client.say()
    assert b"x-way: short\r\nconnection: close\r\n" in client.wire.written
    client.close()


async def test_a_body_that_is_no_http_is_refused(client: Client) -> None:
    """With 400, and the connection ends."""
    await client.say(post(b"Transfer-Encoding: chunked\r\n", body=b"1\r\n1\r\nnonsense\r\n"))
    assert client.wire.written.startswith(b"HTTP/1.1 400 ")
    assert client.endpoint.asked == []
    client.close()


async def test_an_endpoint_is_told_of_a_client_that_leaves(client: Client) -> None:
    """So that its work can be given up."""
    client.endpoint.may_answer.clear()
    await client.say(post())
    client.close()
    await asyncio.sleep(0)
    assert client.endpoint.left
    assert client.wire.written == b""


async def test_an_answer_waits_for_a_client_that_does_not_read(client: Client) -> None:
    """Nothing is written into a full buffer."""
    client.protocol.pause_writing()
    await client.say(post())
    assert client.wire.written == b""
    client.protocol.resume_writing()
    await client.say()
    assert client.wire.written == ANSWER
    client.close()


async def test_a_connection_whose_endpoint_breaks_is_closed(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """The client is not left waiting, and the log has the reason."""
    client.endpoint.broken = True
    await client.say(post())
    assert client.wire.written == b""
    assert client.wire.is_closing()
    assert "a request could not be answered" in caplog.text
    client.close()


async def test_the_end_of_the_gateway_is_announced_with_the_answer(client: Client) -> None:
    """A client then opens another connection."""
    client.endpoint.may_answer.clear()
    await client.say(post())
    client.protocol.shutdown()
    client.endpoint.answer()
    await client.say()
    assert b"connection: close\r\n" in client.wire.written
    assert client.wire.is_closing()
    client.close()


async def test_a_repeated_head_is_not_parsed_again(client: Client) -> None:
    """Its request is served as the first one was, and another one by what it says."""
    parts = [post(), post(body=b"abcde"), post(b"Content-Length: 3\r\n", body=b"123"), post(target=b"/n"), post()]
    for part in parts:
        await client.say(part)
    assert client.endpoint.asked == [("m", b"12345"), ("m", b"abcde"), ("m", b"123"), ("m", b"12345")]
    assert client.wire.written.count(ANSWER) == 4
    assert client.app.bodies == [b"12345"]


async def test_a_repeated_head_before_its_answer_waits_for_it(client: Client) -> None:
    """As any request that follows another."""
    await client.say(post())
    client.endpoint.may_answer.clear()
    await client.say(post(body=b"first"), post(body=b"later"))
    assert client.endpoint.asked == [("m", b"12345"), ("m", b"first")]
    client.endpoint.answer()
    await client.say()
    assert client.app.bodies == [b"later"]


@pytest.mark.parametrize(
    "parts",
    [
        # The rest of a head looks like a head.
        (b"POST /m HTTP/1.1\r\nHost: a\r\nX-A: ", post(target=b"/other")),
        (b"POST /m HTTP/1.1\r\nHost: a\r\nX-A: ", b"junk\r\n" + LENGTH + b"\r\n12345"),
        # The rest of a body that was not waited for.
        (b"POST /early HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345", b"67890" + post()),
    ],
)
async def test_what_begins_within_a_message_is_no_head_that_may_come_again(
    client: Client, parts: tuple[bytes, bytes]
) -> None:
    """What it holds is read anew, where it is a request of its own."""
    for part in parts:
        await client.say(part)
    assert client.endpoint.asked == [("m", b"12345")]
    await client.say(parts[1])
    assert client.endpoint.asked == [("m", b"12345")]
    if b"/other" in parts[1]:
        assert client.app.bodies == [b"12345"]
    else:
        assert b"HTTP/1.1 400 " in client.wire.written
    client.close()


async def test_the_end_of_the_drain_ends_what_is_served_without_a_task() -> None:
    """The server cancels what it finds among its tasks."""
    client = Client()
    client.endpoint.straight = True
    client.endpoint.may_answer.clear()
    await client.say(post())
    (task,) = client.protocol.tasks
    task.cancel()
    await client.say()
    assert client.endpoint.causes == [Cause.NOT_READY]
    assert client.wire.written == ANSWER
    assert not client.protocol.tasks
