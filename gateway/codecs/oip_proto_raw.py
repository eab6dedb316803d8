"""ModelInfer requests with one raw input, by what they have in common.

A client's requests to one model differ in the contents alone, which a message ends with. What stands before them, read
and checked once as any message is, says the same each time it comes: it is looked up, and only the contents are new.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gateway._generated import oip_pb2
from gateway.codecs.oip_proto import OipGrpcRequest, decode_request
from gateway.codecs.wire import fields
from gateway.core.contract import ContractOf, ModelContract
from gateway.core.errors import GatewayError
from gateway.core.messages import InferenceRequest
from gateway.core.tensor import Tensor

_CONTENTS = oip_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
# So many beginnings are remembered, of so many bytes at most: what clients choose must not fill the memory.
MAX_BEGINNINGS = 256
MAX_BEGINNING_BYTES = 1024
# Datatypes of which not every content is one.
_CHECKED = frozenset({"BOOL", "BYTES"})


class _Known(NamedTuple):
    """What a beginning says: a request without contents, and the contract that it was checked against."""

    request: InferenceRequest
    name: str
    datatype: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    nbytes: int
    contract: ModelContract


class RawRequests:
    """Decodes requests as `decode_request` does, and remembers the beginnings of those with one raw input."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}
        # The size of a whole message -> that of its beginning.
        self._ends: dict[int, int] = {}

    def decode(self, data: bytes, contract_of: ContractOf) -> OipGrpcRequest:
        """Raises as `decode_request` does."""
        end = self._ends.get(len(data))
        known = None if end is None else self._known.get(data[:end])
        if end is None or known is None:
            return self._read(data, contract_of)
        request, name, datatype, shape, dtype, nbytes, contract = known
        # Another message of this length may begin alike, and have other contents or more behind them.
        if len(data) - end != nbytes:
            return self._read(data, contract_of)
        # Another contract may want other inputs.
        if contract_of(request.model.name, request.model.signature_name) is not contract:
            return self._read(data, contract_of)
        inputs = (Tensor(name, datatype, np.ndarray(shape, dtype, data, end)),)
        return OipGrpcRequest(
            InferenceRequest(request.model, inputs, request.wanted, request.parameters, "", request.selection), True
        )

    def _read(self, data: bytes, contract_of: ContractOf) -> OipGrpcRequest:
        decoded = decode_request(data, contract_of)
        request = decoded.request
        # With an id of its own, a request has a beginning of its own.
        if decoded.raw and not request.id and len(request.inputs) == 1 and request.inputs[0].datatype not in _CHECKED:
            tensor, model = request.inputs[0], request.model
            end = len(data) - tensor.nbytes
            if end <= MAX_BEGINNING_BYTES and tensor.nbytes and _ends_with_contents(data, tensor.nbytes):
                if len(self._known) >= MAX_BEGINNINGS:
                    self._known.clear()
                    self._ends.clear()
                # Without its contents, which may be large.
                bare = InferenceRequest(model, (), request.wanted, request.parameters, "", request.selection)
                contract = contract_of(model.name, model.signature_name)
                self._known[data[:end]] = _Known(
                    bare, tensor.name, tensor.datatype, tensor.shape, tensor.array.dtype, tensor.nbytes, contract
                )
                self._ends[len(data)] = end
        return decoded


def _ends_with_contents(data: bytes, size: int) -> bool:
    """Whether a message's last field is its raw contents, which are `size` bytes: then all before it is its beginning,
    their tag and length included.
    """
    try:
        *_, (number, content) = fields(data, "ModelInferRequest")
    except GatewayError:
        # A field of a kind that protobuf knows and nobody uses any more.
        return False
    return number == _CONTENTS and len(content) == size
