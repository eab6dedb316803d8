"""One case table over every front end: the same logical request has the same outcome at each door."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.frontends.edge import Limits
from tests.builders import doubled, tensor
from tests.contract.frontend_doors import DOORS, Asked, Door, Input
from tests.unit.gateway.frontends.world import World

ROW = Asked((Input("x", [[1.0, 2.0]], (1, 2)),))
JSON_DOORS = ("predict", "oip-rest", "torchserve-rest")
BINARY_DOORS = ("oip-binary", "oip-grpc")
TFSERVING_DOORS = ("tfserving-rest", "tfserving-grpc")
LIMITS = Limits(json_bytes=20_000, body_bytes=20_000, body_timeout_s=0.2)


def rows(count: int) -> tuple[Input, ...]:
    return (Input("x", [[1.0, 2.0]] * count, (count, 2)),)


@dataclass(frozen=True)
class Case:
    """A logical request, and what must come of it: `cause`, or `outputs` from `endpoint`."""

    name: str
    asked: Asked
    cause: Cause | None = None
    outputs: Any = None
    endpoint: str = "ts"
    variant: str = ""
    # Words that a refusal must hold.
    told: str = ""
    # Where it is decided: the gateway refuses what it can before a model server is asked.
    reaches_server: bool = False
    doors: tuple[str, ...] = (*JSON_DOORS, *BINARY_DOORS, "torchserve-grpc", *TFSERVING_DOORS)

    def sayable(self, door: str) -> bool:
        """Whether a door's protocol has words for it: TF Serving chooses places by header alone."""
        if door not in TFSERVING_DOORS:
            return True
        if door == "tfserving-rest" and self.asked.wanted:
            return False
        return not set(self.asked.fields) - {"label", "signature_name"}

    @property
    def names_a_stack(self) -> bool:
        """Whether it says which stack is to answer."""
        return "stack" in self.asked.fields or "x-stack" in self.asked.headers

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def good(name: str, asked: Asked, outputs: Any = None, endpoint: str = "ts", **more: Any) -> Case:
    return Case(name, asked, None, outputs or {"y": [[2.0, 4.0]]}, endpoint, reaches_server=True, **more)


