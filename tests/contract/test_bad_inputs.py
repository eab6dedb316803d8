"""One table of bodies that go wrong, over every door that can be sent them: refused, before a model server is asked.

Whatever was sent, the next good request is answered and nothing is left behind.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace

import pytest

from gateway._generated import oip_pb2, tensorflow_pb2, tfserving_pb2, torchserve_pb2
from gateway.core.errors import Cause
from gateway.core.messages import Bounds, TensorSpec
from gateway.frontends.edge import Limits
from tests.builders import contract
from tests.contract.frontend_doors import DOORS, Asked, Door, Input
from tests.contract.test_frontends import ROW, answering, in_front_of, reported
from tests.unit.gateway.frontends.world import World

BAD = Cause.INVALID_INPUT
NOT_JSON = Cause.UNPARSEABLE
LIMITS = Limits(json_bytes=4_000_000)
BY_NAME = {door.name: door for door in DOORS}
JSON_DOORS = ("predict", "oip-rest", "torchserve-rest", "torchserve-grpc", "tfserving-rest")
# A JSON value in the place of the doubler's input, FP32 [-1, 2].
DOUBLER = {
    "predict": b'{"model": "doubler", "inputs": {"x": %s}}',
    "oip-rest": b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": %s}]}',
    "torchserve-rest": b'{"inputs": {"x": %s}}',
    "torchserve-grpc": b'{"inputs": {"x": %s}}',
    "tfserving-rest": b'{"inputs": {"x": %s}}',
}
# The same in the place of the pair's INT64 [-1].
PAIR = {
    "predict": b'{"model": "pair", "inputs": {"a": %s, "b": ["p"]}}',
    "oip-rest": b'{"inputs": [{"name": "a", "shape": [1], "datatype": "INT64", "data": %s},'
    b' {"name": "b", "shape": [1], "datatype": "BYTES", "data": ["p"]}]}',
    "torchserve-rest": b'{"instances": [{"a": %s, "b": "p"}]}',
    "torchserve-grpc": b'{"inputs": {"a": %s, "b": ["p"]}}',
    "tfserving-rest": b'{"inputs": {"a": %s, "b": ["p"]}}',
}
DEEP = b"[" * 33 + b"1" + b"]" * 33
MANY_KEYS = json.dumps(dict.fromkeys(map(str, range(200_000)), 1)).encode()


@dataclass(frozen=True)
class Bad:
    """A value or body, and what is said of it; `tfserving` where TF Serving's own parser has another word."""

    name: str
    text: bytes
    cause: Cause
    tfserving: Cause | None = None

    def expected(self, door: str) -> Cause:
        """The cause at a door."""
        return self.tfserving or self.cause if door == "tfserving-rest" else self.cause

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


