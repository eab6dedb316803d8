"""Sending answers."""

from __future__ import annotations

import json

from gateway.core.errors import Cause, GatewayError
from gateway.frontends.rest.answers import send_answer, send_error
from gateway.frontends.rest.errors import OIP_SHAPE, PREDICT_SHAPE
from tests.unit.gateway.frontends.rest.asgi import Sent


async def test_an_answer_is_whole() -> None:
    """It has its type and its length."""
    sent = Sent()
    await send_answer(sent, 200, "application/json", b"{}", [(b"x-a", b"b")])
    assert (sent.status, sent.body) == (200, b"{}")
    assert sent.headers == {b"content-type": b"application/json", b"content-length": b"2", b"x-a": b"b"}


async def test_the_client_can_read_it_all_before_the_exchange_ends() -> None:
    """What must happen before a connection closes happens after the last byte, and before the end."""
    sent = Sent()
    seen: list[bytes] = []

    async def before_end() -> None:
        seen.extend(message["body"] for message in sent.messages[1:])

    await send_answer(sent, 200, "text/plain", b"all of it", before_end=before_end)
    assert seen == [b"all of it"]
    assert sent.body == b"all of it"
    assert sent.headers[b"content-length"] == b"9"


async def test_an_error_takes_its_protocols_shape() -> None:
    """Status, content type, body, and when to come back."""
    error = GatewayError(Cause.OVERLOADED, "full", retry_after_s=3)
    sent = Sent()
    await send_error(sent, error, PREDICT_SHAPE, "the-id")
    assert sent.status == 503
    assert sent.headers[b"content-type"] == b"application/problem+json"
    assert sent.headers[b"retry-after"] == b"3"
    assert json.loads(sent.body)["request_id"] == "the-id"
    sent = Sent()
    await send_error(sent, GatewayError(Cause.INVALID_INPUT, "no"), OIP_SHAPE, "the-id", [(b"x-a", b"b")])
    assert (sent.status, json.loads(sent.body)) == (400, {"error": "no"})
    assert sent.headers[b"x-a"] == b"b"
    assert b"retry-after" not in sent.headers