CASES = [
    good("one row", ROW),
    good("as many rows as allowed", Asked(rows(8)), {"y": [[2.0, 4.0]] * 8}),
    good("a version", replace(ROW, version=1)),
    good("a label", replace(ROW, fields={"label": "stable"})),
    good("a stack", replace(ROW, fields={"stack": "tfserving"}), endpoint="tf"),
    good("an endpoint", replace(ROW, fields={"endpoint": "tf"}), endpoint="tf"),
    good("a variant", replace(ROW, fields={"variant": "savedmodel"}), endpoint="tf"),
    good("a stack by header", replace(ROW, headers={"x-stack": "tfserving"}), endpoint="tf"),
    good("an endpoint by header", replace(ROW, headers={"x-endpoint": "tf"}), endpoint="tf"),
    good("a variant by header", replace(ROW, headers={"x-variant": "savedmodel"}), endpoint="tf"),
    good("a variant by name", replace(ROW, fields={"variant": "int8"}), variant="int8"),
    good("a variant by name in a header", replace(ROW, headers={"x-variant": "int8"}), variant="int8"),
    good(
        "a variant, its endpoint and its stack",
        replace(ROW, headers={"x-variant": "int8", "x-endpoint": "ts", "x-stack": "torchserve"}),
        variant="int8",
    ),
    good("an endpoint with a variant by name", replace(ROW, headers={"x-endpoint": "ts"}), variant="torchscript"),
    good("a label by header", replace(ROW, headers={"x-label": "stable"})),
    good(
        "the same stack twice",
        replace(ROW, fields={"stack": "tfserving"}, headers={"x-stack": "tfserving"}),
        endpoint="tf",
    ),
    good("an output by name", replace(ROW, wanted=("y",))),
    good("a long deadline", replace(ROW, timeout_s=1e6)),
    good(
        "two inputs in any order",
        Asked(
            (Input("b", [b"p", b"q"], (2,), "BYTES"), Input("a", [3, 4], (2,), "INT64")), model="pair", answers=("c",)
        ),
        {"c": [3.0, 4.0]},
    ),
    Case("unknown model", replace(ROW, model="nope"), Cause.MODEL_NOT_FOUND),
    Case("a model that is a path", replace(ROW, model="..."), Cause.MODEL_NOT_FOUND),
    Case("unknown version", replace(ROW, version=9), Cause.VERSION_NOT_FOUND),
    Case("unknown label", replace(ROW, fields={"label": "nightly"}), Cause.LABEL_NOT_FOUND),
    Case(
        "unknown signature",
        replace(ROW, fields={"signature_name": "classify"}),
        Cause.SIGNATURE_NOT_FOUND,
        doors=("oip-rest", *BINARY_DOORS, "torchserve-rest", "torchserve-grpc", *TFSERVING_DOORS),
    ),
    Case("unknown stack", replace(ROW, fields={"stack": "oip"}), Cause.MODEL_NOT_FOUND),
    Case("unknown stack by header", replace(ROW, headers={"x-stack": "oip"}), Cause.MODEL_NOT_FOUND),
    Case("unknown endpoint", replace(ROW, fields={"endpoint": "ts9"}), Cause.MODEL_NOT_FOUND),
    Case("unknown variant", replace(ROW, headers={"x-variant": "onnx"}), Cause.MODEL_NOT_FOUND),
    Case(
        "a variant that is not available",
        replace(ROW, fields={"variant": "tensorrt"}),
        Cause.MODEL_NOT_FOUND,
        told="variant 'tensorrt' of model 'doubler' is not available: needs an NVIDIA GPU; "
        "there: 'torchscript', 'savedmodel', 'int8'",
    ),
    Case(
        "a variant that is not available by header",
        replace(ROW, headers={"x-variant": "tensorrt"}),
        Cause.MODEL_NOT_FOUND,
        told="is not available: needs an NVIDIA GPU; there: 'torchscript', 'savedmodel', 'int8'",
    ),
    Case(
        "contradictory variants",
        replace(ROW, fields={"variant": "int8"}, headers={"x-variant": "savedmodel"}),
        Cause.INVALID_INPUT,
    ),
    Case(
        "a variant of another stack",
        replace(ROW, headers={"x-variant": "int8", "x-stack": "tfserving"}),
        Cause.INVALID_INPUT,
    ),
    Case(
        "contradictory stacks",
        replace(ROW, fields={"stack": "torchserve"}, headers={"x-stack": "tfserving"}),
        Cause.INVALID_INPUT,
    ),
    Case(
        "contradictory endpoints",
        replace(ROW, fields={"endpoint": "ts"}, headers={"x-endpoint": "tf"}),
        Cause.INVALID_INPUT,
    ),
    Case(
        "contradictory labels",
        replace(ROW, fields={"label": "stable"}, headers={"x-label": "canary"}),
        Cause.INVALID_INPUT,
    ),
    Case("a version and a label", replace(ROW, version=1, headers={"x-label": "stable"}), Cause.INVALID_INPUT),
    Case(
        "an endpoint of another stack",
        replace(ROW, headers={"x-endpoint": "ts", "x-stack": "tfserving"}),
        Cause.INVALID_INPUT,
    ),
    Case("an empty stack", replace(ROW, headers={"x-stack": ""}), Cause.INVALID_INPUT),
    Case("a wrong input name", Asked((Input("z", [[1.0, 2.0]], (1, 2)),)), Cause.INVALID_INPUT),
    Case("no input", Asked(()), Cause.INVALID_INPUT),
    Case("an input missing", Asked((Input("a", [3], (1,), "INT64"),), model="pair"), Cause.INVALID_INPUT),
    Case(
        "one input too many",
        Asked((*ROW.inputs, Input("z", [1.0], (1,)))),
        Cause.INVALID_INPUT,
        doors=(*JSON_DOORS, "oip-grpc", "tfserving-grpc"),
    ),
    good(
        "one input too many in a column",
        Asked((*ROW.inputs, Input("z", [1.0], (1,)))),
        doors=("tfserving-rest",),
    ),
    Case("a wrong datatype", Asked((Input("x", [[1, 2]], (1, 2), "INT64", [["1", "2"]]),)), Cause.INVALID_INPUT),
    Case(
        "a fraction for an integer",
        Asked((Input("a", [1.5], (1,), "FP64"), Input("b", [b"p"], (1,), "BYTES")), model="pair"),
        Cause.INVALID_INPUT,
    ),
    Case("a row too narrow", Asked((Input("x", [[1.0]], (1, 1)),)), Cause.INVALID_INPUT),
    Case("no batch dimension", Asked((Input("x", [1.0, 2.0], (2,)),)), Cause.INVALID_INPUT),
    Case("one dimension too many", Asked((Input("x", [[[1.0, 2.0]]], (1, 1, 2)),)), Cause.INVALID_INPUT),
    Case(
        "ragged rows",
        Asked((Input("x", [[1.0, 2.0], [3.0]], (2, 2)),)),
        Cause.INVALID_INPUT,
        doors=(*JSON_DOORS, "oip-grpc", "tfserving-rest"),
    ),
    Case(
        "rows that differ",
        Asked((Input("a", [3], (1,), "INT64"), Input("b", [b"p", b"q"], (2,), "BYTES")), model="pair"),
        Cause.INVALID_INPUT,
    ),
    Case(
        "a value beyond the datatype",
        Asked((Input("x", [[1e39, 2.0]], (1, 2)),)),
        Cause.INVALID_INPUT,
        doors=(*JSON_DOORS, "torchserve-grpc", "tfserving-rest"),
    ),
    Case(
        "not a number",
        Asked((Input("x", [[float("nan"), 2.0]], (1, 2)),)),
        Cause.INVALID_INPUT,
        doors=(*BINARY_DOORS, *TFSERVING_DOORS),
    ),
    Case(
        "a bare NaN",
        Asked((Input("x", [[float("nan"), 2.0]], (1, 2)),)),
        Cause.UNPARSEABLE,
        doors=(*JSON_DOORS, "torchserve-grpc"),
    ),
    Case("one row too many", Asked(rows(9)), Cause.INVALID_INPUT),
    Case("an unknown output", replace(ROW, wanted=("z",)), Cause.INVALID_INPUT),
    Case("an output twice", replace(ROW, wanted=("y", "y")), Cause.INVALID_INPUT),
    Case("garbage", replace(ROW, garbage=b"\xff{"), Cause.UNPARSEABLE),
    Case("nothing", replace(ROW, garbage=b""), Cause.UNPARSEABLE, doors=(*JSON_DOORS, "tfserving-rest")),
    # A gRPC client does not even send it.
    Case(
        "no deadline left",
        replace(ROW, timeout_s=0),
        Cause.DEADLINE,
        doors=(*JSON_DOORS, "oip-binary", "tfserving-rest"),
    ),
]


