"""What no server could take is refused before its body is read, wherever the path names the model."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from gateway.core.errors import Cause, GatewayError, RefusedError
from gateway.routing.endpoint import Bare
from tests.unit.gateway.frontends.rest.asgi import Sent, chunk, receiving, scope
from tests.unit.gateway.frontends.world import Finished, World

GOOD = b'{"model": "doubler", "inputs": [[1, 2]]}'
PATHS = {
    "/predict/doubler": "predict",
    "/v2/models/doubler/infer": "oip-rest",
    "/v2/models/doubler/versions/1/infer": "oip-rest",
    "/v1/models/doubler:predict": "tfserving-rest",
    "/V1/MODELS/doubler/labels/stable:predict": "tfserving-rest",
    "/predictions/doubler": "torchserve-rest",
}


class Full(Bare):
    """A queue without a place."""

    def refusal(self, model: str, caller: str) -> GatewayError | None:
        """OVERLOADED, whatever is asked."""
        return RefusedError(Cause.OVERLOADED, "as told", retry_after_s=3.0)


async def refused(world: World, path: str, length: int) -> Sent:
    """The answer to a request whose body must not be looked at before the answer has begun."""
    sent = Sent()

    async def receive() -> Message:
        assert sent.messages, "the body was read"
        return chunk()

    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % length)]
    await world.app()(scope(path=path, headers=headers), receive, sent)
    return sent


@pytest.mark.parametrize("length", [len(GOOD), 60 << 20])
@pytest.mark.parametrize("path", PATHS)
async def test_full_queues_refuse_before_the_body(path: str, length: int) -> None:
    """However large it is: 503 with `Retry-After` and the reason, counted under the model's name."""
    world = await World.started()
    for endpoint in world.endpoints.values():
        endpoint.surroundings = Full()
    sent = await refused(world, path, length)
    assert (sent.status, sent.headers[b"retry-after"]) == (503, b"3")
    assert b"as told" in sent.body
    assert world.last == Finished("doubler", None, "", PATHS[path], Cause.OVERLOADED)
    assert (world.sent, world.admission.arriving, world.admission.in_flight) == (0, 0, 0)


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_waits_to_be_told_never_sends_its_body(path: str) -> None:
    """It is not told to go on (RFC 9110, section 10.1.1): the refusal is all that it gets."""
    world = await World.started()
    for endpoint in world.endpoints.values():
        endpoint.surroundings = Full()
    async with world.rest_port() as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = "Host: gateway\r\nContent-Type: application/json\r\nContent-Length: 60000000\r\nExpect: 100-continue"
        writer.write(f"POST {path} HTTP/1.1\r\n{head}\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 3\r\n" in answer
    assert b"as told" in answer
    assert b"100 Continue" not in answer


@pytest.mark.parametrize("path", PATHS)
async def test_servers_that_are_all_down_refuse_before_the_body(path: str) -> None:
    """With what each of them said last."""
    world = await World.started()
    for name, endpoint in world.endpoints.items():
        world.backends[name].reachable = False
        await world.health.check(endpoint)
    sent = await refused(world, path, 60 << 20)
    assert sent.status == 503
    assert b"endpoint 'ts' is unverified: does not answer" in sent.body


async def test_one_target_that_could_take_it_is_enough() -> None:
    """A body may choose it, and a policy may lead there: then it is read, and the request goes its way."""
    world = await World.started()
    world.endpoints["ts"].surroundings = Full()
    headers = [(b"content-type", b"application/json"), (b"x-stack", b"tfserving")]
    sent = Sent()
    await world.app()(scope(path="/predict/doubler", headers=headers), receiving([chunk(GOOD)]), sent)
    assert sent.status == 200


async def test_a_model_in_the_body_is_known_only_from_there() -> None:
    """`/predict` reads it first."""
    world = await World.started()
    read = False

    async def receive() -> Message:
        nonlocal read
        read = True
        return chunk(GOOD)

    for name, endpoint in world.endpoints.items():
        world.backends[name].reachable = False
        await world.health.check(endpoint)
    sent = Sent()
    await world.app()(scope(path="/predict", headers=[(b"content-type", b"application/json")]), receive, sent)
    assert (sent.status, read) == (503, True)
