"""TF Serving's words for values that make no tensor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.tfserving_words import is_base64, unlike_value, unlike_values
from gateway.core.messages import TensorSpec
from gateway.core.tensor import DATATYPES
from tests.unit.gateway.codecs.tensors import untimed

INF = float("inf")
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just("zzz"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["b64", "zzz"]), inner, max_size=2),
    max_leaves=8,
)


def spec(datatype: str) -> TensorSpec:
    return TensorSpec("x", datatype, (-1,))


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("FP32", [[1, 2.5], [INF, -INF]]),
        ("FP64", 1e300),
        ("INT8", [-128, 127]),
        ("UINT64", [2**64 - 1]),
        ("BOOL", [[True], [False]]),
        ("BYTES", ["a", {"b64": "aGk="}]),
        ("FP32", []),
        ("FP32", [[], []]),
    ],
)
def test_nothing_is_said_of_what_is_right(datatype: str, value: object) -> None:
    """Then the caller has words of its own."""
    assert unlike_value(value, spec(datatype)) is None
    assert unlike_values([value, value], spec(datatype), "x") is None


@pytest.mark.parametrize("datatype", sorted(DATATYPES - {"FP16", "BF16", "UINT16"}))
def test_every_datatype_refuses_null(datatype: str) -> None:
    """By TensorFlow's word for it, the input and the datatype that it takes."""
    said = unlike_value([None], spec(datatype))
    assert said is not None
    assert "Type: Null is not of expected type: " in said
    assert said.endswith(f"(input 'x' takes {datatype})")


def test_depth_is_bounded() -> None:
    """A nest as deep as Python's parser lets through must not break the walk."""
    value: object = 1
    for _ in range(900):
        value = [value]
    assert "900 levels" in str(unlike_value(value, spec("FP32")))


def test_only_a_lone_text_under_b64_is_binary() -> None:
    """Anything else is an object."""
    assert is_base64({"b64": ""})
    assert not any(map(is_base64, ({"b64": 1}, {"b64": "", "a": 1}, {}, "b64", None)))


@untimed
@given(ANY, st.sampled_from(sorted(DATATYPES - {"FP16", "BF16", "UINT16"})))
def test_there_are_words_for_anything_but_the_right(value: object, datatype: str) -> None:
    """Whatever a body holds, the text is short and repeats none of it."""
    for said in (unlike_value(value, spec(datatype)), unlike_values([value, value], spec(datatype), "k")):
        assert said is None or (len(said) < 300 and "zzz" not in said)
