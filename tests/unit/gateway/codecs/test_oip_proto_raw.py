"""Requests with one raw input: however a message begins and ends, it is read as if it were the first of its kind."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway._generated import oip_pb2
from gateway.codecs.oip_proto import OipGrpcRequest, decode_request
from gateway.codecs.oip_proto_raw import MAX_BEGINNINGS, RawRequests
from gateway.core.contract import ModelContract
from gateway.core.errors import GatewayError
from gateway.core.messages import TensorSpec
from tests.builders import contract
from tests.unit.gateway.codecs.tensors import assert_same, untimed

DOUBLER = contract()


def contract_of(_model: str, _signature: str | None = None) -> ModelContract:
    return DOUBLER


def message(values: list[float], **more: object) -> bytes:
    sent = oip_pb2.ModelInferRequest(model_name="doubler", **more)
    sent.inputs.add(name="x", datatype="FP32", shape=[len(values) // 2, 2])
    sent.raw_input_contents.append(np.array(values, "<f4").tobytes())
    return sent.SerializeToString()


def assert_equal(found: OipGrpcRequest, expected: OipGrpcRequest) -> None:
    assert found.raw is expected.raw
    one, other = found.request, expected.request
    assert (one.model, one.wanted, one.parameters, one.id, one.selection) == (
        other.model,
        other.wanted,
        other.parameters,
        other.id,
        other.selection,
    )
    for tensor, like in zip(one.inputs, other.inputs, strict=True):
        assert_same(tensor, like)


def outcome(data: bytes, requests: RawRequests | None = None) -> OipGrpcRequest | str:
    try:
        return decode_request(data, contract_of) if requests is None else requests.decode(data, contract_of)
    except GatewayError as exc:
        return exc.detail


WHOLE = [
    message([1, 2]),
    message([3, 4, 5, 6]),
    message([1, 2], id="7"),
    message([1, 2], model_version="1"),
    message([1, 2], parameters={"signature_name": oip_pb2.InferParameter(string_param="other")}),
    message([1, 2], outputs=[oip_pb2.ModelInferRequest.InferRequestedOutputTensor(name="y")]),
    # What looks like contents is part of an unknown field behind them.
    message([1, 2]) + b"\x7a\x0a\x3a\x08" + b"\0" * 8,
    # Contents come first, and what they belong to behind them.
    b"\x3a\x08" + b"\0" * 8 + message([1, 2])[:-10],
    message([1, 2]) + b"\x3a\x08" + b"\0" * 8,
]


SHORT, LONG = message([1, 2]), message([3, 4, 5, 6])


@pytest.mark.parametrize(
    "data",
    [
        # As long as the long one, from the short one and a model name, an id, or what is no field at all.
        SHORT + b"\x0a\x06secret",
        SHORT + b"\x1a\x06abcdef",
        SHORT + b"\xff" * 8,
        # As long as the short one.
        LONG[:-16] + b"\0" * 8,
    ],
    ids=["another name", "an id", "no field", "cut contents"],
)
def test_a_message_of_a_known_length_may_be_another(data: bytes) -> None:
    """Its contents have to be as long as its beginning says, and the last that it has."""
    requests = RawRequests()
    for known in (SHORT, LONG):
        requests.decode(known, contract_of)
    assert len(data) in (len(SHORT), len(LONG))
    found, expected = outcome(data, requests), outcome(data)
    if isinstance(found, str) or isinstance(expected, str):
        assert found == expected
    else:
        assert_equal(found, expected)


# A message, so many bytes of which are kept, with what comes behind them: bytes, or as much of another's end.
TAILS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"\x0a\x06secret", b"\x1a\x06abcdef", b"\xff" * 8, b"\0" * 8]),
    st.builds(lambda whole, size: whole[len(whole) - size :], st.sampled_from(WHOLE), st.integers(0, 20)),
)
SENT = st.tuples(st.sampled_from(WHOLE), st.integers(0, 60), st.integers(0, 255), st.integers(0, 20), TAILS)


@untimed
@given(st.lists(SENT, max_size=8))
def test_messages_are_read_as_if_each_were_the_first(sent: list[tuple[bytes, int, int, int, bytes]]) -> None:
    """Whatever came before: all messages of a sequence, odd ones too, have the outcome that they have alone."""
    requests = RawRequests()
    for whole, place, byte, cut, tail in sent:
        changed = bytearray(whole)
        changed[-1 - place % len(whole)] = byte
        for data in (whole, bytes(changed), whole, whole[: len(whole) - cut] + tail, whole + tail, whole):
            found, expected = outcome(data, requests), outcome(data)
            if isinstance(found, str) or isinstance(expected, str):
                assert found == expected
            else:
                assert_equal(found, expected)


def test_contents_are_read_anew_each_time() -> None:
    """Of what was remembered only the beginning is used."""
    requests = RawRequests()
    for first in (1.0, 2.0, float("nan")):
        (tensor,) = requests.decode(message([first, 3]), contract_of).request.inputs
        np.testing.assert_array_equal(tensor.array, [[first, 3]])


def test_another_contract_is_asked_anew() -> None:
    """A reload may change what a model takes."""
    requests = RawRequests()
    requests.decode(message([1, 2]), contract_of)
    other = contract(inputs=(TensorSpec("x", "FP64", (-1, 2)),))
    with pytest.raises(GatewayError, match="expected FP64"):
        requests.decode(message([1, 2]), lambda _model, _signature=None: other)


def test_what_is_remembered_is_little() -> None:
    """Neither contents nor ever new beginnings are kept."""
    requests = RawRequests()
    wide = contract(batch_cap=1000)
    tracemalloc.start()
    try:
        for number in range(4 * MAX_BEGINNINGS):
            sent = message([1.0] * 2_000, model_version=str(number))
            requests.decode(sent, lambda _model, _signature=None: wide)
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < 1_000_000