VALUES = [
    Bad("NaN", b"[[NaN, 1]]", NOT_JSON, BAD),
    Bad("minus infinity", b"[[-Infinity, 1]]", NOT_JSON, BAD),
    Bad("beyond a double", b"[[1e400, 1]]", BAD),
    Bad("beyond FP32", b"[[1e39, 1]]", BAD),
    Bad("ten thousand digits", b"[[" + b"9" * 10_000 + b", 1]]", NOT_JSON),
    Bad("a boolean", b"[[true, 1]]", BAD),
    Bad("digits in quotes", b'[["1.0", 1]]', BAD),
    Bad("null", b"[[null, 1]]", BAD),
    Bad("an object", b'[[{"a": 1}, 1]]', BAD),
    Bad("half a surrogate pair", b'[["\\ud800", 1]]', BAD),
    Bad("ragged as 2x2", b"[[1, 2, 3], [4]]", BAD),
    Bad("ragged first", b"[[1], [2, 3]]", BAD),
    Bad("ragged last", b"[[1, 2], [3]]", BAD),
    Bad("a value beside lists", b"[[1, 2], 3]", BAD),
    Bad("a list beside values", b"[1, [2]]", BAD),
    Bad("a list among values", b"[[1, [2]]]", BAD),
    Bad("an empty list among rows", b"[[1, 2], []]", BAD),
    Bad("too wide", b"[[1, 2, 3]]", BAD),
    Bad("33 deep", DEEP, NOT_JSON),
    Bad("250 000 deep", b"[" * 250_000 + b"]" * 250_000, NOT_JSON),
    Bad("an unfinished list", b"[[1, 2", NOT_JSON),
    Bad("not UTF-8", b'[["\xff", 1]]', NOT_JSON),
    Bad("a repeated key", b'{"a": 1, "a": 2}', NOT_JSON),
    Bad("many keys", MANY_KEYS, BAD),
    Bad("many objects", b"[" + b"{}," * 500_000 + b"{}]", BAD),
    Bad("many values behind an object", b"[{}," + b"1," * 500_000 + b"1]", BAD),
    Bad("many objects and NaN", b"[" + b"{}," * 500_000 + b"NaN]", NOT_JSON, BAD),
]
INTEGERS = [
    Bad("2 to the 63", b"[9223372036854775808]", BAD),
    Bad("below INT64", b"[-9223372036854775809]", BAD),
    Bad("beyond 64 bits", b"[100000000000000000000]", BAD),
    Bad("a fraction", b"[1.5]", BAD),
    Bad("a whole number as a float", b"[1.0]", BAD),
    Bad("a boolean", b"[true]", BAD),
]
BODIES = [
    Bad("nothing", b"", NOT_JSON),
    Bad("white space", b" \n", NOT_JSON),
    Bad("null", b"null", BAD),
    Bad("a string", b'"x"', BAD),
    Bad("a number", b"1", BAD),
    Bad("an empty object", b"{}", BAD),
    Bad("a byte order mark", b"\xef\xbb\xbf{}", NOT_JSON),
    Bad("UTF-16", "{}".encode("utf-16"), NOT_JSON),
    Bad("an empty name", b'{"": 1}', BAD),
    Bad("a foreign field", b'{"__proto__": 1}', BAD),
    Bad("a name of 1 MB", b'{"' + b"k" * 1_000_000 + b'": 1}', BAD),
]


async def refused(door: Door, asked: Asked, cause: Cause) -> None:
    """What is asked is refused for this cause at once; what is asked next is answered."""
    world = await in_front_of(answering, LIMITS)
    outcome = await door.send(world, asked)
    await reported(world)
    assert (world.last.cause, outcome.status) == (cause, door.status(cause))
    assert world.sent == 0
    assert (await door.send(world, ROW)).status == door.status(None)
    assert (world.admission.in_flight, world.admission.in_flight_bytes) == (0, 0)


def in_body(door: str, body: bytes, model: str = "doubler") -> Asked:
    """A request whose body is `body`, in TorchServe's message where the door is that."""
    if door == "torchserve-grpc":
        body = torchserve_pb2.PredictionsRequest(model_name=model, input={"data": body}).SerializeToString()
    return replace(ROW, model=model, garbage=body)


@pytest.mark.parametrize("door", JSON_DOORS)
@pytest.mark.parametrize("bad", VALUES, ids=str)
async def test_values_that_make_no_tensor_are_refused(bad: Bad, door: str) -> None:
    """At every JSON door."""
    await refused(BY_NAME[door], in_body(door, DOUBLER[door] % bad.text), bad.expected(door))


@pytest.mark.parametrize("door", JSON_DOORS)
@pytest.mark.parametrize("bad", INTEGERS, ids=str)
async def test_numbers_that_are_no_such_integer_are_refused(bad: Bad, door: str) -> None:
    """Nothing is rounded or wrapped around."""
    text = bad.text.strip(b"[]") if door == "torchserve-rest" else bad.text
    await refused(BY_NAME[door], in_body(door, PAIR[door] % text, "pair"), bad.expected(door))


@pytest.mark.parametrize("door", JSON_DOORS)
@pytest.mark.parametrize("bad", BODIES, ids=str)
async def test_bodies_that_are_no_request_are_refused(bad: Bad, door: str) -> None:
    """Whatever JSON they are, or are not."""
    await refused(BY_NAME[door], in_body(door, bad.text), bad.expected(door))


@pytest.mark.parametrize("door", JSON_DOORS)
@pytest.mark.parametrize("tail", [b"x", b"{}", b"\x00"])
async def test_what_follows_a_body_is_refused(tail: bytes, door: str) -> None:
    """But at TF Serving's door, which ends where the first value does."""
    asked = in_body(door, DOUBLER[door] % b"[[1, 2]]" + tail)
    if door == "tfserving-rest":
        world = await in_front_of(answering, LIMITS)
        assert (await BY_NAME[door].send(world, asked)).status == 200
        return
    await refused(BY_NAME[door], asked, NOT_JSON)


