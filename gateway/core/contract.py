"""The data contract of a model: what goes in, what comes out, and how far two variants may differ.

Written as `contract.json` when a model is exported; read by the gateway, the TorchServe handler, the load
tests and the parity check.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import Bounds, InferenceRequest, InferenceResponse, ModelMetadata, TensorSpec
from gateway.core.tensor import DATATYPES, MAX_RANK, Tensor, all_finite

SCHEMA = 1
# Of a contract that was synthesised: what its server takes at once is not known, and not ours to limit.
UNCAPPED = 2**31 - 1
# What numpy orders by value; of BF16 an array holds the bits.
BOUNDED = frozenset(DATATYPES) - {"BOOL", "BYTES", "BF16"}


class ContractError(ValueError):
    """Raised when a contract file is not one, naming the file's field and what was expected."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Two outputs agree where |a - b| <= atol + rtol * |b|."""

    atol: float = 1e-5
    rtol: float = 1e-5


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the variants' outputs were apart on the test set, measured at export.

    `max_scaled` is max |a - b| / (1 + |b|); `argmax_agreement` is a share of 1, None for a regression.
    """

    passed: bool
    max_abs: float
    max_scaled: float
    argmax_agreement: float | None = None


@dataclass(frozen=True, slots=True)
class Quality:
    """What a quantized or pruned variant is held to in the tolerance's place, by the model's own metric.

    `original` is the trained network's on the test set, `least` what the variant must reach, `measured` what it does;
    of a classification, `argmax_agreement_least` is the share of rows that must keep the original's class.
    """

    metric: str
    original: float
    least: float
    argmax_agreement_least: float | None = None
    measured: float | None = None


@dataclass(frozen=True, slots=True)
class ModelContract:
    """One model's tensors and limits. `batch_cap` is None where dimension 0 is not a batch.

    `variants` maps the name of an export to the stack that serves it; `quality` is None where the tolerance holds.
    `synthesised` from a server's own metadata, it only supposes that a variable dimension 0 is a batch: neither
    requests nor answers are held to that.
    """

    name: str
    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_cap: int | None = None
    finite: Literal["required", "allowed"] = "required"
    class_labels: tuple[str, ...] = ()
    tolerance: Tolerance = Tolerance()
    parity: Parity | None = None
    variants: Mapping[str, str] | None = None
    synthesised: bool = False
    quality: Quality | None = None

    @classmethod
    def of(cls, name: str, metadata: ModelMetadata) -> ModelContract:
        """The contract that a server's own metadata amounts to, for a model called `name` here."""
        specs = (*metadata.inputs, *metadata.outputs)
        batched = all(spec.ranked and spec.shape[:1] == (-1,) for spec in specs)
        return cls(
            name=name,
            version=next(iter(metadata.versions), 1),
            inputs=metadata.inputs,
            outputs=metadata.outputs,
            batch_cap=UNCAPPED if batched else None,
            finite="allowed",
            synthesised=True,
        )

    def to_json(self) -> str:
        """The text of `contract.json`."""
        document: dict[str, Any] = {"schema": SCHEMA, **asdict(self)}
        del document["synthesised"]
        if self.quality is None:
            del document["quality"]
        for side in ("inputs", "outputs"):
            document[side] = [{**spec.as_json(), **_bounds_json(spec)} for spec in getattr(self, side)]
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "contract.json") -> ModelContract:
        """Reads `contract.json`; raises ContractError naming `source` and the field at fault."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise ContractError(f"{source}: not JSON: {exc}") from exc
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ContractError(f"{source}: expected an object with schema {SCHEMA}")
        try:
            parity, quality = document.get("parity"), document.get("quality")
            contract = cls(
                name=str(document["name"]),
                version=int(document["version"]),
                inputs=_specs(document, "inputs"),
                outputs=_specs(document, "outputs"),
                batch_cap=document.get("batch_cap"),
                finite=cast(Literal["required", "allowed"], document.get("finite", "required")),
                class_labels=tuple(document.get("class_labels") or ()),
                tolerance=Tolerance(**(document.get("tolerance") or {})),
                parity=Parity(**parity) if parity else None,
                variants=document.get("variants"),
                quality=Quality(**quality) if quality else None,
            )
        except KeyError as exc:
            raise ContractError(f"{source}: field {exc} is missing") from exc
        except (TypeError, ValueError, OverflowError) as exc:
            raise ContractError(f"{source}: {exc}") from exc
        if contract.finite not in ("required", "allowed"):
            raise ContractError(f"{source}: finite is '{contract.finite}'; expected 'required' or 'allowed'")
        return contract

    @classmethod
    def load(cls, path: Path) -> ModelContract:
        """Reads the file at `path`; raises ContractError where it is missing or not a contract."""
        try:
            return cls.from_json(path.read_bytes(), str(path))
        except OSError as exc:
            raise ContractError(f"{path}: {exc.strerror}; `twinserve models build` writes contracts") from exc

    def renamed(self, names: Mapping[str, str]) -> ModelContract:
        """The same contract in a server's own tensor names; `names` maps ours to theirs, where they differ."""

        def theirs(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
            return tuple(replace(spec, name=names.get(spec.name, spec.name)) for spec in specs)

        return replace(self, inputs=theirs(self.inputs), outputs=theirs(self.outputs))

    def metadata(self, versions: tuple[int, ...]) -> ModelMetadata:
        """The model metadata that clients see."""
        return ModelMetadata(self.name, versions, "twinserve", self.inputs, self.outputs)

    def input(self, name: str) -> TensorSpec:
        """The input called `name`; raises INVALID_INPUT listing the inputs there are."""
        for spec in self.inputs:
            if spec.name == name:
                return spec
        expected = ", ".join(f"'{spec.name}'" for spec in self.inputs)
        raise GatewayError(
            Cause.INVALID_INPUT, f"model '{self.name}' has no input '{name[:64]}'; its inputs are {expected}"
        )

    def check_request(self, request: InferenceRequest) -> InferenceRequest:
        """The request with its inputs in the contract's order; raises INVALID_INPUT naming what does not fit."""
        inputs = request.inputs
        if len(inputs) == len(self.inputs) == 1 and inputs[0].name == self.inputs[0].name and not request.wanted:
            # What most models and requests are: in order as they are, once their input is.
            if not self._is_plain_input(inputs[0]):
                self._check_input(inputs[0])
            return request
        by_name: dict[str, Tensor] = {}
        for tensor in inputs:
            if tensor.name in by_name:
                raise GatewayError(Cause.INVALID_INPUT, f"input '{tensor.name}' is given twice")
            by_name[tensor.name] = tensor
            self._check_input(tensor)
        for spec in self.inputs:
            if spec.name not in by_name:
                raise GatewayError(
                    Cause.INVALID_INPUT,
                    f"input '{spec.name}' is missing; model '{self.name}' expects {_described(spec)}",
                )
        self._check_batch(inputs)
        known = {spec.name for spec in self.outputs} if request.wanted else set[str]()
        for name in request.wanted:
            if name not in known:
                expected = ", ".join(f"'{name}'" for name in sorted(known))
                raise GatewayError(
                    Cause.INVALID_INPUT, f"model '{self.name}' has no output '{name[:64]}'; its outputs are {expected}"
                )
        ordered = tuple([by_name[spec.name] for spec in self.inputs])
        return request if ordered == inputs else replace(request, inputs=ordered)

    def check_response(self, request: InferenceRequest, response: InferenceResponse) -> InferenceResponse:
        """The response with the wanted outputs in order; raises UPSTREAM_BAD_REPLY where it breaks the contract."""
        if len(response.outputs) == len(self.outputs) == 1 and self._is_only_output(request, response.outputs[0]):
            return response
        by_name = {tensor.name: tensor for tensor in response.outputs}
        wanted = request.wanted or tuple(spec.name for spec in self.outputs)
        specs = {spec.name: spec for spec in self.outputs}
        outputs = []
        for name in wanted:
            tensor = by_name.get(name)
            if tensor is None:
                raise _bad_reply(self.name, f"output '{name}' is missing")
            spec = specs[name]
            if tensor.datatype != spec.datatype or not spec.fits(tensor.shape):
                raise _bad_reply(
                    self.name,
                    f"output '{name}' is {tensor.datatype} {list(tensor.shape)}; the contract says {_described(spec)}",
                )
            if self._counts_rows and tensor.shape[0] != request.inputs[0].shape[0]:
                raise _bad_reply(
                    self.name, f"output '{name}' has {tensor.shape[0]} rows for {request.inputs[0].shape[0]} asked"
                )
            if self.finite == "required" and not all_finite(tensor):
                raise _bad_reply(self.name, f"output '{name}' holds NaN or infinity")
            outputs.append(tensor)
        return response if tuple(outputs) == response.outputs else replace(response, outputs=tuple(outputs))

    def _is_plain_input(self, tensor: Tensor) -> bool:
        """Whether a tensor with the name of the contract's only input is certainly what `_check_input` lets through."""
        spec, shape = self.inputs[0], tensor.array.shape
        return (
            tensor.datatype == spec.datatype
            and spec.bounds is None
            and spec.fits(shape)
            and (self.batch_cap is None or not shape or shape[0] <= self.batch_cap)
            and (self.finite != "required" or all_finite(tensor))
        )

    def _is_only_output(self, request: InferenceRequest, tensor: Tensor) -> bool:
        """Whether a reply's only tensor is certainly all that was wanted of the contract's only output."""
        spec, shape = self.outputs[0], tensor.shape
        return (
            not request.wanted
            and tensor.name == spec.name
            and tensor.datatype == spec.datatype
            and spec.fits(shape)
            and not (self._counts_rows and shape[0] != request.inputs[0].shape[0])
            and (self.finite != "required" or all_finite(tensor))
        )

    def differences(self, metadata: ModelMetadata) -> list[str]:
        """Where a backend's own metadata disagrees with this contract, both sides named; empty where it agrees."""
        found = []
        for side, ours, theirs in (
            ("input", self.inputs, metadata.inputs),
            ("output", self.outputs, metadata.outputs),
        ):
            others = {spec.name: spec for spec in theirs}
            for spec in ours:
                other = others.pop(spec.name, None)
                if other is None:
                    found.append(f"{side} '{spec.name}': the contract has {_described(spec)}, the server has none")
                elif not spec.agrees(other):
                    found.append(
                        f"{side} '{spec.name}': the contract has {_described(spec)}, the server {_described(other)}"
                    )
            found += [
                f"{side} '{name}': unknown to the contract, the server has {_described(other)}"
                for name, other in others.items()
                if side == "input"
            ]
        return found

    def check_declared(self, name: str, datatype: str, shape: Sequence[int]) -> TensorSpec:
        """The input that a request declares; raises INVALID_INPUT where name, datatype or shape are not its.

        Front ends whose wire form declares tensors ask before they build arrays of what was sent.
        """
        spec = self.input(name)
        if datatype != spec.datatype:
            raise GatewayError(Cause.INVALID_INPUT, f"input '{name}' is {datatype[:32]}; expected {spec.datatype}")
        if not spec.fits(shape):
            shown = str(list(shape[:MAX_RANK]))
            raise GatewayError(
                Cause.INVALID_INPUT,
                f"input '{name}' has shape {shown}; expected {list(spec.shape)} (-1: any size)",
            )
        if spec.bounds is not None:
            _check_sizes(spec.name, spec.bounds, shape)
        if self.batch_cap is not None and shape and shape[0] > self.batch_cap:
            raise GatewayError(
                Cause.INVALID_INPUT, f"{shape[0]} rows; model '{self.name}' takes at most {self.batch_cap} a request"
            )
        return spec

    def _check_input(self, tensor: Tensor) -> None:
        spec = self.check_declared(tensor.name, tensor.datatype, tensor.shape)
        if self.finite == "required" and not all_finite(tensor):
            raise GatewayError(
                Cause.INVALID_INPUT,
                f"input '{spec.name}' holds NaN or infinity; model '{self.name}' takes finite values",
            )
        if spec.bounds is not None:
            _check_values(spec.bounds, tensor)

    @property
    def _counts_rows(self) -> bool:
        return self.batch_cap is not None and not self.synthesised

    def _check_batch(self, inputs: Sequence[Tensor]) -> None:
        if not self._counts_rows:
            return
        rows = {tensor.shape[0] for tensor in inputs} if len(inputs) > 1 else set[int]()
        if len(rows) > 1:
            raise GatewayError(Cause.INVALID_INPUT, f"inputs differ in rows: {sorted(rows)}; dimension 0 is the batch")


class ContractOf(Protocol):
    """How a codec asks for a model's contract."""

    def __call__(self, model: str, signature: str | None = None, /) -> ModelContract:
        """The contract of a model's signature, None for the default; raises MODEL_NOT_FOUND, SIGNATURE_NOT_FOUND."""
        ...


def _specs(document: Mapping[str, Any], side: str) -> tuple[TensorSpec, ...]:
    specs = []
    for item in document[side]:
        if item["datatype"] not in DATATYPES:
            raise ContractError(f"{side}: unknown datatype '{item['datatype']}'")
        shape = tuple(int(dim) for dim in item["shape"])
        bounds = _bounds(item, len(shape)) if "bounds" in item else None
        specs.append(TensorSpec(str(item["name"]), item["datatype"], shape, bounds=bounds))
    if not specs:
        raise ContractError(f"{side}: at least one tensor is expected")
    return tuple(specs)


def _bounds(item: Mapping[str, Any], rank: int) -> Bounds:
    """The bounds of an input in `contract.json`; raises ContractError, and TypeError for a field that is none."""
    bounds = Bounds(**item["bounds"])
    values = [value for value in (bounds.least, bounds.most) if value is not None]
    if any(type(value) not in (int, float) for value in values) or values != sorted(values):
        raise ContractError(f"bounds of '{item['name']}': least and most are no numbers in order")
    if values and item["datatype"] not in BOUNDED:
        raise ContractError(f"bounds of '{item['name']}': {item['datatype']} has no least and most")
    if bounds.largest is None:
        return bounds
    largest = tuple(bounds.largest)
    if len(largest) != rank or any(type(size) is not int or size < -1 for size in largest):
        raise ContractError(f"bounds of '{item['name']}': largest is not one size for each of {rank} dimensions")
    return replace(bounds, largest=largest)


def _bounds_json(spec: TensorSpec) -> dict[str, Any]:
    if spec.bounds is None:
        return {}
    return {"bounds": {name: value for name, value in asdict(spec.bounds).items() if value is not None}}


def _check_sizes(name: str, bounds: Bounds, shape: Sequence[int]) -> None:
    for size, most in zip(shape, bounds.largest or (), strict=False):
        if most != -1 and size > most:
            largest = list(bounds.largest or ())
            raise GatewayError(
                Cause.INVALID_INPUT, f"input '{name}' has shape {list(shape)}; its largest is {largest} (-1: any size)"
            )


def _check_values(bounds: Bounds, tensor: Tensor) -> None:
    array = tensor.array
    if array.size == 0:
        return
    if bounds.least is not None and array.min() < bounds.least:
        raise GatewayError(
            Cause.INVALID_INPUT, f"input '{tensor.name}' holds {array.min()}; its least value is {bounds.least}"
        )
    if bounds.most is not None and array.max() > bounds.most:
        raise GatewayError(
            Cause.INVALID_INPUT, f"input '{tensor.name}' holds {array.max()}; its greatest value is {bounds.most}"
        )


def _described(spec: TensorSpec) -> str:
    return f"{spec.datatype} {list(spec.shape) if spec.ranked else 'of any shape'}"


def _bad_reply(model: str, what: str) -> GatewayError:
    return GatewayError(Cause.UPSTREAM_BAD_REPLY, f"the model server's reply for '{model}' breaks its contract: {what}")
