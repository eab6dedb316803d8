"""TF Serving's REST as clients speak it: bodies of `:predict` into tensors, and answers in the form that was asked.

Rules are those of model_servers/http_rest_api_handler.cc and util/json_tensor.cc, texts too, but that no value is
repeated in a text, and that nothing is rounded into a datatype or wrapped around.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from gateway.codecs.fields import shown
from gateway.codecs.json_array import JsonArray
from gateway.codecs.json_document import (
    MAX_DEPTH,
    MAX_ITEMS,
    SURROGATE,
    JsonObject,
    JsonValue,
    parse_object,
    plain,
    too_many_items,
    unique_members,
)
from gateway.codecs.json_small import small_value
from gateway.codecs.json_tensors import elements, finite_in, flatten, written
from gateway.codecs.tfserving_words import NOT_IN_JSON, is_base64, unlike_value, unlike_values
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceResponse, TensorSpec
from gateway.core.tensor import NDArray, Tensor, all_finite

INSTANCES = "instances"
INPUTS = "inputs"
SIGNATURE_NAME = "signature_name"

# An output whose name ends so holds bytes rather than text.
_BYTES_SUFFIX = "_bytes"
_PARSE_ERROR = "JSON Parse error: "
_INFINITY = re.compile(r'("(?:[^"\\]++|\\.)*+(?:"|\\?\Z))|\bInf\b', re.DOTALL)


class UnsupportedOutputError(GatewayError):
    """An output that TF Serving's JSON cannot carry: it answers 400, and 501 where an input is such."""

    def __init__(self, detail: str) -> None:
        super().__init__(Cause.UNSUPPORTED_DATATYPE, detail)


@dataclass(frozen=True, slots=True)
class PredictBody:
    """A body as far as it can be read without its model. `strict` means RFC 8259: no NaN or Infinity is in it.

    `text` is what was read the fast way, and is read again where it is to be refused: see `json_document.read_object`.
    """

    document: JsonObject
    signature_name: str
    strict: bool
    text: bytes | None = None

    @property
    def row(self) -> bool:
        """Whether the answer goes in row form, as `predictions`."""
        return INSTANCES in self.document

    def tensors(self, contract: ModelContract) -> tuple[Tensor, ...]:
        """The inputs, by the contract's names and datatypes; whether shapes fit is the contract's question.

        Raises INVALID_INPUT, and UNSUPPORTED_DATATYPE for an input that TF Serving's JSON cannot carry.
        """
        try:
            return self._inputs(contract)
        except GatewayError:
            if self.text is None:
                raise
        return _parsed(self.text).tensors(contract)

    def _inputs(self, contract: ModelContract) -> tuple[Tensor, ...]:
        specs = {spec.name: spec for spec in contract.inputs}
        if INSTANCES not in self.document:
            if INPUTS not in self.document:
                raise _invalid("Missing 'inputs' or 'instances' key")
            return self._columns(self.document[INPUTS], specs)
        if INPUTS in self.document:
            raise _invalid(
                "JSON Value: ... Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
            )
        return self._rows(self.document[INSTANCES], specs)

    def _columns(self, value: JsonValue, specs: Mapping[str, TensorSpec]) -> tuple[Tensor, ...]:
        if not isinstance(value, dict) or is_base64(value):
            if len(specs) > 1:
                raise _invalid(
                    "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                    "tensorinfo_map"
                )
            return tuple(self._tensor(value, spec) for spec in specs.values())
        for name in specs:
            if name not in value:
                raise _invalid(f"Missing named input: {name} in 'inputs' object.")
        return tuple(self._tensor(value[name], spec) for name, spec in specs.items())

    def _rows(self, instances: JsonValue, specs: Mapping[str, TensorSpec]) -> tuple[Tensor, ...]:
        if not isinstance(instances, (JsonArray, list)):
            raise _invalid("JSON Value: ... Expecting 'instances' to be an list/array")
        if (instances.shape[0] if isinstance(instances, JsonArray) else len(instances)) == 0:
            raise _invalid("JSON Value: ... No values in 'instances' array")
        if isinstance(instances, JsonArray) or not _named(instances[0]):
            if len(specs) > 1:
                raise _invalid(
                    "instances is a plain list, but expecting list of objects as multiple input tensors required as "
                    "per tensorinfo_map"
                )
            _refuse_objects(instances)
            return tuple(self._tensor(instances, spec, "") for spec in specs.values())
        for index, instance in enumerate(instances):
            _check_row(index, instance, specs)
        return tuple(self._tensor([row[name] for row in instances], spec, name) for name, spec in specs.items())

    def _tensor(self, value: JsonValue, spec: TensorSpec, key: str | None = None) -> Tensor:
        """The tensor of an input; `key` is None for a column, else what rows call the input, "" where they do not."""
        if spec.datatype in NOT_IN_JSON:
            raise GatewayError(
                Cause.UNSUPPORTED_DATATYPE,
                f"Conversion of JSON Value: ... to type: {NOT_IN_JSON[spec.datatype]} "
                f"(input '{spec.name}'); gRPC carries it",
            )
        try:
            if spec.datatype == "BYTES":
                flat, shape = _texts(value, spec.name)
            else:
                flat, shape = _numbers(value, spec, finite=self.strict)
        except GatewayError as exc:
            if exc.cause is not Cause.INVALID_INPUT:
                raise
            found: Any = plain(value)
            reason = unlike_value(found, spec) if key is None else unlike_values(found, spec, key)
            raise _invalid(exc.detail if reason is None else reason) from exc
        if shape and shape[-1] == 0:
            shape += tuple(max(dim, 0) for dim in spec.shape[len(shape) :])
        return Tensor(spec.name, spec.datatype, flat.reshape(shape))


