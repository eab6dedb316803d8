"""Many requests as one, and one answer as many. Pure: rows in, rows out, in order."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.core.tensor import Tensor


def batch_key(request: InferenceRequest) -> Hashable:
    """What two requests to the same target must share to travel together: all that shapes their answers but the rows.

    The inputs are in the contract's order by now, so that names, datatypes and trailing shapes line up.
    """
    spec = request.model
    return (
        spec.version,
        spec.signature_name,
        tuple([(tensor.name, tensor.datatype, tensor.array.shape[1:]) for tensor in request.inputs]),
        request.wanted,
        # With their types, since 1 equals 1.0 and true.
        frozenset([(name, type(value), value) for name, value in request.parameters.items()])
        if request.parameters
        else None,
    )


def rows_of(request: InferenceRequest) -> int:
    """The rows of a request whose contract says that dimension 0 is the batch."""
    return int(request.inputs[0].array.shape[0])


def bytes_of(request: InferenceRequest) -> int:
    """Bytes of all inputs."""
    return sum([tensor.nbytes for tensor in request.inputs])


def joined(requests: Sequence[InferenceRequest]) -> InferenceRequest:
    """One request with the rows of all, in order. They share a `batch_key`; id and selection are the first's."""
    first = requests[0]
    columns = zip(*(request.inputs for request in requests), strict=True)
    return replace(
        first,
        inputs=tuple(
            Tensor(column[0].name, column[0].datatype, np.concatenate([tensor.array for tensor in column]))
            for column in columns
        ),
    )


def split(response: InferenceResponse, rows: Sequence[int]) -> list[InferenceResponse]:
    """One response per request, with its own rows: views, nothing is copied.

    Raises UPSTREAM_BAD_REPLY where an output does not have as many rows as were sent.
    """
    total = sum(rows)
    for tensor in response.outputs:
        if not tensor.shape or tensor.shape[0] != total:
            raise GatewayError(
                Cause.UPSTREAM_BAD_REPLY,
                f"output '{tensor.name}' has shape {list(tensor.shape)} for a batch of {total} rows",
            )
    parts = []
    begin = 0
    for count in rows:
        end = begin + count
        outputs = tuple([Tensor(item.name, item.datatype, item.array[begin:end]) for item in response.outputs])
        # Made by hand, since dataclasses.replace costs several times as much, for every member.
        parts.append(
            InferenceResponse(
                response.model,
                response.version,
                outputs,
                response.parameters,
                response.id,
                response.served_by,
                response.comparison,
            )
        )
        begin = end
    return parts
