"""One Predict call over real SavedModels: the checks in their order, both doors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import model_pb2, predict_pb2

from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.executor import SavedModel
from serving.tfserving.savedmodel_server.predict import predict, predict_json
from serving.tfserving.savedmodel_server.versions import State, Version, Versions


@pytest.fixture
def versions(zoo: SavedModel, affine: SavedModel) -> Versions:
    """Version 1 of both models."""
    table = Versions(lambda _: None)
    table.relabel({})
    for name, model in (("zoo", zoo), ("affine", affine)):
        version = Version(name, 1, Path("/"), State.LOADING)
        table.add(version)
        table.available(version, model)
    return table


def request(signature: str = "", output_filter: tuple[str, ...] = (), **inputs: Any) -> predict_pb2.PredictRequest:
    """A request to the zoo, or to `affine` without a signature."""
    message = predict_pb2.PredictRequest(output_filter=output_filter)
    message.model_spec.name = "zoo" if signature else "affine"
    message.model_spec.signature_name = signature
    for name, value in inputs.items():
        message.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return message


def test_an_answer_names_what_gave_it(versions: Versions) -> None:
    """Model, version and the signature that was meant; the values are typed ones."""
    response = predict(versions, request(x=np.ones((1, 2), np.float32)))
    assert response.model_spec == model_pb2.ModelSpec(
        name="affine", version={"value": 1}, signature_name="serving_default"
    )
    assert list(response.outputs["y"].float_val) == [3, 3]
    assert not response.outputs["y"].tensor_content


def test_outputs_can_be_chosen(versions: Versions) -> None:
    """All of them without a filter."""
    one = np.ones(1, np.float32)
    assert set(predict(versions, request("pair", a=one, b=one)).outputs) == {"sum", "difference"}
    assert set(predict(versions, request("pair", ("sum",), a=one, b=one)).outputs) == {"sum"}


def test_defaults_of_a_signature_are_used(versions: Versions) -> None:
    """Over gRPC an input with a default may be left out, or given."""
    x = np.float32([2])
    assert list(predict(versions, request("scaled", x=x)).outputs["y"].float_val) == [6]
    assert list(predict(versions, request("scaled", x=x, scale=np.float32(5))).outputs["y"].float_val) == [10]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (predict_pb2.PredictRequest(), "INVALID_ARGUMENT: Missing ModelSpec"),
        (
            predict_pb2.PredictRequest(model_spec=model_pb2.ModelSpec()),
            "INVALID_ARGUMENT: ModelSpec has no name specified.",
        ),
        (request("nope", x=1.0), 'FAILED_PRECONDITION: Serving signature key "nope" not found.'),
        (
            request("pair", a=np.float32([1])),
            "INVALID_ARGUMENT: input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. "
            "Missing but required: {b}.",
        ),
        (
            request(x=np.float32([1]), z=1.0),
            "INVALID_ARGUMENT: input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. "
            "Missing but required: {}.",
        ),
        (
            request("pair", a=np.float32([1]), c=np.float32([1])),
            "INVALID_ARGUMENT: Signature input alias: b(feed name: pair_b:0) not found in request and no default "
            "value provided. Inputs expected to be in the request {a,c}, or default input alias set: ",
        ),
        (
            request("scaled", x=np.float32([1]), y=1.0),
            "INVALID_ARGUMENT: Inputs contains invalid name. Used request inputs: x, request input: x,y",
        ),
        (
            request("scaled", scale=np.float32(1)),
            "INVALID_ARGUMENT: Signature input alias: x(feed name: scaled_x:0) not found in request and no default "
            "value provided. Inputs expected to be in the request {scale}, or default input alias set: scale",
        ),
        (request(x=True), "INVALID_ARGUMENT: Expects arg[0] to be float but bool is provided"),
        (
            request("pair", ("nope",), a=np.float32([1]), b=np.float32([1])),
            "INVALID_ARGUMENT: output tensor alias not found in signature: nope Outputs expected to be in the set "
            "{difference,sum}.",
        ),
        (
            request("pair", ("sum", "sum"), a=np.float32([1]), b=np.float32([1])),
            "INVALID_ARGUMENT: duplicate output tensor alias: sum",
        ),
    ],
)
def test_what_is_refused_over_grpc(versions: Versions, message: predict_pb2.PredictRequest, text: str) -> None:
    """TensorFlow Serving's codes and texts."""
    with pytest.raises(ServingError) as caught:
        predict(versions, message)
    assert str(caught.value) == text