def parse(body: bytes) -> PredictBody:
    """Reads a body's JSON; TF Serving's own takes NaN, Inf and Infinity, and ends where the first value does.

    Raises UNPARSEABLE where it is not JSON, nested too deep or repeats a key; INVALID_INPUT where it is no object.
    """
    document = small_value(body)
    if type(document) is dict:
        name = document.get(SIGNATURE_NAME, "")
        if type(name) is str:
            return PredictBody(document, name, strict=True, text=body)
    return _parsed(body)


def _parsed(body: bytes) -> PredictBody:
    if not body.strip():
        raise GatewayError(Cause.UNPARSEABLE, f"{_PARSE_ERROR}The document is empty")
    strict = True
    try:
        document = parse_object(body)
    except GatewayError as exc:
        if exc.cause is not Cause.UNPARSEABLE:
            raise _in_words(exc) from exc
        document, strict = _lenient(body), False
    name = document.get(SIGNATURE_NAME, "")
    if not isinstance(name, str):
        raise _invalid("JSON Value: ... not formatted correctly. 'signature_name' key must be a string value.")
    return PredictBody(document, name, strict)


def encode_response(response: InferenceResponse, *, row: bool) -> bytes:
    """`{"predictions": [...]}` or `{"outputs": ...}`; one output goes without its name. NaN are bare tokens.

    Raises INVALID_INPUT where outputs have no rows in common, UnsupportedOutputError for what this JSON cannot carry.
    """
    if row:
        _check_rows(response.outputs)
    name = "predictions" if row else "outputs"
    outputs = response.outputs
    text = orjson.dumps(
        {name: _answer({tensor.name: _written(tensor) for tensor in outputs}, row)}, option=orjson.OPT_SERIALIZE_NUMPY
    )
    if finite_in(text, outputs):
        return text
    # orjson writes null for NaN; Python's json has TF Serving's own spelling.
    values = {tensor.name: _written(tensor) if all_finite(tensor) else tensor.array for tensor in outputs}
    return json.dumps({name: _answer(values, row)}, default=_as_list).encode()


def _answer(values: dict[str, Any], row: bool) -> Any:  # noqa: ANN401 - whatever JSON holds
    """One output's bare value; of several an object by name, for each row where rows are asked for."""
    if len(values) == 1:
        return next(iter(values.values()))
    return [dict(zip(values, items, strict=True)) for items in zip(*values.values(), strict=True)] if row else values


def _lenient(body: bytes) -> JsonObject:
    try:
        text = body.decode().lstrip(" \t\r\n")
        if "Inf" in text:
            text = _INFINITY.sub(lambda found: found[1] or "Infinity", text)
        if text.count("{") > MAX_ITEMS:
            raise too_many_items()
        document, _ = _DECODER.raw_decode(text)
    except RecursionError:
        raise _too_deep() from None
    except UnicodeDecodeError as exc:
        raise GatewayError(
            Cause.UNPARSEABLE, f"{_PARSE_ERROR}Invalid encoding in string. at offset: {exc.start}"
        ) from None
    except json.JSONDecodeError as exc:
        raise GatewayError(Cause.UNPARSEABLE, f"{_PARSE_ERROR}{exc.msg}. at offset: {exc.pos}") from None
    except ValueError:  # Python refuses integers of thousands of digits
        raise _too_big() from None
    if not isinstance(document, dict):
        raise _invalid("JSON Value: ... Is not object")
    _check_depth(document)
    if SURROGATE.search(text):
        try:
            # Halves of surrogate pairs are no text that a tensor could hold.
            json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise GatewayError(Cause.UNPARSEABLE, f"{_PARSE_ERROR}The surrogate pair in string is invalid.") from None
    return document