def answering(request: InferenceRequest) -> InferenceResponse:
    """The doubler doubles; the pair gives its integers back."""
    if request.model.name == "pair":
        return InferenceResponse("pair", 1, (tensor("c", request.inputs[0].array),))
    return doubled(request)


# What answers without waiting is asked without a coroutine at these doors.
BOTH_WAYS = [
    pytest.param(door, straight, id=f"{door.name}-straight" if straight else door.name)
    for door in DOORS
    for straight in (False, True)
    if not straight or door.name.endswith("-grpc")
]


async def in_front_of(
    answer: Callable[[InferenceRequest], InferenceResponse], limits: Limits = LIMITS, *, straight: bool = False
) -> World:
    world = await World.started(limits, straight=straight)
    for backend in world.backends.values():
        backend.answer = answer
    return world


async def reported(world: World) -> None:
    """Waits until a request that its client has given up is reported too."""
    await world.observer.until()


@pytest.mark.parametrize(
    ("case", "door", "straight"),
    [
        pytest.param(case, door, straight, id=f"{case}-{way.id}")
        for case in CASES
        for way in BOTH_WAYS
        for door, straight in [way.values]
        if door.name in case.doors and case.sayable(door.name) and not (straight and case.names_a_stack)
    ],
)
async def test_front_ends_agree(case: Case, door: Door, straight: bool) -> None:
    """Same outcome, told by the door's own table, reported once, with nothing left behind."""
    world = await in_front_of(answering, straight=straight)
    outcome = await door.send(world, case.asked)
    assert outcome.status == door.status(case.cause)
    await reported(world)
    finished = world.last
    assert (finished.cause, finished.protocol) == (case.cause, door.protocol)
    assert (world.sent > 0) is case.reaches_server
    if case.cause is None:
        assert outcome.outputs == case.outputs
        assert outcome.id == "7"
        assert outcome.served_by.startswith(f"endpoint={case.endpoint};")
        variant = case.variant or {"ts": "torchscript", "tf": "savedmodel"}[case.endpoint]
        assert outcome.served_by.endswith(f"; variant={variant}")
        assert (finished.model, finished.version) == (case.asked.model, 1)
    else:
        assert outcome.served_by == ""
        assert case.told in outcome.text
        assert finished.model in ("", case.asked.model)
    assert (world.admission.in_flight, world.admission.in_flight_bytes) == (0, 0)


FROM_UPSTREAM = [
    Cause.UPSTREAM_UNREACHABLE,
    Cause.UPSTREAM_LOST,
    Cause.UPSTREAM_BAD_REPLY,
    Cause.UPSTREAM_REJECTED,
    Cause.UPSTREAM_FAILED,
    Cause.UNSUPPORTED_DATATYPE,
    Cause.OVERLOADED,
    Cause.NOT_READY,
    Cause.RATE_LIMITED,
    Cause.UNAUTHENTICATED,
    Cause.FORBIDDEN,
    Cause.TOO_LARGE,
    Cause.DEADLINE,
]


