"""Messages that are refused before they are parsed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway._generated import oip_pb2
from gateway.codecs import oip_proto
from gateway.codecs.wire import check_counts, check_sizes, check_tree, fields, varint
from gateway.core.errors import Cause, GatewayError
from tests.builders import contract
from tests.unit.gateway.codecs.tensors import cause_of, untimed


def message() -> oip_pb2.ModelInferRequest:
    """A good request of the doubler."""
    sent = oip_pb2.ModelInferRequest(model_name="doubler", id="7")
    tensor = sent.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([1.0, 2.0])
    return sent


def test_fields_are_those_of_the_message() -> None:
    """Numbers and contents come in the order of the bytes."""
    found = [(number, bytes(content)) for number, content in fields(message().SerializeToString(), "message")]
    assert found[0] == (1, b"doubler")
    assert (3, b"7") in found
    assert {number for number, _ in found} == {1, 3, 5}


@pytest.mark.parametrize("data", [b"\x08", b"\x0a\x05ab", b"\x0b", b"\x09\0\0", b"\xff" * 11, b"\x0d\0"])
def test_bytes_that_are_no_message_are_unparseable(data: bytes) -> None:
    """Lengths beyond the end, unfinished varints and unknown wire types."""
    with pytest.raises(GatewayError) as caught:
        check_counts(data, 10, "ModelInferRequest")
    assert caught.value.cause is Cause.UNPARSEABLE


def test_millions_of_empty_messages_are_refused_at_the_first_too_many() -> None:
    """What would become a gigabyte of objects is counted, not parsed."""
    with pytest.raises(GatewayError, match="more than 4096 fields") as caught:
        oip_proto.decode_request(message().SerializeToString() + b"\x2a\x00" * 1_000_000)
    assert caught.value.cause is Cause.INVALID_INPUT


def test_fields_below_are_counted_with_those_above() -> None:
    """Where the tree leads, and nowhere else."""
    data = b"\x12\x04\x12\x02\x08\x01" * 2 + b"\x0a\x02\x08\x01"
    for tree, count in (({}, 3), ({2: {}}, 5), ({2: {2: {}}}, 7), ({1: {}}, 4)):
        check_tree(data, count, "message", tree)
        with pytest.raises(GatewayError, match=f"more than {count - 1} fields") as caught:
            check_tree(data, count - 1, "message", tree)
        assert caught.value.cause is Cause.INVALID_INPUT


def test_typed_contents_are_bounded() -> None:
    """Large tensors belong into raw contents; the message says so."""
    sent = message()
    sent.inputs[0].contents.bytes_contents.extend([b""] * 5_000_000)
    with pytest.raises(GatewayError, match="use raw contents"):
        oip_proto.decode_request(sent.SerializeToString())


def test_a_shape_of_many_dimensions_is_bounded() -> None:
    """A shape has few dimensions, packed or not."""
    sent = message()
    sent.inputs[0].shape.extend([1] * 10_000)
    with pytest.raises(GatewayError, match="field 3 is larger"):
        oip_proto.decode_request(sent.SerializeToString())
    with pytest.raises(GatewayError, match="field 3 is larger"):
        check_sizes(memoryview(b"\x1a\x01\x01" * 100), {3: 320}, "input")
    # A message too short for the wire to be looked at is bounded by its shape's rank.
    del sent.inputs[0].shape[1000:]
    with pytest.raises(GatewayError, match="1000 dimensions; at most 32"):
        oip_proto.decode_request(sent.SerializeToString())


def test_declared_inputs_are_checked_before_arrays_are_made() -> None:
    """Another datatype than the contract's is refused without looking at its contents."""
    sent = oip_pb2.ModelInferRequest(model_name="doubler")
    sent.inputs.add(name="x", datatype="BYTES", shape=[2_000_000])
    sent.raw_input_contents.append(bytes(8_000_000))
    with pytest.raises(GatewayError, match="input 'x' is BYTES; expected FP32"):
        oip_proto.decode_request(sent.SerializeToString(), lambda _: contract())


@untimed
@given(st.binary(max_size=64))
def test_any_bytes_are_counted_or_unparseable(data: bytes) -> None:
    """And contents are parts of the bytes, never more."""
    cause = cause_of(lambda: check_counts(data, 64, "message"))
    assert cause in (None, Cause.UNPARSEABLE)
    assert cause_of(lambda: check_sizes(memoryview(data), {1: 10**6}, "message")) is cause
    if cause is None:
        assert sum(len(content) + 1 for _, content in fields(data, "message")) <= len(data)


@untimed
@given(st.lists(st.tuples(st.text(max_size=3), st.binary(max_size=9)), max_size=5))
def test_fields_of_any_message_are_found(inputs: list[tuple[str, bytes]]) -> None:
    """As many, and with the contents, that protobuf wrote."""
    sent = oip_pb2.ModelInferRequest(raw_input_contents=[raw for _, raw in inputs])
    for name, _ in inputs:
        sent.inputs.add(name=name)
    found = list(fields(sent.SerializeToString(), "message"))
    raw_number = oip_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
    assert [bytes(content) for number, content in found if number == raw_number] == [raw for _, raw in inputs]
    assert len(found) == 2 * len(inputs)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**63])
def test_numbers_are_written_as_protobuf_does(value: int) -> None:
    """Seven bits a byte, the lowest first."""
    assert oip_pb2.InferParameter(uint64_param=value).SerializeToString()[1:] == varint(value)
