"""Replies on a stream."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway._generated import oip_pb2
from gateway.codecs import oip_proto, oip_stream
from gateway.core.messages import InferenceResponse
from gateway.core.tensor import Tensor
from tests.unit.gateway.codecs.tensors import untimed


@pytest.mark.parametrize("size", [0, 1, 60, 127, 128, 300, 20_000, 3_000_000])
def test_an_answer_is_the_answer(size: int) -> None:
    """Whatever its length, which its prefix states."""
    array = np.zeros(size, np.uint8)
    encoded = oip_proto.encode_response(InferenceResponse("m", 1, (Tensor("y", "UINT8", array),), id="7"), raw=True)
    reply = oip_pb2.ModelStreamInferResponse.FromString(oip_stream.encode_answer(encoded))
    assert reply.error_message == ""
    assert reply.infer_response == oip_pb2.ModelInferResponse.FromString(encoded)


def test_a_failure_names_its_request() -> None:
    """By the id, and with nothing else of an answer."""
    reply = oip_pb2.ModelStreamInferResponse.FromString(oip_stream.encode_error("why", "7"))
    assert (reply.error_message, reply.infer_response) == ("why", oip_pb2.ModelInferResponse(id="7"))


@pytest.mark.parametrize(
    ("data", "identity"),
    [
        (b"", ""),
        (b"\xff", ""),
        (oip_pb2.ModelInferRequest(model_name="m", id="é").SerializeToString(), "é"),
        (oip_pb2.ModelInferRequest(id="7").SerializeToString() + b"\xff", "7"),
        (b"\x1a\x01\xff", ""),
        (b"\x2a\x00" * 5000 + b"\x1a\x017", ""),
    ],
)
def test_the_id_is_found_without_parsing_the_rest(data: bytes, identity: str) -> None:
    """What was refused unparsed is not parsed for its id."""
    assert oip_stream.request_id(data) == identity


@untimed
@given(st.binary(max_size=40))
def test_any_bytes_have_an_id_or_none(data: bytes) -> None:
    """Nothing is ever raised."""
    assert isinstance(oip_stream.request_id(data), str)
