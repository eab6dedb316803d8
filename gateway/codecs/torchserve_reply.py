"""What a handler not ours answers, as the outputs of its model's contract.

Without a template the usual forms are recognised: `{"outputs": {name: ..}}`, `{"predictions": [..]}`, an object with
the outputs' names, a list of rows, the bare value of the only output, and the `{class: probability}` of TorchServe's
own classifiers. A template says where the outputs stand in any other JSON, with the placeholders of
`gateway.codecs.torchserve_template`, `$outputs` in place of `$inputs`; `$body` is the whole answer, not JSON.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from gateway.codecs.json_array import JsonArray
from gateway.codecs.json_document import JsonValue, parse_value, plain
from gateway.codecs.json_tensors import elements
from gateway.codecs.replies import bad_reply, reading_reply
from gateway.codecs.torchserve import SERVER
from gateway.codecs.torchserve_template import literal, names, placed, repeated
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError, capped
from gateway.core.messages import TensorSpec
from gateway.core.tensor import FLOAT_DATATYPES, NUMPY_DTYPE, NDArray, Tensor, from_raw

OUTPUTS = ("outputs", "rows", "row", "body")
BODY = "$body"

_TRIPLE = frozenset({"code", "type", "message"})
_FORMS = '{"outputs": {..}}, {"predictions": [..]}, an object of outputs or a list of rows; `reply` describes any other'


class ReplyReader:
    """Reads the answers of one model's handler; `template` None recognises the usual forms."""

    def __init__(self, template: object, contract: ModelContract) -> None:
        """Raises ValueError where the template does not fit the contract's outputs, saying what to write."""
        self._outputs = contract.outputs
        self._labels = contract.class_labels
        self._whole = template == BODY
        self._coded: set[str] = set()
        self._match: _Match | None = None
        # What a handler returns as str is not JSON; it may be the one element of the one output.
        self._may_be_text = template is None and len(self._outputs) == 1 and one_element(self._outputs[0])
        if self._whole:
            _check_whole(self._outputs)
        elif template is not None:
            mentioned: set[str] = set()
            self._match = self._made(template, mentioned, inside=False)
            left_out = [spec for spec in self._outputs if spec.name not in mentioned]
            if left_out:
                wanted = ", ".join(f"$outputs.{spec.name}" for spec in left_out)
                raise ValueError(f"the reply leaves out {names(left_out)}; write {wanted}")

    def read(self, reply: bytes, rows: int | None) -> tuple[Tensor, ...]:
        """The outputs that an answer to `rows` rows holds; `rows` is None where the model has no batch.

        Where one row was asked, an output without the dimension of rows gets it. Raises UPSTREAM_BAD_REPLY, and the
        error that the answer is: over gRPC a handler's status is lost, and only its error's body remains.
        """
        if self._whole:
            return (_whole(reply, self._outputs[0], rows),)
        with reading_reply(SERVER):
            try:
                document = parse_value(reply, nan_tokens=True)
            except GatewayError:
                if not self._may_be_text or not reply:
                    raise
                return (_whole(reply, self._outputs[0], rows),)
            if self._may_be_text and isinstance(document, int | float):
                return (_whole(reply, self._outputs[0], rows),)
            _raise_error_in(document)
            found = _Found() if self._match is None else self._match_all(document)
            values = self._recognised(document) if self._match is None else found.values
            return tuple(self._tensor(values[spec.name], spec, rows) for spec in self._outputs)

    # -- The usual forms --------------------------------------------------------------------------------------------

    def _recognised(self, document: JsonValue) -> dict[str, JsonValue]:
        if isinstance(document, dict):
            if not self._has_all(document):
                for key in ("outputs", "predictions"):
                    if key in document:
                        return self._value(document[key])
            return self._object(document)
        return self._value(document)

    def _value(self, value: JsonValue) -> dict[str, JsonValue]:
        if isinstance(value, dict):
            return self._object(value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return self._objects(value)
        if len(self._outputs) == 1:
            return {self._outputs[0].name: value}
        if isinstance(value, JsonArray) and value.shape == (0,):
            return {spec.name: value for spec in self._outputs}
        raise bad_reply(SERVER, f"it names no outputs, and the contract has {names(self._outputs)}; expected {_FORMS}")

    def _object(self, value: dict[str, Any]) -> dict[str, JsonValue]:
        if self._has_all(value):
            return {spec.name: value[spec.name] for spec in self._outputs}
        return self._classes([value], one=True)

    def _objects(self, rows: list[Any]) -> dict[str, JsonValue]:
        if all(isinstance(row, dict) and self._has_all(row) for row in rows):
            return {spec.name: [row[spec.name] for row in rows] for spec in self._outputs}
        return self._classes(rows, one=False)

    def _classes(self, rows: list[Any], *, one: bool) -> dict[str, JsonValue]:
        """`{class: probability}` of each row, into the output of all classes or into two of names and probabilities."""
        if all(isinstance(row, dict) and row for row in rows):
            if self._labels and len(self._outputs) == 1:
                values = [self._by_label(row) for row in rows]
                return {self._outputs[0].name: values[0] if one else values}
            pair = {spec.datatype == "BYTES": spec for spec in self._outputs}
            if len(self._outputs) == len(pair) == 2 and pair[False].datatype in FLOAT_DATATYPES:
                keys, values = [list(row) for row in rows], [list(row.values()) for row in rows]
                return {pair[True].name: keys[0] if one else keys, pair[False].name: values[0] if one else values}
        raise bad_reply(SERVER, f"it has not the outputs {names(self._outputs)} of the contract; expected {_FORMS}")

    def _by_label(self, row: dict[str, Any]) -> list[Any]:
        if row.keys() != set(self._labels):
            raise bad_reply(
                SERVER,
                f"its {len(row)} classes are not the {len(self._labels)} class_labels of the contract; a handler that "
                "gives only the best ones needs a contract with two outputs, their names (BYTES) and probabilities",
            )
        return [row[label] for label in self._labels]

    def _has_all(self, value: dict[str, Any]) -> bool:
        return all(spec.name in value for spec in self._outputs)

    # -- By template ------------------------------------------------------------------------------------------------

    def _match_all(self, document: JsonValue) -> _Found:
        found = _Found()
        assert self._match is not None  # noqa: S101 - asked only where there is a template
        self._match(document, found)
        return found

    def _made(self, node: object, mentioned: set[str], inside: bool) -> _Match:
        if isinstance(node, str) and (place := placed(node, OUTPUTS, self._outputs)):
            specs = [spec for spec in self._outputs if place.name in (None, spec.name)]
            mentioned.update(spec.name for spec in specs)
            if place.b64:
                self._coded.update(spec.name for spec in specs)
            if place.kind == "body":
                raise ValueError("'$body' is the whole answer: write it alone, not inside of JSON")
            if place.kind == "row":
                if not inside:
                    raise ValueError(f"'{node}' is one row: write it inside a list of one item, such as [\"$row\"]")
                return lambda value, found: found.add_row(self._named(value, place.name))
            return lambda value, found: found.add(self._named(value, place.name))
        if isinstance(node, dict):
            return _members({str(key): self._made(value, mentioned, inside) for key, value in node.items()})
        if isinstance(node, list):
            if not inside and repeated(node):
                in_rows: set[str] = set()
                item = self._made(node[0], in_rows, inside=True)
                mentioned |= in_rows
                return _each(item, in_rows)
            return _items([self._made(value, mentioned, inside) for value in node])
        return _same(literal(node))

    def _named(self, value: JsonValue, name: str | None) -> dict[str, JsonValue]:
        return self._value(value) if name is None else {name: value}

    # -- Tensors ----------------------------------------------------------------------------------------------------

    def _tensor(self, value: JsonValue, spec: TensorSpec, rows: int | None) -> Tensor:
        flat, shape = elements(value, spec.name, spec.datatype, finite=False)
        if spec.name in self._coded:
            flat = _decoded(flat, spec.name)
        if shape and shape[-1] == 0:
            shape += tuple(max(dim, 0) for dim in spec.shape[len(shape) :])
        if flat.size != math.prod(shape):
            raise bad_reply(SERVER, f"output '{spec.name}' is no {spec.datatype} {list(spec.shape)}")
        if rows == 1 and len(shape) == len(spec.shape) - 1:
            shape = (1, *shape)
        return Tensor(spec.name, spec.datatype, flat.reshape(shape))


class _Found:
    """The values that a template's placeholders stand for, by output."""

    def __init__(self) -> None:
        self.values: dict[str, JsonValue] = {}

    def add(self, values: dict[str, JsonValue]) -> None:
        """Whole outputs."""
        self.values.update(values)

    def add_row(self, values: dict[str, JsonValue]) -> None:
        """The next row of outputs."""
        for name, value in values.items():
            column = self.values[name]
            assert isinstance(column, list)  # noqa: S101 - `_each` began it
            column.append(value)


_Match = Callable[[JsonValue, _Found], None]


def _members(matches: dict[str, _Match]) -> _Match:
    def match(value: JsonValue, found: _Found) -> None:
        if not isinstance(value, dict):
            raise bad_reply(SERVER, f"`reply` expects an object with {', '.join(matches)}")
        for key, inner in matches.items():
            if key not in value:
                raise bad_reply(SERVER, f"it has no '{key}', where `reply` expects one")
            inner(value[key], found)

    return match


def _items(matches: Sequence[_Match]) -> _Match:
    def match(value: JsonValue, found: _Found) -> None:
        items = plain(value)
        if not isinstance(items, list) or len(items) != len(matches):
            raise bad_reply(SERVER, f"`reply` expects a list of {len(matches)} items")
        for item, inner in zip(items, matches, strict=True):
            inner(item, found)

    return match


def _each(match_item: _Match, outputs: Collection[str]) -> _Match:
    def match(value: JsonValue, found: _Found) -> None:
        found.add({name: [] for name in outputs})
        items = plain(value)
        if not isinstance(items, list):
            raise bad_reply(SERVER, "`reply` expects a list with one item for each row")
        for item in items:
            match_item(item, found)

    return match


def _same(expected: object) -> _Match:
    def match(value: JsonValue, _found: _Found) -> None:
        if plain(value) != expected:
            raise bad_reply(SERVER, f"it has another value where `reply` says {capped(repr(expected), 64)}")

    return match


def _raise_error_in(document: JsonValue) -> None:
    """Raises what TorchServe's error triple says, or `{"error": text}`, which a handler may send as its answer."""
    if not isinstance(document, dict) or document.keys() not in (_TRIPLE, {"error"}):
        return
    text, code = document.get("message", document.get("error")), document.get("code", 500)
    if isinstance(text, str) and type(code) is int and 400 <= code < 600:
        raise GatewayError(Cause.UPSTREAM_REJECTED if code < 500 else Cause.UPSTREAM_FAILED, capped(text))


def _check_whole(outputs: Sequence[TensorSpec]) -> None:
    spec = outputs[0]
    if len(outputs) > 1:
        raise ValueError(f"'{BODY}' is one output, and the contract has {names(outputs)}; write a JSON template")
    if spec.datatype == "BYTES" and not one_element(spec):
        raise ValueError(f"'{BODY}' is one element, and output '{spec.name}' has the shape {list(spec.shape)}")
    if sum(dim == -1 for dim in spec.shape[1:]) > 1:
        raise ValueError(
            f"'{BODY}' does not tell the shape {list(spec.shape)} of output '{spec.name}'; fix all but one"
        )


def one_element(spec: TensorSpec) -> bool:
    """Whether a tensor is BYTES and may be one element, which a whole body then is."""
    return spec.datatype == "BYTES" and all(dim in (-1, 1) for dim in spec.shape)


def _whole(reply: bytes, spec: TensorSpec, rows: int | None) -> Tensor:
    """The tensor whose only element, or whose raw values, a whole answer is."""
    if spec.datatype == "BYTES":
        element = np.empty(1, dtype=object)
        element[0] = reply
        return Tensor(spec.name, "BYTES", element.reshape((1,) * len(spec.shape)))
    shape = [rows if rows is not None and axis == 0 else dim for axis, dim in enumerate(spec.shape)]
    if -1 in shape:
        known = math.prod(dim for dim in shape if dim != -1)
        width = known * NUMPY_DTYPE[spec.datatype].itemsize
        shape[shape.index(-1)] = len(reply) // width if width else 0
    with reading_reply(SERVER):
        return from_raw(spec.name, spec.datatype, shape, reply)


def _decoded(flat: NDArray, name: str) -> NDArray:
    decoded = np.empty(flat.size, dtype=object)
    try:
        decoded[:] = [base64.b64decode(item, validate=True) for item in flat]
    except ValueError:
        raise bad_reply(SERVER, f"output '{name}' holds what is not base64") from None
    return decoded
