"""How the handler of one model on a TorchServe is spoken to: in our own frame, in JSON, or in raw bytes.

TorchServe gives a handler whatever it was sent: a REST body as it is, a gRPC map with a key of the sender's choice. Its
handlers take one request as one item, so that a batch is either one request that holds all rows, or one request a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from gateway.codecs import torchserve
from gateway.codecs.torchserve_reply import BODY, ReplyReader, one_element
from gateway.codecs.torchserve_template import DEFAULT_BODY, BodyTemplate, names
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, TensorSpec
from gateway.core.tensor import NUMPY_DTYPE, Tensor, to_raw

JSON = "application/json"
OCTET_STREAM = "application/octet-stream"


class Payload(Protocol):
    """One handler's way of taking a request and answering it."""

    @property
    def content_type(self) -> str:
        """The content type of a REST body."""
        ...

    @property
    def grpc_key(self) -> str:
        """The key of the body in a gRPC request's map."""
        ...

    @property
    def states_version(self) -> bool:
        """Whether the answers name the version that gave them, as nothing else of TorchServe's does."""
        ...

    def requests(self, request: InferenceRequest) -> Sequence[InferenceRequest]:
        """The request in the parts that the handler takes, one TorchServe request each."""
        ...

    def encode(self, part: InferenceRequest) -> bytes:
        """The body of one part; raises UNSUPPORTED_DATATYPE for what it cannot hold."""
        ...

    def decode(self, reply: bytes, part: InferenceRequest) -> InferenceResponse:
        """The answer to one part; raises UPSTREAM_BAD_REPLY, or the error that the answer is."""
        ...

    def joined(self, responses: Sequence[InferenceResponse], request: InferenceRequest) -> InferenceResponse:
        """The answer to the whole request, from those to its parts."""
        ...


@dataclass(frozen=True, slots=True)
class Framed:
    """Our own handler's frame. `versions` numbers the version names that are none."""

    versions: Mapping[str, int] = field(default_factory=dict)
    content_type: str = OCTET_STREAM
    grpc_key: str = "frame"
    states_version: bool = True

    def requests(self, request: InferenceRequest) -> Sequence[InferenceRequest]:
        """The request: a frame holds any batch."""
        return (request,)

    def encode(self, part: InferenceRequest) -> bytes:
        """The frame."""
        return torchserve.encode_frame(part)

    def decode(self, reply: bytes, part: InferenceRequest) -> InferenceResponse:
        """The frame's response; raises its error with the cause that the handler gave it."""
        found = torchserve.decode_frame(reply, self.versions)
        return InferenceResponse(found.model, found.version, found.outputs, id=part.id)

    def joined(self, responses: Sequence[InferenceResponse], request: InferenceRequest) -> InferenceResponse:
        """The one response."""
        return responses[0]


@dataclass(frozen=True, slots=True)
class Foreign:
    """A handler not ours, whose model `contract` describes in the server's own names.

    `body` makes the bytes of one request; `rows` sends each row in a request of its own.
    """

    contract: ModelContract
    body: Callable[[InferenceRequest], bytes]
    reader: ReplyReader
    rows: bool
    content_type: str
    grpc_key: str
    states_version: bool = False

    def requests(self, request: InferenceRequest) -> Sequence[InferenceRequest]:
        """One request a row, or the request itself."""
        if not self.rows:
            return (request,)
        return [_row(request, number) for number in range(request.inputs[0].shape[0])]

    def encode(self, part: InferenceRequest) -> bytes:
        """The body; raises UNSUPPORTED_DATATYPE for what it cannot hold."""
        return self.body(part)

    def decode(self, reply: bytes, part: InferenceRequest) -> InferenceResponse:
        """The contract's outputs, from whatever the handler gave; the version is the one that was asked."""
        rows = None if self.contract.batch_cap is None else part.inputs[0].shape[0]
        outputs = self.reader.read(reply, rows)
        return InferenceResponse(model=part.model.name, version=part.model.version, outputs=outputs, id=part.id)

    def joined(self, responses: Sequence[InferenceResponse], request: InferenceRequest) -> InferenceResponse:
        """All rows' answers as one; raises UPSTREAM_BAD_REPLY where they differ in shape."""
        if len(responses) == 1:
            return responses[0]
        model = request.model
        if not responses:
            return InferenceResponse(
                model.name, model.version, tuple(map(_empty, self.contract.outputs)), id=request.id
            )
        columns = [
            _stacked(spec, [response.outputs[index] for response in responses])
            for index, spec in enumerate(self.contract.outputs)
        ]
        return replace(responses[0], outputs=tuple(columns))


