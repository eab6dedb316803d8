"""Tensors of short JSON texts: the short way there and back gives what the strict reading and each check give."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.codecs.json_document import parse_value, read_value
from gateway.codecs.json_small import LAYOUTS, MAX_BYTES, SmallArray, small_value
from gateway.codecs.json_tensors import (
    dumped,
    elements,
    finite_in,
    tensor_from_json,
    tensor_from_text,
    tensor_to_text,
    to_json_array,
    written,
)
from gateway.core.errors import GatewayError
from gateway.core.messages import TensorSpec
from gateway.core.tensor import NUMPY_DTYPE, Tensor, all_finite
from tests.unit.gateway.codecs.tensors import pairs, untimed

# Where datatypes end, where a double or an FP32 rounds, and what is none: as they are written.
POWERS = [sign * 2**bits for bits in (7, 8, 15, 16, 24, 31, 32, 53, 63, 64, 70) for sign in (-1, 1)]
EDGES = [
    *(str(power + more) for power in POWERS for more in (-1, 0, 1)),
    *("0", "-0", "-0.0", "0.0", "1", "1.0", "2.5", "1e0", "1E2", "1e-400", "1e-46", "7e-46", "7.006492321624085e-46"),
    *("1.1754943e-38", "0.1", "0.30000001192092893", "16777217.0", "9007199254740993.0", "3.4028235e38"),
    *("3.4028235677973362e38", "3.4028235677973366e38", "-3.4028235677973366e38", "1e39", "1.7976931348623157e308"),
    *("1e400", "-1e400"),
]
SPEC = {datatype: TensorSpec("x", datatype, (-1, 2)) for datatype in NUMPY_DTYPE}
OTHERS = ["true", "false", "null", '"1"', '""', '"true"', '"a:b"', '"{"', "{}", '{"a":1}', '{"a":1,"a":2}', "NaN", "[]"]
NUMBERS = (
    st.sampled_from(EDGES)
    | st.integers(-300, 300).map(str)
    | st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr)
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A regular list of numbers of rank 1 to 4, often of one kind; or one that is spoilt in a place."""
    shape = [*draw(st.lists(st.integers(0, 3), max_size=3)), draw(st.integers(0, 6))]
    numbers = draw(st.sampled_from([NUMBERS, st.integers(-3, 300).map(str), st.sampled_from(EDGES)]))
    count = int(np.prod(shape))
    level = draw(st.lists(numbers, min_size=count, max_size=count))
    if level and draw(st.integers(0, 2)) == 0:
        level[draw(st.integers(0, count - 1))] = draw(st.sampled_from([*OTHERS, "1,2", "[1]"]))
    spoilt = draw(st.integers(0, len(shape) * 4))
    for depth, length in reversed(list(enumerate(shape))):
        siblings = int(np.prod(shape[:depth]))
        level = ["[" + ",".join(level[at * length : (at + 1) * length]) + "]" for at in range(siblings)]
        if depth == spoilt and level:
            level[draw(st.integers(0, siblings - 1))] = draw(st.sampled_from(["[]", "[1]", "[1, 2]", "1", *OTHERS]))
    return level[0]


def outcome(tensor_of: Callable[[], Tensor]) -> Any:
    """A tensor to the bit, or in which words it is refused."""
    try:
        tensor = tensor_of()
    except GatewayError as exc:
        return exc.cause, exc.detail
    content = tensor.array.tolist() if tensor.datatype == "BYTES" else tensor.array.tobytes()
    return tensor.datatype, tensor.array.dtype, tensor.shape, content


@untimed
@given(texts(), st.sampled_from(sorted(NUMPY_DTYPE)))
@example("[[1, 2], [3]]", "FP32")
@example("[[1, 2], 3]", "FP32")
@example('[[1, 2], "34"]', "FP32")
@example('[[1, 2], {"a": 3, "b": 4}]', "INT64")
@example("[3.4028235677973366e38]", "FP32")
@example("[16777217, 9007199254740993]", "FP32")
@example("[true, 1e0]", "FP64")
@example("[[[[]]]]", "INT8")
@example('[["1"]]', "FP32")
@example('["1"]', "FP32")
@example('[{"1": 2}]', "FP32")
@example("[[true]]", "FP64")
@example("[[[1]]]", "FP64")
def test_a_short_text_becomes_the_tensor_of_the_strict_reading_or_its_refusal(text: str, datatype: str) -> None:
    """The same bits, datatype and shape, or the same cause and words; so as an object's member too."""

    def take(value: Any) -> Tensor:
        value = value.get("x") if isinstance(value, dict) else value
        return tensor_from_json(value, SPEC[datatype])

    for body in (text.encode(), f'{{"x":{text}}}'.encode()):
        short = outcome(lambda body=body: read_value(body, take))
        strict = outcome(lambda body=body: take(parse_value(body)))
        assert short == strict
        if body.startswith(b"["):
            # Twice: a row's length is known from then on.
            for _ in range(2):
                assert outcome(lambda body=body: tensor_from_text(body, SPEC[datatype])) == strict


