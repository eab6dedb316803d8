"""What every HTTP answer has in common."""

from __future__ import annotations

import json

import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway.core.errors import Cause, GatewayError
from gateway.frontends.rest.answers import send_answer
from gateway.frontends.rest.middleware import REQUEST_ID, Identity
from tests.unit.gateway.frontends.rest.asgi import Sent, receiving, scope

Refused = list[tuple[str, str, Cause]]


async def hello(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send_answer(send, 200, "text/plain", b"hello", [(b"x-own", b"1")])


async def broken(_scope: Scope, _receive: Receive, send: Send) -> None:
    raise KeyError("secret")


async def served(app: object, asked: Scope, refused: Refused | None = None) -> Sent:
    sent = Sent()
    told: Refused = [] if refused is None else refused
    middleware = Identity(app, lambda *what: told.append(what))  # type: ignore[arg-type]
    await middleware(asked, receiving([]), sent)
    return sent


async def test_every_answer_has_an_id_and_is_not_sniffed() -> None:
    """A client's own id comes back; the answer's own headers stay."""
    asked = scope(headers=[(b"x-request-id", b"mine")])
    sent = await served(hello, asked)
    assert asked[REQUEST_ID] == "mine"
    assert sent.headers[b"x-request-id"] == b"mine"
    assert sent.headers[b"x-content-type-options"] == b"nosniff"
    assert sent.headers[b"x-own"] == b"1"


@pytest.mark.parametrize("odd", [b"a b", b"x" * 10_000, b"\xff", b"a\x1b[31m"])
async def test_an_odd_id_is_replaced(odd: bytes) -> None:
    """Nothing odd is repeated in a header."""
    sent = await served(hello, scope(headers=[(b"x-request-id", odd)]))
    assert len(sent.headers[b"x-request-id"]) == 32


@pytest.mark.parametrize("raw", [b"/predict/a%2Fb", b"/predict/..%2f..", b"/predict/a%00", b"/v2/models/a%5Cb/infer"])
async def test_an_encoded_slash_is_no_slash(raw: bytes) -> None:
    """What was one name to the client is not routed as several; the refusal is told."""
    refused: Refused = []
    sent = await served(hello, {**scope(path="/predict/a/b"), "raw_path": raw}, refused)
    assert sent.status == 404
    assert [cause for _, _, cause in refused] == [Cause.ROUTE_NOT_FOUND]


@pytest.mark.parametrize(("path", "member"), [("/predict", "detail"), ("/v2/models/a", "error")])
async def test_a_bug_is_an_opaque_500_in_the_paths_own_shape(
    path: str, member: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns the id only; the log has the rest."""
    sent = await served(broken, scope(path=path, headers=[(b"x-request-id", b"mine")]))
    assert sent.status == 500
    assert sent.headers[b"x-request-id"] == b"mine"
    assert "mine" in json.loads(sent.body)[member]
    assert b"secret" not in sent.body
    assert "mine" in caplog.text


async def test_an_error_that_nobody_answered_is_answered() -> None:
    """A cause raised anywhere below has its status."""

    async def late(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise GatewayError(Cause.DEADLINE, "late")

    assert (await served(late, scope())).status == 504


async def test_a_failure_after_the_start_of_an_answer_is_the_servers() -> None:
    """A second answer on top of the first would be worse than none."""

    async def halfway(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("late")

    with pytest.raises(KeyError):
        await served(halfway, scope())


async def test_what_is_not_http_passes() -> None:
    """The lifespan is none of its business."""
    seen: list[str] = []

    async def app(asked: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(asked["type"])

    await served(app, {"type": "lifespan"})
    assert seen == ["lifespan"]


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), RuntimeError("the handler is closed")])
async def test_an_answer_that_nobody_takes_is_sent_once(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the server raises for a connection that is gone; the log tells it without a traceback."""
    tries = 0

    async def send(_message: Message) -> None:
        nonlocal tries
        tries += 1
        raise error

    await Identity(hello, lambda *_: None)(scope(), receiving([]), send)
    assert tries == 1
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("WARNING", None)]
