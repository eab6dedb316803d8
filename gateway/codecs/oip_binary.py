"""The binary tensor data extension of the Open Inference Protocol over REST (Triton's extension_binary_data.md).

A body is a JSON header, whose length the HTTP header `Inference-Header-Content-Length` states, and behind it the raw
layout of every tensor that has `binary_data_size` in place of `data`, in order and without padding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.codecs.json_document import JsonObject, parse_object, read_object
from gateway.codecs.json_tensors import dumped
from gateway.codecs.oip_json import (
    BINARY_DATA,
    BINARY_OUTPUT,
    BINARY_SIZE,
    Described,
    answer_to,
    contract_named,
    encoded,
    from_data,
    outputs_of,
    parameters_of,
    request_from,
)
from gateway.core.contract import ContractOf, ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec, Parameter
from gateway.core.tensor import Tensor, from_raw, to_raw

# What server metadata calls it.
EXTENSION = "binary_tensor_data"
LENGTH_HEADER = "Inference-Header-Content-Length"

_LENGTH = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class BinaryWishes:
    """Which outputs a client wants as binary data: by name, and otherwise by `default`."""

    default: bool = False
    outputs: Mapping[str, bool] = field(default_factory=dict)

    def wants(self, output: str) -> bool:
        """Whether this output is to travel as binary data."""
        return self.outputs.get(output, self.default)


@dataclass(frozen=True, slots=True, eq=False)
class OipRestRequest:
    """A decoded request, and the form that its answer takes."""

    request: InferenceRequest
    wishes: BinaryWishes


@dataclass(frozen=True, slots=True)
class OipRestAnswer:
    """An encoded answer; `header_length` is that of its JSON in bytes, None where there is nothing behind it."""

    body: bytes
    header_length: int | None


def header_length(text: str, limit: int) -> int:
    """The length of the JSON that `Inference-Header-Content-Length` states, in bytes.

    Raises UNPARSEABLE for anything but a number over 0, TOO_LARGE over `limit`.
    """
    if not _LENGTH.fullmatch(text):
        raise GatewayError(Cause.UNPARSEABLE, f"{LENGTH_HEADER}: expected the length of the JSON, a number of bytes")
    length = int(text)
    if length == 0:
        raise GatewayError(
            Cause.UNPARSEABLE,
            f"{LENGTH_HEADER} is 0, a raw binary request, which is not taken here; expected JSON that describes the "
            "inputs, and its length",
        )
    if length > limit:
        raise GatewayError(
            Cause.TOO_LARGE, f"{LENGTH_HEADER} is more than {limit} bytes, the most taken as JSON; send tensors binary"
        )
    return length


def decode_request(body: bytes, length: int | None, model: ModelSpec, contract_of: ContractOf) -> OipRestRequest:
    """The request that `body` is: `length` bytes of JSON and binary data behind, or all of it JSON where that is None.

    Binary inputs are views of `body`: nothing is copied. Raises UNPARSEABLE where lengths do not add up, and whatever
    `oip_json.decode_request` raises.
    """
    if length is not None and length > len(body):
        raise GatewayError(
            Cause.UNPARSEABLE,
            f"{LENGTH_HEADER} is {length}, but the body has {len(body)} bytes; expected at most those",
        )
    if length is None:
        return read_object(body, lambda document: _all_json(document, model, contract_of))
    document = parse_object(body[:length])
    contract = contract_named(document, model, contract_of)
    buffers = _Buffers(memoryview(body)[length:], contract)
    request = request_from(document, model, buffers.tensor)
    buffers.finish()
    return OipRestRequest(request, _wishes(document))


def encode_response(response: InferenceResponse, wishes: BinaryWishes) -> OipRestAnswer:
    """The answer, its outputs as JSON or binary, as the client wishes.

    Raises UNSUPPORTED_DATATYPE where JSON cannot carry an output that is not wished for as binary.
    """
    outputs: list[dict[str, Any]] = []
    as_json: list[Tensor] = []
    buffers: list[bytes | memoryview] = []
    for tensor in response.outputs:
        if not wishes.wants(tensor.name):
            outputs.append(encoded(tensor))
            as_json.append(tensor)
            continue
        raw = to_raw(tensor)
        buffers.append(raw)
        outputs.append(
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "datatype": tensor.datatype,
                "parameters": {BINARY_SIZE: len(raw)},
            }
        )
    header = dumped(answer_to(response, outputs), as_json)
    if not buffers:
        return OipRestAnswer(header, None)
    return OipRestAnswer(b"".join([header, *buffers]), len(header))


def _all_json(document: JsonObject, model: ModelSpec, contract_of: ContractOf) -> OipRestRequest:
    contract_named(document, model, contract_of)
    return OipRestRequest(request_from(document, model, from_data), _wishes(document))


class _Buffers:
    """What lies behind a request's JSON, given out in the inputs' order."""

    def __init__(self, data: memoryview, contract: ModelContract) -> None:
        self._data = data
        self._contract = contract
        self._offset = 0

    def tensor(self, described: Described) -> Tensor:
        """The input's tensor, from its `data` or from the next bytes."""
        size = described.size
        if size is None:
            return from_data(described)
        what = f"input '{described.name}'"
        if "data" in described.item:
            raise GatewayError(
                Cause.INVALID_INPUT, f"{what} has both 'data' and 'binary_data_size'; expected one of them"
            )
        left = len(self._data) - self._offset
        if size > left:
            raise GatewayError(
                Cause.UNPARSEABLE,
                f"{what}: its 'binary_data_size' is more than the {left} bytes that the body has left",
            )
        # Before an array is made: BYTES become objects one by one.
        self._contract.check_declared(described.name, described.datatype, described.shape)
        begin, self._offset = self._offset, self._offset + size
        return from_raw(described.name, described.datatype, described.shape, self._data[begin : self._offset])

    def finish(self) -> None:
        """Raises UNPARSEABLE where bytes are left over."""
        left = len(self._data) - self._offset
        if left:
            raise GatewayError(
                Cause.UNPARSEABLE,
                f"{left} bytes are left over behind the binary data of all inputs; expected each 'binary_data_size' to "
                f"be that of its data, and {LENGTH_HEADER} that of the JSON",
            )


def _wishes(document: JsonObject) -> BinaryWishes:
    default = _flag(BINARY_OUTPUT, parameters_of(document, "the body"))
    named = {
        item["name"]: _flag(BINARY_DATA, parameters)
        for item, parameters in outputs_of(document)
        if BINARY_DATA in parameters
    }
    return BinaryWishes(default, named)


def _flag(name: str, parameters: Mapping[str, Parameter]) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise GatewayError(Cause.INVALID_INPUT, f"parameter '{name}': expected true or false")
    return value
