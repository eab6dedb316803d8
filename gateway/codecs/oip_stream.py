"""Replies of the Open Inference Protocol's ModelStreamInfer: an answer, or the text of an error, never both."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

from gateway._generated import oip_pb2
from gateway.codecs.wire import MAX_FIELDS, fields
from gateway.core.errors import GatewayError


def encode_answer(encoded: bytes) -> bytes:
    """A serialised ModelStreamInferResponse around a serialised ModelInferResponse."""
    # Field 2, length-delimited, as the encoding of protobuf has it: parsing the answer again would copy its tensors.
    prefix, left = bytearray(b"\x12"), len(encoded)
    while left > 0x7F:
        prefix.append(left & 0x7F | 0x80)
        left >>= 7
    prefix.append(left)
    return bytes(prefix) + encoded


def encode_error(text: str, identity: str) -> bytes:
    """A serialised ModelStreamInferResponse that says why the request with this id has no answer.

    A client that has sent several requests knows by the id which of them failed.
    """
    message = oip_pb2.ModelStreamInferResponse(error_message=text)
    message.infer_response.id = identity
    return message.SerializeToString()


def request_id(data: bytes) -> str:
    """The id of a serialised ModelInferRequest, '' where it has none that is found soon.

    The rest is not parsed: the message may have been refused for what parsing it would cost.
    """
    identity = ""
    with suppress(GatewayError, UnicodeDecodeError):
        for number, content in islice(fields(data, "ModelInferRequest"), MAX_FIELDS):
            if number == oip_pb2.ModelInferRequest.ID_FIELD_NUMBER:
                identity = bytes(content).decode()
    return identity
