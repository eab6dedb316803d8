"""Properties of body templates and replies: an echo gives back what was sent, and no answer breaks a reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.codecs.torchserve_reply import ReplyReader
from gateway.codecs.torchserve_template import BodyTemplate
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause
from gateway.core.messages import InferenceRequest, ModelSpec, TensorSpec
from gateway.core.tensor import DATATYPES, Tensor
from tests.builders import contract, tensor
from tests.unit.gateway.codecs.tensors import assert_same, cause_of, tensors, untimed

T = TypeVar("T")
# What an answer may be told to be. Whatever the bytes are, it is the server that sent them.
SERVERS_FAULT = {None, Cause.UPSTREAM_BAD_REPLY, Cause.UPSTREAM_FAILED, Cause.UPSTREAM_REJECTED}
NAMES = ("a", "b.c", "ü 2")
KEYS = st.sampled_from(["k", "instances", "a", "$", "ü"])
LITERALS = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "word", "$$inputs", "$$"])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(
        [*NAMES, "outputs", "predictions", "error", "message", "code", "$row", "$rows", "$outputs.a|b64"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*NAMES, "outputs", "predictions", "error", "code", "type", "message"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@st.composite
def batches(draw: st.DrawFn, *, bytes_only: bool = False) -> tuple[Tensor, ...]:
    """One to three inputs with as many rows each; BYTES are text unless they alone are wanted."""
    rows = draw(st.integers(1, 3))
    shapes = st.lists(st.integers(1, 3), max_size=3).map(lambda dims: (rows, *dims))
    datatypes = frozenset({"BYTES"}) if bytes_only else DATATYPES
    return tuple(
        draw(tensors(datatypes, text=not bytes_only, shapes=shapes, name=name))
        for name in NAMES[: draw(st.integers(1, 3))]
    )


@st.composite
def templates(draw: st.DrawFn, names: tuple[str, ...], coding: str) -> Any:
    """A template that mentions every input once, somewhere among other values."""
    by_name = [
        {f"at {name}": f"$inputs.{name}{coding}" for name in names},
        [f"$inputs.{name}{coding}" for name in names],
        [{f"of {name}": f"$row.{name}{coding}" for name in names}],
        [[0, [f"$row.{name}{coding}" for name in names]]],
    ]
    found: Any = draw(st.sampled_from([f"$inputs{coding}", f"$rows{coding}", [f"$row{coding}"], *by_name]))
    for _ in range(draw(st.integers(0, 2))):
        if draw(st.booleans()):
            found = {**draw(st.dictionaries(KEYS, LITERALS, max_size=2)), "inside": found}
        else:
            # A list of one item that mentions a row would be repeated.
            found = [draw(LITERALS), found]
    return found


def described(inputs: tuple[Tensor, ...]) -> ModelContract:
    """An identity of these inputs, of which dimension 0 is a batch."""
    specs = tuple(TensorSpec(tensor.name, tensor.datatype, (-1, *tensor.shape[1:])) for tensor in inputs)
    return contract("echo", inputs=specs, outputs=specs, batch_cap=8)


def mirrored(template: Any) -> Any:
    """The reply template that finds the outputs where the body template put the inputs."""
    return json.loads(json.dumps(template).replace('"$inputs', '"$outputs'))


def echoed(inputs: tuple[Tensor, ...], template: Any, reply: Any) -> tuple[Tensor, ...]:
    """What is read of an answer that is the body itself."""
    its = described(inputs)
    body = BodyTemplate(template, its.inputs, batched=True).body(InferenceRequest(ModelSpec("echo"), inputs))
    return ReplyReader(reply, its).read(body, inputs[0].shape[0])


@untimed
@given(data=st.data())
def test_an_echo_by_any_template_gives_back_what_was_sent(data: st.DataObject) -> None:
    """Whole, by column, by row, in base64, however deep: every value, and NaN as NaN."""
    bytes_only = data.draw(st.booleans())
    inputs = data.draw(batches(bytes_only=bytes_only))
    template = data.draw(templates(tuple(tensor.name for tensor in inputs), "|b64" if bytes_only else ""))
    for sent, read in zip(inputs, echoed(inputs, template, mirrored(template)), strict=True):
        assert_same(sent, read, bits=False)


@untimed
@given(inputs=batches(), form=st.sampled_from(["$inputs", {"outputs": "$inputs"}, {"predictions": "$rows"}, ["$row"]]))
def test_an_echo_in_the_usual_forms_needs_no_reply_template(inputs: tuple[Tensor, ...], form: Any) -> None:
    """Objects of outputs and lists of rows are recognised."""
    for sent, read in zip(inputs, echoed(inputs, form, None), strict=True):
        assert_same(sent, read, bits=False)


@st.composite
def readers(draw: st.DrawFn) -> ReplyReader:
    """A reader of any outputs, by a template or by the usual forms."""
    inputs = draw(batches())
    names = tuple(tensor.name for tensor in inputs)
    its = described(inputs)
    template = draw(st.none() | templates(names, "").map(mirrored))
    labels = ("a", "b.c") if draw(st.booleans()) else None
    if labels and len(inputs) == 1:
        its = contract("echo", inputs=its.inputs, outputs=its.outputs, batch_cap=8, class_labels=labels)
    return ReplyReader(template, its)


@untimed
@given(
    reader=readers(),
    reply=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()),
    rows=st.integers(0, 4),
)
@example(reader=ReplyReader(None, contract()), reply=b"[" * 5000, rows=1)
@example(reader=ReplyReader(None, contract()), reply=b'{"error": "no", "code": 99999}', rows=1)
def test_no_answer_raises_anything_but_an_error_of_the_server(reader: ReplyReader, reply: bytes, rows: int) -> None:
    """Bytes, and JSON of any form: outputs as the contract has them, or a cause that blames who sent it."""
    assert cause_of(lambda: reader.read(reply, rows)) in SERVERS_FAULT


@untimed
@given(template=JSON, inputs=batches(), one_row=st.booleans())
@example(template=["$inputs", -(2**63) - 1], inputs=(tensor("a", [[1.0]]),), one_row=False)
@example(template=["$inputs", "\ud800"], inputs=(tensor("a", [[1.0]]),), one_row=False)
def test_any_template_is_taken_or_refused_with_a_reason(
    template: Any, inputs: tuple[Tensor, ...], one_row: bool
) -> None:
    """At the start, never at a request: what is taken makes JSON of every request."""
    its = described(inputs)
    body = taken(lambda: BodyTemplate(template, its.inputs, batched=True, one_row=one_row))
    taken(lambda: ReplyReader(template, its))
    if body is not None:
        rows = tuple(Tensor(t.name, t.datatype, t.array[:1]) for t in inputs) if one_row else inputs
        json.loads(body.body(InferenceRequest(ModelSpec("echo"), rows)))


def taken(make: Callable[[], T]) -> T | None:
    """What is made, None where it is refused."""
    try:
        return make()
    except ValueError:
        return None