SHAPES = [[2**32, 2**32], [-1, 2], [2**62, 0], [1] * 40, [2**63 - 1], [1, 2, 1]]


@pytest.mark.parametrize("shape", [*SHAPES, [1.0, 2], [True, 2], ["1", 2], "1,2", None, [[1, 2]]], ids=str)
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
async def test_shapes_that_no_data_has_are_refused_before_anything_is_made(shape: object, datatype: str) -> None:
    """As JSON and with binary data."""
    tensor = {"name": "x", "shape": shape, "datatype": datatype}
    plain = json.dumps({"inputs": [{**tensor, "data": [1.0, 2.0] if datatype == "FP32" else ["a", "b"]}]}).encode()
    await refused(BY_NAME["oip-rest"], in_body("oip-rest", plain), BAD)
    header = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 8}}]}).encode()
    await refused(
        BY_NAME["oip-rest"],
        replace(
            in_body("oip-rest", header + bytes(8)),
            headers={"content-type": "application/octet-stream", "inference-header-content-length": str(len(header))},
        ),
        BAD,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("raw", [False, True], ids=["typed", "raw"])
async def test_shapes_that_no_message_fills_are_refused(shape: list[int], raw: bool) -> None:
    """In both of the protocols that state a shape."""
    message = oip_pb2.ModelInferRequest(model_name="doubler")
    tensor = message.inputs.add(name="x", datatype="FP32", shape=shape)
    if raw:
        message.raw_input_contents.append(bytes(8))
    else:
        tensor.contents.fp32_contents.extend([1, 2])
    await refused(BY_NAME["oip-grpc"], in_body("oip-grpc", message.SerializeToString()), BAD)
    predict = tfserving_pb2.PredictRequest()
    predict.model_spec.name = "doubler"
    proto = predict.inputs["x"]
    proto.dtype = tensorflow_pb2.DT_FLOAT
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    if raw:
        proto.tensor_content = bytes(8)
    else:
        proto.float_val.extend([1, 2])
    await refused(BY_NAME["tfserving-grpc"], in_body("tfserving-grpc", predict.SerializeToString()), BAD)


def _tensors(*described: tuple[str, str, list[int]], contents: bool = False, raw: tuple[bytes, ...] = ()) -> bytes:
    message = oip_pb2.ModelInferRequest(model_name="pair", raw_input_contents=raw)
    for name, datatype, shape in described:
        tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
        if contents:
            tensor.contents.int64_contents.append(1)
    return message.SerializeToString()


A, B = ("a", "INT64", [1]), ("b", "BYTES", [1])
INT, TEXT = struct.pack("<q", 1), struct.pack("<I", 1) + b"p"
MESSAGES = {
    "raw data too short": (_tensors(A, B, raw=(INT[:7], TEXT)), BAD),
    "raw data too long": (_tensors(A, B, raw=(INT + b"\0", TEXT)), BAD),
    "an element of 4 GB": (_tensors(A, B, raw=(INT, b"\xff\xff\xff\xff")), BAD),
    "an element too long": (_tensors(A, B, raw=(INT, struct.pack("<I", 2) + b"p")), BAD),
    "typed and raw": (_tensors(A, B, contents=True, raw=(INT, TEXT)), BAD),
    "one raw content too few": (_tensors(A, B, raw=(INT,)), BAD),
    "an unknown datatype": (_tensors(("a", "int64", [1]), B, raw=(INT, TEXT)), BAD),
    "an unknown input": (_tensors(("c", "INT64", [1]), B, raw=(INT, TEXT)), BAD),
    "an input twice": (_tensors(A, A, raw=(INT, INT)), BAD),
    "garbage": (b"\xff" * 20, NOT_JSON),
    "a string that is not UTF-8": (b"\x0a\x02\xff\xfe", NOT_JSON),
    "an unfinished message": (_tensors(A, B, raw=(INT, TEXT))[:-1], NOT_JSON),
    "nested 200 deep": (b"\x0b" * 200 + b"\x0c" * 200, NOT_JSON),
    "a million empty messages": (_tensors(A, B) + b"\x2a\x00" * 1_000_000, BAD),
}


@pytest.mark.parametrize("name", MESSAGES)
async def test_messages_that_are_no_request_are_refused(name: str) -> None:
    """By the Open Inference Protocol over gRPC."""
    message, cause = MESSAGES[name]
    await refused(BY_NAME["oip-grpc"], replace(ROW, model="pair", garbage=message), cause)


def _part(number: int, content: bytes) -> bytes:
    """A field of bytes, as protobuf writes it."""
    size, length = len(content), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2]) + bytes(length) + bytes([size]) + content


