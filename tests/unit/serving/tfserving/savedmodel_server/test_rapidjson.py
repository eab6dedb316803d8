"""JSON as RapidJSON reads it: its values, its texts, its offsets."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.rapidjson import diagnose, parse, to_bytes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("body", "text", "offset"),
    [
        (b"  ", "The document is empty.", 2),
        (b"hello", "Invalid value.", 0),
        (b"nul", "Invalid value.", 3),
        (b"[1,]", "Invalid value.", 3),
        (b"[1 2]", "Missing a comma or ] after an array element.", 3),
        (b"[01]", "Missing a comma or ] after an array element.", 2),
        (b'{"a":1,}', "Missing a name for object member.", 7),
        (b'{"a" 1}', "Missing a colon after a name of object member.", 5),
        (b'{"a":1 "b":2}', "Missing a comma or } after an object member.", 7),
        (b"[1.]", "Miss fraction part in number.", 3),
        (b"[1e]", "Miss exponent in number.", 3),
        (b"[1e999] x", "Number too big to be stored in double.", 1),
        (b'["a', "Missing a closing quotation mark in string.", 3),
        (b'["a\nb"]', "Invalid escape character in string.", 3),
        (b'["\\x"]', "Invalid escape character in string.", 2),
        (b'["\\u12g4"]', "Incorrect hex digit after \\u escape in string.", 2),
        (b'["\\ud800x"]', "The surrogate pair in string is invalid.", 2),
        (b"[Infinit]", "Invalid value.", 8),
        (b"[-]", "Invalid value.", 2),
    ],
)
def test_errors_have_rapidjsons_texts_and_offsets(body: bytes, text: str, offset: int) -> None:
    """Offsets count bytes."""
    with pytest.raises(ServingError) as caught:
        diagnose(body)
    assert caught.value.message == f"JSON Parse error: {text} at offset: {offset}"


def test_an_empty_body_has_its_own_text() -> None:
    """There is nothing to have an offset in."""
    with pytest.raises(ServingError, match="^INVALID_ARGUMENT: JSON Parse error: The document is empty$"):
        parse(b"")


def test_parsing_stops_after_the_first_value() -> None:
    """Trailing garbage is not looked at."""
    assert parse(b'{"a": [1]} garbage') == {"a": [1]}
    assert diagnose(b'{"a": [1]} garbage') == {"a": [1]}


def test_numbers_that_are_none_are_read() -> None:
    """Both spellings of infinity, with a sign, and NaN."""
    values = parse(b"[NaN, Inf, -Inf, Infinity, -Infinity]")
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, math.inf, -math.inf]
    assert math.isnan(parse(b"-NaN"))
    for body in (b"nan", b"[infinity]", b"[+1]", b"[.5]"):
        with pytest.raises(ServingError, match=r"Invalid value\."):
            parse(body)


def test_the_first_of_two_equal_names_wins() -> None:
    """As RapidJSON's FindMember does, by both scanners."""
    body = b'{"a": 1, "a": 2}'
    assert parse(body) == diagnose(body) == {"a": 1}


def test_bytes_that_are_no_utf8_survive() -> None:
    """RapidJSON does not validate, so the model gets what the client sent; lone surrogates have a form too."""
    assert to_bytes(parse(b'["\xff\xc3\xa4"]')[0]) == b"\xff\xc3\xa4"
    assert to_bytes(diagnose(b'"\xff\xc3\xa4"')) == b"\xff\xc3\xa4"
    assert to_bytes(parse(b'"\\udc00"')) == b"\xed\xb0\x80"


def test_a_byte_order_mark_is_skipped() -> None:
    """Editors on some systems write one."""
    assert parse(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_deep_nesting_is_refused() -> None:
    """It must not exhaust the stack."""
    with pytest.raises(ServingError, match="nested too deeply"):
        parse(b"[" * 100_000)


def test_long_numbers_are_doubles() -> None:
    """More than 64 bits, and more digits than Python's int() takes, are doubles or too big."""
    assert diagnose(b"123456789012345678901234567890") == 123456789012345678901234567890.0
    with pytest.raises(ServingError, match="Number too big"):
        parse(b"1" * 5000)


@given(JSON)
def test_both_scanners_agree(value: object) -> None:
    """What is valid JSON reads the same by Python's scanner and ours."""
    body = json.dumps(value).encode()
    assert diagnose(body) == parse(body) == value


@given(st.text(alphabet='[]{}",:0123456789.eE+-\\untrfalsN I\x00\n', max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but a parse error comes of any text."""
    try:
        parse(text.encode())
    except ServingError as exc:
        message = exc.message
    else:
        message = "JSON Parse error: "
    assert message.startswith("JSON Parse error: ")
