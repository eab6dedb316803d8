"""Body templates: the JSON that a handler not ours takes, written down once with placeholders for a request's tensors.

A template is any JSON value. In it `$inputs` is an object with the nested list of every input, `$inputs.NAME` one
input's nested list, `$rows` a list with one item for each row: the value of the only input, or an object with a value
for each. A list of one item that mentions `$row` or `$row.NAME` is repeated for each row. BYTES are written as UTF-8
text, or in base64 where the placeholder ends with `|b64`. A text that begins with `$$` stands for itself with one `$`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from gateway.codecs.json_tensors import SHORT_FLOATS, to_json_array
from gateway.core.errors import Cause, GatewayError, capped
from gateway.core.messages import InferenceRequest, TensorSpec
from gateway.core.tensor import Tensor, all_finite

INPUTS = ("inputs", "rows", "row")
DEFAULT_BODY = {"inputs": "$inputs"}

_PLACE = re.compile(r"\$(?P<kind>[a-z]+)(?:\.(?P<name>[^|]+))?(?P<coding>\|b64)?")


@dataclass(frozen=True, slots=True)
class Place:
    """A placeholder: its kind, the tensor that it names (None for all of them), whether BYTES are in base64."""

    kind: str
    name: str | None
    b64: bool


def placed(text: str, kinds: Sequence[str], specs: Sequence[TensorSpec]) -> Place | None:
    """The placeholder that a template's text is, None where it is none.

    Raises ValueError for a kind that is not among `kinds`, a tensor that is not among `specs`, and base64 of numbers.
    """
    if not text.startswith("$") or text.startswith("$$"):
        return None
    match = _PLACE.fullmatch(text)
    whole = ("rows", "body")
    if match is None or match["kind"] not in kinds or (match["kind"] in whole and match["name"]):
        known = ", ".join(f"${kind}" if kind in whole else f"${kind} and ${kind}.NAME" for kind in kinds)
        raise ValueError(f"unknown placeholder '{text}'; there are {known} ($$ at the start is a plain $)")
    place = Place(match["kind"], match["name"], match["coding"] is not None)
    meant = [spec for spec in specs if place.name in (None, spec.name)]
    if not meant:
        raise ValueError(f"'{text}': there is no '{place.name}'; the contract has {names(specs)}")
    if place.b64 and any(spec.datatype != "BYTES" for spec in meant):
        raise ValueError(f"'{text}': base64 is for BYTES; leave out |b64, or name the tensor that is BYTES")
    return place


def mentions_row(node: object) -> bool:
    """Whether a part of a template has a placeholder of one row in it, and not in a repeated list of its own."""
    if isinstance(node, str):
        return node == "$row" or node.startswith(("$row.", "$row|"))
    if isinstance(node, dict):
        return any(map(mentions_row, node.values()))
    if isinstance(node, list):
        return not repeated(node) and any(map(mentions_row, node))
    return False


def repeated(node: Sequence[object]) -> bool:
    """Whether a list of a template is repeated for each row."""
    return len(node) == 1 and mentions_row(node[0])


def names(specs: Sequence[TensorSpec]) -> str:
    """The names of tensors, as messages list them."""
    return ", ".join(f"'{spec.name}'" for spec in specs)


def literal(node: object) -> object:
    """A template's own value: what is neither placeholder nor container.

    Raises ValueError for one that JSON's writers have no form for, such as an integer beyond 64 bits.
    """
    try:
        orjson.dumps(node)
    except TypeError as exc:
        raise ValueError(f"the value {capped(repr(node), 64)} cannot be written as JSON: {exc}") from None
    return node[1:] if isinstance(node, str) and node.startswith("$$") else node


class BodyTemplate:
    """A template made ready for one model's inputs. `one_row`: each request has exactly one row."""

    def __init__(self, template: object, inputs: Sequence[TensorSpec], *, batched: bool, one_row: bool = False) -> None:
        """Raises ValueError where the template does not fit the inputs, saying what to write."""
        self._inputs = tuple(inputs)
        self._batched = batched
        self._one_row = one_row
        self._mentioned: set[str] = set()
        self._fill = self._made(template, inside=False)
        left_out = [spec for spec in self._inputs if spec.name not in self._mentioned]
        if left_out:
            raise ValueError(
                f"the template leaves out {names(left_out)}; write {', '.join(f'$inputs.{s.name}' for s in left_out)}"
            )

    def body(self, request: InferenceRequest) -> bytes:
        """The JSON of a request.

        NaN and infinities are written as Python's json reads and writes them. Raises UNSUPPORTED_DATATYPE for BYTES
        that are not UTF-8 where the template does not put them in base64.
        """
        columns = _Columns(request.inputs)
        document = self._fill(columns, 0)
        if columns.finite:
            return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        # orjson writes null for NaN.
        return json.dumps(document, default=_as_list).encode()

    def _made(self, node: object, inside: bool) -> _Fill:
        """What fills a part of the template; `inside` a list that is repeated for each row."""
        if isinstance(node, str) and (place := placed(node, INPUTS, self._inputs)):
            return self._placeholder(node, place, inside)
        if isinstance(node, dict):
            members = {str(key): self._made(value, inside) for key, value in node.items()}
            return lambda columns, row: {key: fill(columns, row) for key, fill in members.items()}
        if isinstance(node, list):
            if not inside and not self._one_row and repeated(node):
                item = self._made(node[0], inside=True)
                return lambda columns, _: [item(columns, row) for row in range(columns.rows)]
            items = [self._made(value, inside) for value in node]
            return lambda columns, row: [fill(columns, row) for fill in items]
        value = literal(node)
        return lambda _columns, _row: value

    def _placeholder(self, text: str, place: Place, inside: bool) -> _Fill:
        specs = [spec for spec in self._inputs if place.name in (None, spec.name)]
        self._mentioned.update(spec.name for spec in specs)
        coding = {spec.name: place.b64 for spec in specs}
        if place.kind == "inputs":
            if place.name is None:
                return lambda columns, _: {name: columns.column(name, b64) for name, b64 in coding.items()}
            return lambda columns, _: columns.column(place.name or "", place.b64)
        if not self._batched:
            raise ValueError(f"'{text}' needs rows, and the contract has no batch_cap; write $inputs.NAME")
        if place.kind == "rows" and not self._one_row:
            return lambda columns, _: columns.all_rows(coding)
        if place.kind == "rows":
            return lambda columns, row: [columns.row(coding, row)]
        if not (inside or self._one_row):
            raise ValueError(
                f"'{text}' is one row: write it inside a list of one item, such as [\"$row\"], or batch: rows"
            )
        if place.name is None and len(specs) > 1:
            return lambda columns, row: columns.row(coding, row)
        return lambda columns, row: columns.value(specs[0].name, place.b64, row)