def _tfserving(tensor: bytes) -> bytes:
    return _part(1, _part(1, b"doubler")) + _part(2, _part(1, b"x") + _part(2, b"\x08\x01" + tensor))


MANY = {
    "inputs": ("tfserving-grpc", _tfserving(b"") + b"\x12\x00" * 1_000_000),
    "dimensions": ("tfserving-grpc", _tfserving(_part(2, b"\x12\x00" * 1_000_000))),
    "strings": ("tfserving-grpc", _tfserving(b"\x42\x00" * 1_000_000)),
    "outputs": ("tfserving-grpc", _tfserving(b"") + b"\x1a\x00" * 1_000_000),
    "parts of a body": ("torchserve-grpc", _part(1, b"doubler") + b"\x1a\x00" * 1_000_000),
}


@pytest.mark.parametrize("name", MANY)
async def test_a_million_empty_fields_are_counted_not_parsed(name: str) -> None:
    """As messages they would take seventy times the room."""
    door, message = MANY[name]
    await refused(BY_NAME[door], replace(ROW, garbage=message), BAD)


@pytest.mark.parametrize("door", ["predict", "oip-rest", "torchserve-rest", "tfserving-rest"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-request-timeout-ms": "abc"}, 400),
        ({"x-request-timeout-ms": "-1"}, 400),
        ({"x-request-timeout-ms": "NaN"}, 400),
        ({"x-request-timeout-ms": "0"}, 504),
        ({"x-request-timeout-ms": "1000000000"}, 200),
        ({"x-request-id": "x" * 10_000}, 200),
        ({"x-request-id": "\x1b[31m"}, 200),
        ({"traceparent": "00-zz", "baggage": "b" * 10_000}, 200),
        ({"x-http-method-override": "DELETE"}, 200),
        ({"x-forwarded-for": "10.0.0.1", "forwarded": "for=10.0.0.1", "host": "elsewhere"}, 200),
    ],
)
async def test_odd_headers_are_refused_or_of_no_effect(door: str, headers: dict[str, str], status: int) -> None:
    """And a client's own id comes back only where it is a sane one."""
    world = await in_front_of(answering, LIMITS)
    outcome = await BY_NAME[door].send(world, replace(ROW, headers=headers))
    assert outcome.status == status
    assert outcome.request_id.isalnum()
    assert world.sent == (status == 200)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
async def test_what_passes_the_contracts_bounds_is_refused_at_every_door(door: Door) -> None:
    """Below, above, or too large: no model server is asked, and no breaker counts it. The bounds themselves pass."""
    its = contract(inputs=(TensorSpec("x", "FP32", (-1, 2), bounds=Bounds(-5, 2.0, (3, -1))),))
    world = await World.started(LIMITS, its)
    for backend in world.backends.values():
        backend.answer = answering
    for rows in ([[-5.5, 1.0]], [[2.5, 1.0]], [[1.0, 2.0]] * 4):
        asked = replace(ROW, inputs=(Input("x", rows, (len(rows), 2)),))
        assert (await door.send(world, asked)).status == door.status(BAD)
        await reported(world)
        assert world.last.cause == BAD
    assert world.sent == 0
    assert (await door.send(world, replace(ROW, inputs=(Input("x", [[-5.0, 2.0]] * 3, (3, 2)),)))).status == (
        door.status(None)
    )


@pytest.mark.parametrize(
    "path", ["/predict/%3Cscript%3E", "/v2/models/%3Cscript%3E", "/models/%3Cscript%3E", "/v1/models/%3Cscript%3E"]
)
async def test_a_name_is_repeated_as_text_only(path: str) -> None:
    """In JSON, which no browser takes for a page."""
    async with (await World.started()).rest() as client:
        answer = await client.request("POST" if "predict" in path else "GET", path, json={"inputs": []})
    assert answer.status_code == 404
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"].startswith("application/")
    assert "json" in answer.headers["content-type"]
