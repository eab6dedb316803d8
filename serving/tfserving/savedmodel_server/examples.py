"""tf.Examples: from the JSON body of a REST classify or regress call, and from an Input to the strings a model takes.

Rules and texts of util/json_tensor.cc and servables/tensorflow/util.cc.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import input_pb2, model_pb2

from serving.tfserving.savedmodel_server import json_values, rapidjson
from serving.tfserving.savedmodel_server.errors import ServingError, invalid
from serving.tfserving.savedmodel_server.json_request import parse
from serving.tfserving.savedmodel_server.json_values import echo, is_base64, type_word
from serving.tfserving.savedmodel_server.rapidjson import Json
from serving.tfserving.savedmodel_server.tensors import NDArray

Example: TypeAlias = example_pb2.Example
Feature: TypeAlias = feature_pb2.Feature

CONTEXT = "context"
EXAMPLES = "examples"

_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}
_MAX_INT64 = 2**63 - 1
_MAX_UINT64 = 2**64 - 1
_MIN_INT64 = -(2**63)


class ExamplesRequest(Protocol):
    """A ClassificationRequest or a RegressionRequest."""

    @property
    def model_spec(self) -> model_pb2.ModelSpec:
        """The model asked."""
        ...

    @property
    def input(self) -> input_pb2.Input:
        """Its examples."""
        ...

    def HasField(self, field_name: str) -> bool:  # noqa: N802 - protobuf's name
        """Whether a field is set."""
        ...


def fill(request: ExamplesRequest, body: bytes) -> None:
    """Puts a REST body's signature name and examples into a request; raises INVALID_ARGUMENT.

    All of the body is checked, before anybody looks for the model.
    """
    document = parse(body)
    request.model_spec.signature_name = _text(document.signature_name)
    members = document.document
    context = _example(members[CONTEXT]) if CONTEXT in members else None
    if EXAMPLES not in members:
        # The text is the same for regress.
        raise _malformed(members, f"When method is classify, key '{EXAMPLES}' is expected and was not found")
    given = members[EXAMPLES]
    if not isinstance(given, list):
        raise _malformed(members, f"Expecting '{EXAMPLES}' value to be an list/array")
    if not given:
        raise _malformed(members, f"'{EXAMPLES}' value is an empty array")
    examples = [_example(value) for value in given]
    if context is None:
        request.input.example_list.examples.extend(examples)
    else:
        request.input.example_list_with_context.context.CopyFrom(context)
        request.input.example_list_with_context.examples.extend(examples)


def serialized(message: input_pb2.Input) -> NDArray:
    """The examples as the DT_STRING [n] that a model parses; raises INVALID_ARGUMENT where there are none.

    A context is merged into every example as protobuf merges messages: its bytes come first, so that a feature of the
    example itself wins.
    """
    head = b""
    examples = message.example_list.examples
    if message.WhichOneof("kind") == "example_list_with_context":
        examples = message.example_list_with_context.examples
        head = message.example_list_with_context.context.SerializeToString()
    if not examples:
        raise invalid("Input is empty.")
    strings = np.empty(len(examples), object)
    strings[:] = [head + example.SerializeToString() for example in examples]
    return strings


def _example(value: Json) -> Example:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {type_word(value)}")
    example = Example()
    for key, content in value.items():
        name = _text(key)
        feature = Feature()
        for item in content if isinstance(content, list) else [content]:
            _add(item, name, feature)
        example.features.feature[name].CopyFrom(feature)
    return example


def _add(value: Json, name: str, feature: Feature) -> None:
    """Adds one value to a feature, whose kind the first one decides."""
    if isinstance(value, bool):
        _check_kind(feature, "int64_list", name)
        feature.int64_list.value.append(int(value))
    elif is_base64(value):
        _check_kind(feature, "bytes_list", name)
        feature.bytes_list.value.append(json_values.from_base64(value))
    elif isinstance(value, str):
        _check_kind(feature, "bytes_list", name)
        feature.bytes_list.value.append(rapidjson.to_bytes(value))
    elif isinstance(value, int) and _MIN_INT64 <= value <= _MAX_UINT64:
        _check_kind(feature, "int64_list", name)
        if value > _MAX_INT64:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        feature.int64_list.value.append(value)
    elif isinstance(value, int | float):
        # A whole number outside 64 bits is a double to RapidJSON.
        _check_kind(feature, "float_list", name)
        feature.float_list.value.append(json_values.float_leaf(value, types_pb2.DT_FLOAT))
    else:
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {type_word(value)}")


def _check_kind(feature: Feature, kind: str, name: str) -> None:
    has = feature.WhichOneof("kind")
    if has not in (None, kind):
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {_KINDS[has]}")


def _text(text: str) -> str:
    """A parsed string as a protobuf string can hold it: what is no UTF-8 is replaced, where C++ would let it pass."""
    return rapidjson.to_bytes(text).decode("utf-8", "replace")


def _malformed(document: dict[str, Json], text: str) -> ServingError:
    return invalid(f"JSON Value: {echo(document)} {text}")