class _Columns:
    """The inputs of one request as JSON values, each made when the template first asks for it."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = {tensor.name: tensor for tensor in tensors}
        self._made: dict[tuple[str, bool], Any] = {}
        self.finite = all(map(all_finite, tensors))

    @property
    def rows(self) -> int:
        """How many rows every input has."""
        return next(iter(self._tensors.values())).shape[0]

    def column(self, name: str, b64: bool) -> Any:  # noqa: ANN401 - whatever JSON holds
        """One input's nested list."""
        key = (name, b64)
        if key not in self._made:
            self._made[key] = _nested(self._tensors[name], b64)
        return self._made[key]

    def value(self, name: str, b64: bool, row: int) -> object:
        """One input's value in one row."""
        return self.column(name, b64)[row]

    def row(self, coding: Mapping[str, bool], row: int) -> object:
        """One row: the value of the only input, or an object with a value for each."""
        if len(coding) == 1:
            ((name, b64),) = coding.items()
            return self.value(name, b64, row)
        return {name: self.value(name, b64, row) for name, b64 in coding.items()}

    def all_rows(self, coding: Mapping[str, bool]) -> object:
        """Every row; the only input's nested list is that already."""
        if len(coding) == 1:
            ((name, b64),) = coding.items()
            return self.column(name, b64)
        return [self.row(coding, row) for row in range(self.rows)]


_Fill = Callable[[_Columns, int], object]


def _nested(tensor: Tensor, b64: bool) -> object:
    if b64:
        coded = np.empty(tensor.array.size, dtype=object)
        coded[:] = [base64.b64encode(item).decode() for item in tensor.array.flat]
        return coded.reshape(tensor.shape).tolist()
    if not all_finite(tensor):
        return tensor.array.astype(np.float32) if tensor.datatype in SHORT_FLOATS else tensor.array
    try:
        return to_json_array(tensor)
    except GatewayError:
        raise GatewayError(
            Cause.UNSUPPORTED_DATATYPE,
            f"input '{tensor.name}' holds bytes that are not UTF-8; this model's server is sent them as text",
        ) from None


def _as_list(value: Any) -> object:  # noqa: ANN401 - arrays and scalars of numpy
    return value.tolist()
