"""Requests, responses and metadata of the data plane, after the Open Inference Protocol's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.core.tensor import Tensor

Parameter = bool | int | float | str


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model is asked for. Without version and label the server's own policy chooses."""

    name: str
    version: int | None = None
    label: str | None = None
    signature_name: str | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Where a client wants its request answered; a named stack or endpoint always wins over policy."""

    stack: str | None = None
    endpoint: str | None = None
    variant: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class InferenceRequest:
    """One inference. `wanted` names the outputs asked for; empty means all of them."""

    model: ModelSpec
    inputs: tuple[Tensor, ...]
    wanted: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    id: str = ""
    selection: Selection = Selection()


@dataclass(frozen=True, slots=True)
class ServedBy:
    """What gave an answer; `server` is the program that really ran, with its version."""

    endpoint: str
    stack: str
    server: str
    version: int | None

    def header(self) -> str:
        """The value of `x-served-by`, over HTTP and as gRPC trailing metadata."""
        text = f'endpoint={self.endpoint}; stack={self.stack}; server="{self.server}"'
        return text if self.version is None else f"{text}; version={self.version}"


@dataclass(frozen=True, slots=True, eq=False)
class InferenceResponse:
    """The outputs of one inference. A backend leaves `served_by` out; the router sets it."""

    model: str
    version: int | None
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    id: str = ""
    served_by: ServedBy | None = None


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
class TensorSpec:
    """Name, datatype and shape of an input or output; -1 marks a variable dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]

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
