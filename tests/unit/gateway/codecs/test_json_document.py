"""JSON text into documents: what is refused, with which cause, and when arrays count as regular."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.codecs.json_document import MAX_DEPTH, MAX_KEYS, ParsedArray, parse_object, plain
from gateway.core.errors import Cause, GatewayError
from tests.unit.gateway.codecs.tensors import untimed

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
KEYS = TEXT.filter(lambda key: "\0" not in key)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)


def refusal(body: bytes) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        parse_object(body)
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b'{"a": 1',
        b"{} x",
        b"{}\x00",
        b'{"a": 1,}',
        b"{'a': 1}",
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"a": 1, "a": 2}',
        b'{"a": 1, "\\u0061": 2}',
        b'{"b": {"a": [1], "a": 2}}',
        b'{"b": [{"a": 1, "a": 2}]}',
        b'{"a": 1e400, "a": 2}',
        b'{"a": NaN}',
        b'{"a": [1, -Infinity]}',
        b'{"a": 01}',
        b'{"a": "\x01"}',
        b'{"a": ' + b"9" * 10_000 + b"}",
        b'{"a": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
        b"[" * 33 + b"]" * 33,
        b"[" * 250_000,
        b"[" * 250_000 + b"]" * 250_000,
        b'{"a":' * 250_000,
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b'{"a": "' + b"x" * 100_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_not_json_is_unparseable(body: bytes) -> None:
    """Bad text, framing, encodings, repeated keys, tokens JSON lacks, and excessive depth are UNPARSEABLE."""
    assert refusal(body).cause is Cause.UNPARSEABLE


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[]",
        b'"x"',
        b"1",
        b"1e400",
        b'{"a": "\\ud800"}',
        b'{"a": ["\\udc00\\ud800"]}',
        b'{"a": 1e400, "b": "\\ud800"}',
        b'{"a": 1, "\\u0000": 2}',
        b'{"a": 1e400, "\\u0000": 2}',
        json.dumps({str(number): 1 for number in range(MAX_KEYS + 1)}).encode(),
        json.dumps({"a": {str(number): 1 for number in range(MAX_KEYS + 1)}}).encode(),
    ],
    ids=lambda body: repr(body[:24]),
)
def test_json_of_another_kind_is_invalid_input(body: bytes) -> None:
    """A text that is JSON but no object of whole characters and few keys is INVALID_INPUT."""
    assert refusal(body).cause is Cause.INVALID_INPUT


def test_messages_tell_the_place_and_never_the_payload() -> None:
    """A short broken text is told by line and column; nothing of it is repeated."""
    detail = refusal(b'{"secret": 1 "more": 2}').detail
    assert "line 1 column 14" in detail
    assert "secret" not in detail


@untimed
@given(st.dictionaries(KEYS, JSON, max_size=4))
@example({"a": [[1, 2], [3]], "b": [{"c": [[], [1]]}]})
@example({"a": "[[,],[,]]", "b": [[1], [2, 3]], "c": 'x"y\\z'})
def test_any_object_is_read_as_python_reads_it(document: dict[str, object]) -> None:
    """Every JSON object comes out with the values that the standard library finds."""
    assert plain(parse_object(json.dumps(document).encode())) == document
    assert plain(parse_object(json.dumps(document, ensure_ascii=False, indent=1).encode())) == document


@untimed
@given(JSON)
@example([[1, 2], [3], [4, 5, 6]])
@example([[1], []])
@example([[], [1]])
@example([1, [2]])
@example([[[1]], [[2], [3]], [[4]]])
@example([["[", "]"], [","]])
@example([['"', "a"], ['"']])
def test_regular_is_never_said_of_ragged_arrays(value: object) -> None:
    """Where an array is called regular and holds as many leaves as its shape says, all sibling lists agree.

    Few lists are looked at one by one, many in the text's skeleton.
    """
    for more in ([], [[]] * 9):
        array = parse_object(json.dumps({"x": value, "y": "z", "more": more}).encode())["x"]
        if not isinstance(array, ParsedArray) or not array.regular:
            continue
        leaves, ragged = _leaves(array.as_list(), array.shape)
        count = 1
        for length in array.shape:
            count *= length
        assert ragged is False or leaves != count


@untimed
@given(st.lists(st.integers(0, 3), min_size=1, max_size=3), st.integers(-9, 9), st.sampled_from([0, 9]))
def test_regular_arrays_are_known_to_be(shape: list[int], number: int, more: int) -> None:
    """So that every ordinary tensor is read at the parser's speed."""
    value = np.full(shape, number).tolist()
    array = parse_object(json.dumps({"x": value, "more": [[]] * more, "y": "z"}).encode())["x"]
    assert isinstance(array, ParsedArray)
    assert array.regular
    assert array.as_list() == value