@untimed
@given(texts(), st.sampled_from(sorted(NUMPY_DTYPE)), st.booleans())
def test_packed_numbers_are_those_of_the_elements_one_by_one(text: str, datatype: str, finite: bool) -> None:
    """What is packed at once is what each element's own check lets through, shape included."""
    value = small_value(text.encode())
    packed = value.packed(datatype) if isinstance(value, SmallArray) else None
    if packed is None:
        return
    flat, shape = elements(value.as_list(), "x", datatype, finite=finite)
    assert packed.dtype == flat.dtype == NUMPY_DTYPE[datatype]
    assert (packed.shape, packed.tobytes()) == (shape, flat.tobytes())


@pytest.mark.parametrize("datatype", sorted(NUMPY_DTYPE.keys() - {"BOOL", "BYTES", "FP16", "BF16"}))
@pytest.mark.parametrize("text", ["[1, 2]", "[[1, 2, 3]]", "[[1], [2]]", "[[[1, 2], [3, 4]], [[5, 6], [7, 8]]]"])
def test_regular_numbers_of_any_rank_are_packed(text: str, datatype: str) -> None:
    """Otherwise the short way would be of no use."""
    packed = small_value(text.encode()).packed(datatype)
    assert packed is not None
    assert packed.tolist() == json.loads(text)


def test_the_parser_of_short_texts_leaves_numbers_beyond_a_double_to_the_strict_reading() -> None:
    """Packing would make them infinite without a word."""
    for text in (b"[1e400]", b"[-1e309]", b"[1.8e308]", b"[1" + b"0" * 400 + b"]", b"[Infinity]", b"[NaN]"):
        assert small_value(text) is None


def test_what_is_known_of_shapes_is_bounded() -> None:
    """However many lengths clients send."""
    for count in range(1, 1000):
        assert tensor_from_text(b"[[" + b",".join([b"1"] * count) + b"]]", SPEC["INT8"]).shape == (1, count)
    assert 0 < len(LAYOUTS["INT8"]) < 1000


@untimed
@given(pairs(text=True), st.sampled_from(["y", "null", "a null, or two: nullnull"]), st.integers(0, 2))
def test_a_document_is_written_as_its_tensors_are_one_by_one_or_refused_like_them(
    outputs: tuple[Tensor, ...], word: str, nulls: int
) -> None:
    """Of any bit pattern, with nulls of the document's own and the word in a string."""
    own = {"": word, **{f"own {index}": None for index in range(nulls)}}
    document = own | {tensor.name: written(tensor) for tensor in outputs}
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    assert finite_in(text, outputs, nulls) is all(map(all_finite, outputs))
    one_by_one = written_text(lambda: own | {tensor.name: to_json_array(tensor) for tensor in outputs})
    assert written_text(lambda: dumped(document, outputs, nulls)) == one_by_one
    for tensor in outputs:
        alone = written_text(lambda tensor=tensor: to_json_array(tensor))
        assert written_text(lambda tensor=tensor: tensor_to_text(tensor)) == alone


def written_text(made: Callable[[], Any]) -> Any:
    """A text, or a document's text, or in which words it is refused."""
    try:
        document = made()
    except GatewayError as exc:
        return exc.cause, exc.detail
    return document if isinstance(document, bytes) else orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


@pytest.mark.parametrize("count", [1, 10, MAX_BYTES])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
def test_a_single_number_without_json_refuses_a_text_of_any_length(datatype: str, bad: float, count: int) -> None:
    """Scalars, short and long arrays."""
    array = np.zeros(count, NUMPY_DTYPE[datatype])
    array[-1] = bad
    for shaped in (array, array.reshape(1, -1), *([array.reshape(())] if count == 1 else [])):
        tensor = Tensor("y", datatype, shaped)
        with pytest.raises(GatewayError, match="NaN or infinity"):
            dumped(written(tensor), (tensor,))
        with pytest.raises(GatewayError, match="NaN or infinity"):
            tensor_to_text(tensor)