@pytest.mark.parametrize(("door", "straight"), BOTH_WAYS)
@pytest.mark.parametrize("cause", FROM_UPSTREAM)
async def test_every_cause_from_behind_has_its_status(door: Door, straight: bool, cause: Cause) -> None:
    """Whatever goes wrong behind the gateway is told by the door's own table."""

    def failing(_: InferenceRequest) -> InferenceResponse:
        raise GatewayError(cause, "what went wrong")

    world = await in_front_of(failing, straight=straight)
    outcome = await door.send(world, ROW)
    assert outcome.status == door.status(cause)
    assert world.last.cause is cause


@pytest.mark.parametrize(("door", "straight"), BOTH_WAYS)
async def test_a_reply_that_breaks_the_contract_is_not_passed_on(door: Door, straight: bool) -> None:
    """A wrong shape and a NaN from behind are the server's fault at every door."""
    for values in ([[1.0]], [[float("nan"), 1.0]]):
        answer = InferenceResponse("doubler", 1, (tensor("y", values),))
        world = await in_front_of(lambda _, answer=answer: answer, straight=straight)  # type: ignore[misc]
        outcome = await door.send(world, ROW)
        assert outcome.status == door.status(Cause.UPSTREAM_BAD_REPLY)
        assert world.last.cause is Cause.UPSTREAM_BAD_REPLY


@pytest.mark.parametrize(("door", "straight"), BOTH_WAYS)
async def test_a_bug_is_opaque(door: Door, straight: bool) -> None:
    """No door tells more than the id."""

    def bug(_: InferenceRequest) -> InferenceResponse:
        raise KeyError("secret")

    world = await in_front_of(bug, straight=straight)
    outcome = await door.send(world, replace(ROW, headers={"x-request-id": "mine"}))
    assert (outcome.status, outcome.request_id) == (door.status(Cause.INTERNAL), "mine")
    assert world.last.cause is Cause.INTERNAL


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
async def test_no_fit_endpoint_is_not_ready(door: Door) -> None:
    """A gateway whose model servers are all down says so."""
    world = World(LIMITS)
    world.plane.start()
    assert (await door.send(world, ROW)).status == door.status(Cause.NOT_READY)
    assert world.last.cause is Cause.NOT_READY


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
@pytest.mark.parametrize("limits", [Limits(in_flight=0), Limits(in_flight_bytes=10)], ids=["requests", "bytes"])
async def test_a_full_gateway_refuses_at_once(door: Door, limits: Limits) -> None:
    """Whether requests or bytes are too many, and no server is asked."""
    world = await in_front_of(answering, limits)
    assert (await door.send(world, ROW)).status == door.status(Cause.OVERLOADED)
    assert world.last.cause is Cause.OVERLOADED
    assert world.sent == 0


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
async def test_a_request_over_the_cap_is_too_large(door: Door) -> None:
    """gRPC's own library refuses it before the gateway sees, or counts, anything."""
    world = await in_front_of(answering)
    outcome = await door.send(world, replace(ROW, garbage=b" " * 20_001))
    assert outcome.status == door.status(Cause.TOO_LARGE)
    assert [finished.cause for finished in world.observer.finished] in ([Cause.TOO_LARGE], [])
    assert (await door.send(world, ROW)).status == door.status(None)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
async def test_a_server_that_does_not_answer_costs_the_deadline(door: Door) -> None:
    """The client hears in time, and its place is free again."""
    world = await in_front_of(answering)
    world.backends["ts"].hold = asyncio.Event()
    outcome = await door.send(world, replace(ROW, timeout_s=0.05))
    assert outcome.status == door.status(Cause.DEADLINE)
    await reported(world)
    assert world.last.cause is Cause.DEADLINE
    assert world.admission.in_flight == 0


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
async def test_answers_belong_to_their_requests(door: Door) -> None:
    """Many at once, each with numbers of its own."""
    world = await in_front_of(answering)

    async def one(number: float) -> None:
        asked = Asked((Input("x", [[number, -number]], (1, 2)),), headers={"x-request-id": f"r{number}"})
        outcome = await door.send(world, asked)
        assert (outcome.outputs, outcome.request_id) == ({"y": [[2 * number, -2 * number]]}, f"r{number}")

    await asyncio.gather(*(one(float(number)) for number in range(20)))
    assert len(world.observer.finished) == 20
