"""tf.Examples from JSON, and as the strings that a model parses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.example import example_pb2
from tensorflow_serving.apis import classification_pb2, input_pb2

from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.examples import fill, serialized


def filled(body: Any) -> classification_pb2.ClassificationRequest:
    """The request of a JSON body, or of bytes as they are."""
    request = classification_pb2.ClassificationRequest(model_spec={"name": "m"})
    fill(request, body if isinstance(body, bytes) else json.dumps(body).encode())
    return request


@pytest.mark.parametrize(
    ("value", "feature"),
    [
        (1, {"int64List": {"value": ["1"]}}),
        ([True, False, -7], {"int64List": {"value": ["1", "0", "-7"]}}),
        (1.5, {"floatList": {"value": [1.5]}}),
        ([1e3, 2.0], {"floatList": {"value": [1000.0, 2.0]}}),
        (2**64, {"floatList": {"value": [1.8446744e19]}}),
        ("ä", {"bytesList": {"value": ["w6Q="]}}),
        (["a", {"b64": "AP8="}], {"bytesList": {"value": ["YQ==", "AP8="]}}),
        ([], {}),
    ],
)
def test_the_first_value_decides_the_kind_of_a_feature(value: Any, feature: Any) -> None:
    """Fractions and exponents are floats, whole numbers and booleans integers, strings and `b64` bytes."""
    (example,) = filled({"examples": [{"f": value}]}).input.example_list.examples
    assert json_format.MessageToDict(example) == {"features": {"feature": {"f": feature}}}


def test_not_a_number_is_a_float() -> None:
    """As RapidJSON has it with its flag for them."""
    (example,) = filled(b'{"examples": [{"f": [NaN, -Infinity]}]}').input.example_list.examples
    assert str(list(example.features.feature["f"].float_list.value)) == "[nan, -inf]"


def test_a_signature_and_a_context_may_be_given() -> None:
    """With a context the examples lie beside it."""
    request = filled({"signature_name": "s", "context": {"c": 1}, "examples": [{"a": 2}, {}]})
    assert request.model_spec.signature_name == "s"
    given = request.input.example_list_with_context
    assert (len(given.examples), list(given.context.features.feature)) == (2, ["c"])


BODY = 'JSON Value: {\n    "examples": '


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "JSON Parse error: The document is empty"),
        ([], "JSON Value: [] Is not object"),
        ({"examples": [{}], "signature_name": 1}, "'signature_name' key must be a string value."),
        ({}, "JSON Value: {} When method is classify, key 'examples' is expected and was not found"),
        ({"examples": {}}, BODY + "{}\n} Expecting 'examples' value to be an list/array"),
        ({"examples": []}, BODY + "[]\n} 'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{}], "context": None}, "Example must be JSON object but got JSON Null"),
        ({"examples": [{}], "context": True}, "Example must be JSON object but got JSON True"),
        ({"examples": [{"f": None}]}, "Feature: f has element with unexpected JSON type: Null"),
        ({"examples": [{"f": [[1]]}]}, "Feature: f has element with unexpected JSON type: Array"),
        ({"examples": [{"f": {"x": 1}}]}, "Feature: f has element with unexpected JSON type: Object"),
        ({"examples": [{"f": [1, 1.5]}]}, "Unexpected element type in feature: f expecting type: int64"),
        ({"examples": [{"f": [1.5, True]}]}, "Unexpected element type in feature: f expecting type: float"),
        ({"examples": [{"f": ["a", 1]}]}, "Unexpected element type in feature: f expecting type: bytes"),
        ({"examples": [{"f": [1, {"b64": "YQ=="}]}]}, "Unexpected element type in feature: f expecting type: int64"),
        ({"examples": [{"f": 2**63}]}, "Feature: f has uint64 element. Only int64 is supported."),
        ({"examples": [{"f": 1e40}]}, "Cannot convert JSON value: 1e+40 to float without loss of precision."),
        ({"examples": [{"f": {"b64": "?"}}]}, "Unable to base64 decode"),
    ],
)
def test_what_is_no_example_is_refused(body: Any, text: str) -> None:
    """In TensorFlow Serving's words, INVALID_ARGUMENT."""
    with pytest.raises(ServingError) as caught:
        filled(body)
    assert str(caught.value).startswith("INVALID_ARGUMENT: ")
    assert caught.value.message.endswith(text)


def test_a_context_is_merged_into_every_example() -> None:
    """A feature of the example itself wins."""
    message = filled({"context": {"a": 1, "b": 2}, "examples": [{"a": 3}, {}]}).input
    merged = [example_pb2.Example.FromString(text).features.feature for text in serialized(message)]
    assert [{name: feature.int64_list.value[0] for name, feature in one.items()} for one in merged] == [
        {"a": 3, "b": 2},
        {"a": 1, "b": 2},
    ]


@pytest.mark.parametrize("message", [{}, {"example_list": {}}, {"example_list_with_context": {"context": {}}}])
def test_an_input_without_examples_is_refused(message: dict[str, Any]) -> None:
    """Whatever its kind."""
    with pytest.raises(ServingError, match=r"INVALID_ARGUMENT: Input is empty\."):
        serialized(input_pb2.Input(**message))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just({"b64": "YQ=="}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("signature_name", "context", "examples"), VALUES)))
def test_whatever_a_body_holds_is_taken_or_refused(body: Any) -> None:
    """INVALID_ARGUMENT is all that can be raised, and what was taken is a message that can be sent."""
    refusal = None
    try:
        request = filled(body)
    except ServingError as exc:
        refusal = exc
    if refusal is not None:
        assert refusal.code is StatusCode.INVALID_ARGUMENT
    else:
        assert len(serialized(request.input)) == len(body["examples"])
        request.SerializeToString()


@pytest.mark.parametrize("text", [rb"\ud800", b"\xff"])
def test_names_that_are_no_text_are_mended(text: bytes) -> None:
    """A lone surrogate and a stray byte, in a signature's name and a feature's; in values they stay as they are."""
    request = filled(b'{"signature_name": "%b", "examples": [{"%b": "%b"}]}' % (text, text, text))
    assert set(request.model_spec.signature_name) == {"\ufffd"}
    ((name, feature),) = request.input.example_list.examples[0].features.feature.items()
    assert set(name) == {"\ufffd"}
    assert feature.bytes_list.value[0] in {b"\xed\xa0\x80", b"\xff"}
