"""The frame that our TorchServe handler takes and gives: named tensors, which TorchServe itself does not know.

u32 little-endian header length, a JSON header, then the tensors' raw buffers in the header's order. The header is an
Open Inference Protocol request or response whose tensors state `binary_data_size` in place of data; a reply's header
may instead hold an error with its cause, since TorchServe loses a handler's status over gRPC.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import orjson

from gateway.codecs.replies import bad_reply, reading_reply
from gateway.core.errors import Cause, GatewayError, capped
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.core.tensor import from_raw, to_raw

SERVER = "TorchServe"
NO_VERSIONS: Mapping[str, int] = MappingProxyType({})

_LENGTH = struct.Struct("<I")
_ALIGNMENT = 8
# A model archived as 1.0, as TorchServe's own archiver does, is version 1.
_VERSION = re.compile(r"([0-9]{1,18})(\.0)?")
_ERRORS = {
    cause.value: cause
    for cause in (Cause.UNPARSEABLE, Cause.INVALID_INPUT, Cause.UNSUPPORTED_DATATYPE, Cause.UPSTREAM_FAILED)
}


def encode_frame(request: InferenceRequest) -> bytes:
    """The request as one frame."""
    buffers = [to_raw(tensor) for tensor in request.inputs]
    header: dict[str, Any] = {}
    if request.id:
        header["id"] = request.id
    if request.parameters:
        header["parameters"] = dict(request.parameters)
    header["inputs"] = [
        {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "datatype": tensor.datatype,
            "parameters": {"binary_data_size": len(buffer)},
        }
        for tensor, buffer in zip(request.inputs, buffers, strict=True)
    ]
    if request.wanted:
        header["outputs"] = [{"name": name} for name in request.wanted]
    text = orjson.dumps(header)
    # Spaces behind the JSON, so that the first buffer is aligned and the handler need not copy it.
    text += b" " * (-(_LENGTH.size + len(text)) % _ALIGNMENT)
    return b"".join([_LENGTH.pack(len(text)), text, *buffers])


def decode_frame(data: bytes, versions: Mapping[str, int] = NO_VERSIONS) -> InferenceResponse:
    """The response that a frame is. Its tensors are views of `data`: nothing is copied.

    `versions` are the numbers of version names that are none, such as `2024-05a`.
    Raises the frame's own error, or UPSTREAM_BAD_REPLY where it is no frame.
    """
    if len(data) < _LENGTH.size:
        raise bad_reply(SERVER, "it is shorter than a frame's header length; does the model run our handler?")
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    if end > len(data):
        raise bad_reply(SERVER, "its header is longer than the frame; does the model run our handler?")
    try:
        header = orjson.loads(memoryview(data)[_LENGTH.size : end])
    except orjson.JSONDecodeError:
        raise bad_reply(SERVER, "the frame's header is not JSON") from None
    if not isinstance(header, dict):
        raise bad_reply(SERVER, "the frame's header is not an object")
    if "error" in header:
        raise _error(header)
    try:
        model, outputs = header["model_name"], header["outputs"]
        described = [_description(output) for output in outputs]
    except (KeyError, TypeError, ValueError) as exc:
        raise bad_reply(SERVER, "the frame's header is not a response") from exc
    if not isinstance(model, str):
        raise bad_reply(SERVER, "the frame's header names no model")
    buffers = memoryview(data)[end:]
    if sum(size for *_, size in described) != len(buffers):
        raise bad_reply(SERVER, "the sizes of the frame's tensors do not add up to its length")
    tensors = []
    offset = 0
    with reading_reply(SERVER):
        for name, datatype, shape, size in described:
            tensors.append(from_raw(name, datatype, shape, buffers[offset : offset + size]))
            offset += size
    return InferenceResponse(
        model=model,
        version=_version(header.get("model_version"), versions),
        outputs=tuple(tensors),
        id=_id(header.get("id")),
    )


def _description(output: dict[str, Any]) -> tuple[str, str, tuple[int, ...], int]:
    """Name, datatype, shape and size in bytes; raises KeyError, TypeError, ValueError where one is missing or wrong."""
    name, datatype, shape = output["name"], output["datatype"], output["shape"]
    size = output["parameters"]["binary_data_size"]
    if not (isinstance(name, str) and isinstance(datatype, str) and isinstance(shape, list)):
        raise TypeError("name, datatype or shape")
    if any(type(number) is not int for number in [*shape, size]) or size < 0:
        raise ValueError("shape or size")
    return name, datatype, tuple(shape), size


def _version(value: object, versions: Mapping[str, int]) -> int | None:
    if isinstance(value, str) and value in versions:
        return versions[value]
    match = _VERSION.fullmatch(value) if isinstance(value, str) else None
    return None if match is None else int(match[1])


def _id(value: object) -> str:
    return value if isinstance(value, str) else ""


def _error(header: dict[str, Any]) -> GatewayError:
    text, cause = header["error"], _ERRORS.get(str(header.get("cause")))
    if not isinstance(text, str) or cause is None:
        return bad_reply(SERVER, "the frame's error has no text or no known cause")
    return GatewayError(cause, capped(text))