def test_a_kernel_refuses_over_grpc(versions: Versions) -> None:
    """Sizes that do not fit are found by the kernel, which names itself."""
    message = request("pair", a=np.float32([1, 2]), b=np.float32([1, 2, 3]))
    with pytest.raises(ServingError, match=r"INVALID_ARGUMENT: Incompatible shapes: .*\n\t \[\[.*\{\{node "):
        predict(versions, message)


def asked(versions: Versions, body: Any, name: str = "zoo") -> Any:
    """The answer to a JSON body, or to bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return json.loads(predict_json(versions, model_pb2.ModelSpec(name=name), data))


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"signature_name": "pair", "inputs": {"a": [3], "b": [1]}}, {"outputs": {"difference": [2], "sum": [4]}}),
        (
            {"signature_name": "pair", "instances": [{"a": 3, "b": 1}]},
            {"predictions": [{"difference": 2, "sum": 4}]},
        ),
        ({"signature_name": "scalar_out", "inputs": [1, 2]}, {"outputs": 3}),
        (
            {"signature_name": "words", "instances": ["ä", {"b64": "YQ=="}]},
            {
                "predictions": [
                    {"same_bytes": {"b64": "w6Q="}, "text": "ä"},
                    {"same_bytes": {"b64": "YQ=="}, "text": "a"},
                ]
            },
        ),
        ({"signature_name": "same_int64", "inputs": [9007199254740993]}, {"outputs": [9007199254740993]}),
        ({"signature_name": "same_uint8", "instances": [300]}, {"predictions": [44]}),
        ({"signature_name": "same_bool", "inputs": True}, {"outputs": True}),
    ],
)  # fmt: skip
def test_answers_over_rest(versions: Versions, body: Any, answer: Any) -> None:
    """Row and column form, one and several outputs."""
    assert asked(versions, body) == answer


@pytest.mark.parametrize(
    ("name", "body", "text"),
    [
        ("nope", b"{", "INVALID_ARGUMENT: JSON Parse error: Missing a name for object member. at offset: 1"),
        ("nope", {"signature_name": 1}, "INVALID_ARGUMENT: JSON Value: "),
        ("nope", {}, "NOT_FOUND: Servable not found for request: Latest(nope)"),
        ("zoo", {}, 'INVALID_ARGUMENT: Serving signature name: "serving_default" not found in signature def'),
        (
            "zoo",
            {"signature_name": "s", "inputs": 1, "instances": 1},
            'INVALID_ARGUMENT: Serving signature name: "s" not found in signature def',
        ),
        ("affine", {}, "INVALID_ARGUMENT: Missing 'inputs' or 'instances' key"),
        (
            "zoo",
            {"signature_name": "scalar_out", "instances": [1]},
            "INVALID_ARGUMENT: Tensor name: total has no shape information ",
        ),
        (
            "zoo",
            {"signature_name": "uneven", "instances": [1, 2]},
            "INVALID_ARGUMENT: Tensor name: first has inconsistent batch size: 1 expecting: 2",
        ),
        (
            "zoo",
            {"signature_name": "same_float16", "inputs": [1]},
            "UNIMPLEMENTED: Conversion of JSON Value: 1 to type: half",
        ),
        (
            "zoo",
            {"signature_name": "same_float16", "inputs": []},
            None,
        ),
        (
            "zoo",
            {"signature_name": "scaled", "inputs": {"x": [1]}},
            "INVALID_ARGUMENT: Missing named input: scale in 'inputs' object.",
        ),
        ("affine", b'{"inputs": ' + b"[" * 990, "INVALID_ARGUMENT: JSON Parse error: "),
    ],
)
def test_the_order_of_the_checks_over_rest(versions: Versions, name: str, body: Any, text: str | None) -> None:
    """Syntax, signature_name's type, model, signature, then the inputs; defaults are not used."""
    if text is None:
        assert asked(versions, body, name) == {"outputs": []}
        return
    with pytest.raises(ServingError) as caught:
        asked(versions, body, name)
    assert str(caught.value).startswith(text)
