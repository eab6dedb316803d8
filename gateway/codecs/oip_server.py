"""What an Open Inference Protocol server says of itself and of its models, in neither transport's form.

The protocol's versions are free strings, or left out; the gateway's are whole numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.codecs.fields import shown
from gateway.codecs.replies import bad_reply
from gateway.core.messages import ModelMetadata, TensorSpec
from gateway.core.tensor import DATATYPES, MAX_RANK

SERVER = "the OIP server"
# The extension of `GET /v2` by which tensors may follow the JSON as raw bytes.
BINARY = "binary_tensor_data"
UNVERSIONED = 1

# Versions of one model that are known, its newest: each is asked whether it is ready.
MAX_VERSIONS = 256
# What a dimension may be at most, in the protocol's own int64.
_MAX_DIM = 2**63 - 1

# States of a model that cannot answer, nor will soon (Triton's extension_model_repository.md).
_GONE = frozenset({"UNAVAILABLE", "UNLOADING"})

# `1.0` is how TorchServe's archiver writes version 1.
_VERSION = re.compile(r"([0-9]{1,18})(\.0)?")


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """The answer to a server metadata request."""

    name: str
    version: str
    extensions: frozenset[str]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The answer to a model metadata request: the server's spelling of each version, and the tensors.

    `versions` is empty for a model without whole-number versions; `metadata` is None where it describes no tensors.
    """

    versions: Mapping[int, str]
    metadata: ModelMetadata | None


def version_of(text: str) -> int | None:
    """The number of a version as a server spells it; None where it is none."""
    match = _VERSION.fullmatch(text)
    return None if match is None else int(match[1])


def listed(entries: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The models of a repository index, given as (name, state): those with a version that is not UNAVAILABLE.

    An index names models too that were never loaded, or were unloaded; servers that load none at run time state none.
    """
    return tuple(dict.fromkeys(name for name, state in entries if name and state not in _GONE))


def served_model(
    name: str,
    versions: Iterable[str],
    platform: str,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> ServedModel:
    """A model by its metadata; a custom runtime may describe no tensors, or one side only.

    Raises UPSTREAM_BAD_REPLY for a tensor that no request could have.
    """
    for spec in (*inputs, *outputs):
        _check(spec)
    spellings: dict[int, str] = {}
    for spelling in versions:
        number = version_of(spelling)
        if number is not None:
            spellings.setdefault(number, spelling)
    newest = sorted(spellings, reverse=True)[:MAX_VERSIONS]
    numbers = tuple(newest) or (UNVERSIONED,)
    described = inputs and outputs
    known = {number: spellings[number] for number in newest}
    return ServedModel(known, ModelMetadata(name, numbers, platform, inputs, outputs) if described else None)


def _check(spec: TensorSpec) -> None:
    what = f"it describes tensor '{shown(spec.name)}' with"
    if spec.datatype not in DATATYPES:
        raise bad_reply(SERVER, f"{what} the datatype '{shown(spec.datatype)}', which the protocol does not have")
    if len(spec.shape) > MAX_RANK:
        raise bad_reply(SERVER, f"{what} {len(spec.shape)} dimensions; at most {MAX_RANK} are supported")
    if any(dim > _MAX_DIM for dim in spec.shape):
        raise bad_reply(SERVER, f"{what} a dimension beyond 64 bits")
