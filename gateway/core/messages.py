"""Requests, responses and metadata of the data plane, after the Open Inference Protocol's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.core.errors import Cause
from gateway.core.tensor import Tensor
from gateway.core.values import value_type

Parameter = bool | int | float | str

# TensorFlow Serving's word for what answers where no signature is named; whoever knows no signatures has this one.
DEFAULT_SIGNATURE = "serving_default"


@value_type(frozen=True, slots=True)
class ModelSpec:
    """Which model is asked for. Without version and label the server's own policy chooses."""

    name: str
    version: int | None = None
    label: str | None = None
    signature_name: str | None = None


@value_type(frozen=True, slots=True)
class Selection:
    """Where a client wants its request answered; a named stack or endpoint always wins over policy."""

    stack: str | None = None
    endpoint: str | None = None
    variant: str | None = None


# No selection: the policy of the model's route decides.
ANYWHERE = Selection()


@value_type(frozen=True, slots=True, eq=False)
class InferenceRequest:
    """One inference. `wanted` names the outputs asked for; empty means all of them."""

    model: ModelSpec
    inputs: tuple[Tensor, ...]
    wanted: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    id: str = ""
    selection: Selection = ANYWHERE


@value_type(frozen=True, slots=True)
class ServedBy:
    """What gave an answer; `server` is the program that really ran, with its version."""

    endpoint: str
    stack: str
    server: str
    version: int | None
    variant: str | None = None

    def header(self) -> str:
        """The value of `x-served-by`, over HTTP and as gRPC trailing metadata."""
        text = f'endpoint={self.endpoint}; stack={self.stack}; server="{self.server}"'
        if self.version is not None:
            text = f"{text}; version={self.version}"
        return text if self.variant is None else f"{text}; variant={self.variant}"


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """What one target gave in a comparison: an answer, or why there is none, after `seconds`.

    The differences are to the primary's answer, 0 for its own; see `gateway.routing.difference`.
    """

    endpoint: str
    stack: str
    seconds: float
    response: InferenceResponse | None
    cause: Cause | None = None
    detail: str = ""
    served_by: ServedBy | None = None
    max_abs: float = 0.0
    max_scaled: float = 0.0
    agrees: bool = True


@value_type(frozen=True, slots=True, eq=False)
class InferenceResponse:
    """The outputs of one inference. A backend leaves `served_by` out; the router sets it."""

    model: str
    version: int | None
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    id: str = ""
    served_by: ServedBy | None = None
    comparison: tuple[Compared, ...] = ()
    """What each target gave, the primary first, where the route's policy is `compare`."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of the repository index: a version that can answer, or a model without one and why (`reason`)."""

    name: str
    version: int | None
    reason: str = ""

    @property
    def state(self) -> str:
        """The state, in the words of the Open Inference Protocol's model repository extension."""
        return "UNAVAILABLE" if self.version is None else "READY"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an input may hold beyond its datatype, such as the ids of a vocabulary; None where nothing is said.

    `least` and `most` are values, both allowed; `largest` is the largest size of each dimension, -1 for any.
    """

    least: float | None = None
    most: float | None = None
    largest: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, datatype and shape of an input or output; -1 marks a variable dimension.

    Not `ranked`: TensorFlow knows not even the number of dimensions. Such a tensor may have any shape; told is [-1],
    since the Open Inference Protocol has no form for it. Only a contract's inputs may have `bounds`.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    ranked: bool = True
    bounds: Bounds | None = None

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape is one of these."""
        if not self.ranked:
            return True
        if len(shape) != len(self.shape):
            return False
        # A loop: of every request and reply, where a generator would take twice as long.
        for dim, want in zip(shape, self.shape, strict=True):  # noqa: SIM110
            if want not in (-1, dim):
                return False
        return True

    def agrees(self, other: TensorSpec) -> bool:
        """Whether both describe one tensor: what either side leaves open agrees with anything."""
        if self.datatype != other.datatype:
            return False
        if not (self.ranked and other.ranked):
            return True
        return len(self.shape) == len(other.shape) and all(
            -1 in (a, b) or a == b for a, b in zip(self.shape, other.shape, strict=True)
        )

    def as_json(self) -> dict[str, Any]:
        """The form that the Open Inference Protocol and `contract.json` share."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What the Open Inference Protocol calls model metadata."""

    name: str
    versions: tuple[int, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    properties: Mapping[str, str] = field(default_factory=dict)