def payload_of(
    contract: ModelContract,
    *,
    payload: str = "framed",
    template: object = None,
    reply: object = None,
    batch: str | None = None,
    content_type: str | None = None,
    grpc_key: str | None = None,
    versions: Mapping[str, int] | None = None,
) -> Payload:
    """The payload of the model that `contract` describes in the server's own names, by an endpoint's settings.

    Raises ValueError where they do not fit the contract, saying what to write.
    """
    if payload == "framed":
        return Framed(versions or {})
    batched = contract.batch_cap is not None
    if batch == "rows" and not batched:
        raise ValueError("batch: rows needs a contract with batch_cap; leave batch out")
    if payload == "json":
        rows = batch == "rows"
        body = BodyTemplate(
            DEFAULT_BODY if template is None else template, contract.inputs, batched=batched, one_row=rows
        ).body
        return Foreign(contract, body, ReplyReader(reply, contract), rows, JSON, grpc_key or "data")
    _check_raw(contract)
    rows = batched and batch != "whole"
    if reply is None and len(contract.outputs) == 1 and one_element(contract.outputs[0]):
        reply = BODY
    return Foreign(contract, _raw, ReplyReader(reply, contract), rows, content_type or OCTET_STREAM, grpc_key or "data")


def _check_raw(contract: ModelContract) -> None:
    if len(contract.inputs) > 1:
        raise ValueError(
            f"payload raw sends one input, and the contract has {names(contract.inputs)}; write payload: json"
        )
    spec = contract.inputs[0]
    if spec.datatype == "BYTES" and not one_element(spec):
        raise ValueError(
            f"payload raw sends one BYTES element, and input '{spec.name}' has the shape {list(spec.shape)}; "
            "expected -1 or 1 in each dimension, or payload: json"
        )


def _raw(part: InferenceRequest) -> bytes:
    """The one BYTES element as it is, or the raw little-endian values of a tensor of fixed width."""
    tensor = part.inputs[0]
    if tensor.datatype != "BYTES":
        return bytes(to_raw(tensor))
    if tensor.array.size != 1:
        raise GatewayError(
            Cause.UNSUPPORTED_DATATYPE,
            f"input '{tensor.name}' has {tensor.array.size} elements where this model's server takes one a request",
        )
    element: bytes = tensor.array.flat[0]
    return element


def _row(request: InferenceRequest, number: int) -> InferenceRequest:
    inputs = [Tensor(item.name, item.datatype, item.array[number : number + 1]) for item in request.inputs]
    return replace(request, inputs=tuple(inputs))


def _stacked(spec: TensorSpec, parts: Sequence[Tensor]) -> Tensor:
    if len({part.shape[1:] for part in parts}) > 1 or not parts[0].shape:
        raise GatewayError(
            Cause.UPSTREAM_BAD_REPLY,
            f"the answers to the rows of one batch differ in the shape of output '{spec.name}'",
        )
    return Tensor(spec.name, spec.datatype, np.concatenate([part.array for part in parts]))


def _empty(spec: TensorSpec) -> Tensor:
    """An output of no rows."""
    shape = (0, *(max(dim, 0) for dim in spec.shape[1:]))
    return Tensor(spec.name, spec.datatype, np.empty(shape, NUMPY_DTYPE[spec.datatype]))