def _check_depth(document: JsonObject) -> None:
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for value in level
            for item in (value.values() if type(value) is dict else value)
            if type(item) is list or type(item) is dict
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> GatewayError:
    return GatewayError(Cause.UNPARSEABLE, f"{_PARSE_ERROR}nested deeper than {MAX_DEPTH} levels.")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _too_big()
    return number


_DECODER = json.JSONDecoder(parse_float=_float, object_pairs_hook=unique_members)


def _too_big() -> GatewayError:
    return GatewayError(Cause.UNPARSEABLE, f"{_PARSE_ERROR}Number too big to be stored in double.")


def _in_words(error: GatewayError) -> GatewayError:
    if "not an object" in error.detail:
        return _invalid("JSON Value: ... Is not object")
    return GatewayError(error.cause, f"{_PARSE_ERROR}{error.detail}")


def _numbers(value: JsonValue, spec: TensorSpec, *, finite: bool) -> tuple[NDArray, tuple[int, ...]]:
    if isinstance(value, list) and all(isinstance(item, JsonArray) for item in value):
        # Rows of objects: each is still inside the parser, and cheaper to take out by itself than as Python's numbers.
        rows = [elements(item, spec.name, spec.datatype, finite=finite) for item in value]
        shapes = {shape for _, shape in rows}
        if len(shapes) == 1:
            return np.concatenate([flat for flat, _ in rows]), (len(rows), *shapes.pop())
    return elements(value, spec.name, spec.datatype, finite=finite)


def _texts(value: JsonValue, name: str) -> tuple[NDArray, tuple[int, ...]]:
    leaves, shape = flatten(value, name)
    flat = np.empty(len(leaves), dtype=object)
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, str):
            flat[index] = leaf.encode()
        elif is_base64(leaf):
            flat[index] = _from_base64(leaf["b64"], name)
        else:
            raise _invalid(f"input '{name}' holds something other than strings")
    return flat, shape


def _from_base64(text: str, name: str) -> bytes:
    # As absl::Base64Unescape does: white space is skipped, and padding may be missing.
    digits = "".join(text.split()).rstrip("=")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except ValueError:
        raise GatewayError(Cause.UNPARSEABLE, f"Unable to base64 decode (input '{name}')") from None


def _named(value: JsonValue) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _refuse_objects(instances: JsonArray | list[Any]) -> None:
    if isinstance(instances, list):
        for index, instance in enumerate(instances):
            if _named(instance):
                raise _invalid(f"Expecting value/list but got object at item {index} of input list")


def _check_row(index: int, instance: JsonValue, specs: Mapping[str, TensorSpec]) -> None:
    if not isinstance(instance, dict) or is_base64(instance):
        raise _invalid(f"Expecting object but got list at item {index} of input list")
    if instance.keys() == specs.keys():
        return
    for name in instance:
        if name not in specs:
            raise _invalid(
                f"Failed to process element: {index} key: {shown(name)} of 'instances' list. Error: INVALID_ARGUMENT: "
                f"JSON object: does not have named input: {shown(name)}"
            )
    raise _invalid(
        f"Failed to process element: {index} of 'instances' list. JSON object: {{..}} keys must be equal to: "
        f"{','.join(sorted(specs))}"
    )


def _check_rows(outputs: Sequence[Tensor]) -> None:
    size: int | None = None
    for tensor in outputs:
        if not tensor.shape:
            raise _invalid(f"Tensor name: {tensor.name} has no shape information ")
        if size is not None and tensor.shape[0] != size:
            raise _invalid(
                f"Tensor name: {tensor.name} has inconsistent batch size: {tensor.shape[0]} expecting: {size}"
            )
        size = tensor.shape[0]


def _written(tensor: Tensor) -> Any:  # noqa: ANN401 - whatever orjson writes
    if tensor.datatype in NOT_IN_JSON and tensor.array.size:
        raise UnsupportedOutputError(
            f"Failed to write JSON value for tensor type: {NOT_IN_JSON[tensor.datatype]} "
            f"(output '{tensor.name}'); gRPC carries it"
        )
    if tensor.datatype == "BYTES" and tensor.name.endswith(_BYTES_SUFFIX):
        coded = np.empty(tensor.array.size, dtype=object)
        coded[:] = [{"b64": base64.b64encode(item).decode()} for item in tensor.array.flat]
        return coded.reshape(tensor.shape).tolist()
    try:
        return written(tensor)
    except GatewayError as exc:
        raise UnsupportedOutputError(exc.detail) from exc


def _as_list(value: Any) -> object:  # noqa: ANN401 - an array or one of numpy's scalars
    return value.tolist()


def _invalid(detail: str) -> GatewayError:
    return GatewayError(Cause.INVALID_INPUT, detail)