def _leaves(value: object, shape: tuple[int, ...]) -> tuple[int, bool]:
    """How many leaves there are, and whether any list is not as long as `shape` says."""
    if not shape:
        return (_count(value), isinstance(value, list))
    if not isinstance(value, list):
        return 1, True
    below = [_leaves(item, shape[1:]) for item in value]
    return sum(count for count, _ in below), len(value) != shape[0] or any(ragged for _, ragged in below)


def _count(value: object) -> int:
    return sum(_count(item) for item in value) if isinstance(value, list) else 1


@pytest.mark.parametrize(
    "text", ['{"x": [[1, 2], [3, 4]], "id": "7"}', '{"a": [{"x": [[1], [2]]}, {"x": []}], "y": [[[0.5]]]}']
)
def test_ordinary_requests_take_the_fast_way(text: str) -> None:
    """Regular arrays in documents without escapes are known to be regular."""
    document = parse_object(text.encode())
    arrays = [
        value
        for value in [*document.values(), *(document.get("a") or [{}])[0].values()]
        if isinstance(value, ParsedArray)
    ]
    assert arrays
    assert all(array.regular for array in arrays)


def test_promised_lengths_allocate_nothing() -> None:
    """First elements that promise far more than the text holds make the array irregular, at no cost in memory."""
    row = b"[" + b",".join([b"1"] * 2000) + b"]"
    body = b'{"x": [' + b",".join([b"[" + row + b"]"] + [b"[]"] * 100_000) + b"]}"
    array = parse_object(body)["x"]
    assert isinstance(array, ParsedArray)
    assert not array.regular


def test_nan_tokens_only_where_they_are_asked_for() -> None:
    """TF Serving's bare tokens are read on request, and are UNPARSEABLE otherwise."""
    body = b'{"x": [NaN, Infinity, -Infinity, 1.5]}'
    assert str(parse_object(body, nan_tokens=True)["x"]) == "[nan, inf, -inf, 1.5]"
    assert refusal(body).cause is Cause.UNPARSEABLE


@untimed
@given(st.binary(max_size=64) | st.text('{}[]":,\\u0d8e1-.naN ', max_size=40).map(str.encode))
def test_any_bytes_parse_or_are_refused(body: bytes) -> None:
    """Whatever comes, the answer is an object or a GatewayError."""
    try:
        document = parse_object(body)
    except GatewayError:
        return
    assert isinstance(document, dict)


def test_arrays_that_promise_more_than_the_text_holds_build_nothing() -> None:
    """Many such arrays together are bounded as one is: the skeleton never outgrows the text."""
    array = b"[" * 3 + b"0," * 300 + b"0],0],0]"
    body = b'{"a": [' + b",".join([b'{"b": ' + array + b"}"] * 100) + b"]}"
    tracemalloc.start()
    try:
        document = parse_object(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not document["a"][0]["b"].regular
    assert peak < 10 * len(body)


def test_all_objects_together_have_a_bounded_number_of_keys() -> None:
    """Keys are found one behind the other: the cost of many large objects is refused, not paid."""
    many = b'{"a": [' + b",".join([b"{" + b",".join(b'"%d": 0' % n for n in range(1000)) + b"}"] * 20) + b"]}"
    with pytest.raises(GatewayError, match="more than 8192 keys"):
        parse_object(many)


@pytest.mark.parametrize("items", [b"{}," * 8192 + b"{}", b"{}," + b"1," * 8192 + b"1", b"[{},1]," * 4097 + b"[{}]"])
def test_lists_of_objects_have_a_bounded_number_of_items(items: bytes) -> None:
    """Each becomes a Python object, be it of no keys, or no object at all."""
    with pytest.raises(GatewayError, match="more than 8192 objects in lists") as caught:
        parse_object(b'{"a": [' + items + b"]}")
    assert caught.value.cause is Cause.INVALID_INPUT
