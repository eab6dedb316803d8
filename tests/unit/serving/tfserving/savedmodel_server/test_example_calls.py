"""Classify, Regress and MultiInference over a real SavedModel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tensorflow.core.example import example_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    regression_pb2,
)

from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.example_calls import (
    classify,
    classify_json,
    multi_inference,
    regress,
    regress_json,
)
from serving.tfserving.savedmodel_server.executor import SavedModel
from serving.tfserving.savedmodel_server.metrics import Metrics
from serving.tfserving.savedmodel_server.predict import predict_json
from serving.tfserving.savedmodel_server.runtime import Runtime
from serving.tfserving.savedmodel_server.versions import Versions
from tests.unit.serving.tfserving.savedmodel_server.example_models import CLASSIFY, PREDICT, REGRESS, save_examples
from tests.unit.serving.tfserving.savedmodel_server.fakes import served


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versions]:
    """Version 1 of model `m`."""
    base = tmp_path_factory.mktemp("examples")
    save_examples(base)
    model = SavedModel(base / "1")
    yield served({"m": model})
    model.close()


def examples(*xs: float) -> input_pb2.Input:
    """An Input with one example for each x."""
    message = input_pb2.Input()
    for x in xs:
        message.example_list.examples.append(example(x=x))
    return message


def example(**features: Any) -> example_pb2.Example:
    """An example of numbers and strings."""
    message = example_pb2.Example()
    for name, value in features.items():
        kept = message.features.feature[name]
        if isinstance(value, bytes):
            kept.bytes_list.value.append(value)
        else:
            kept.float_list.value.append(value)
    return message


def spec(signature: str = "", name: str = "m") -> model_pb2.ModelSpec:
    """A model and its signature."""
    return model_pb2.ModelSpec(name=name, signature_name=signature)


def answered_by(signature: str) -> model_pb2.ModelSpec:
    """What answers name."""
    return model_pb2.ModelSpec(name="m", version={"value": 1}, signature_name=signature)


def test_classes_have_labels_and_scores(versions: Versions) -> None:
    """One list of classes for every example."""
    request = classification_pb2.ClassificationRequest(model_spec=spec(), input=examples(0.25, 1))
    answer = classify(versions, request)
    assert answer.model_spec == answered_by("serving_default")
    found = [[(one.label, one.score) for one in row.classes] for row in answer.result.classifications]
    assert found == [[("no", 0.25), ("other", 0.75)], [("no", 1), ("other", 0)]]


@pytest.mark.parametrize(
    ("signature", "pairs"),
    [("scores", [("", 0.25), ("", 0.75)]), ("classes", [("no", 0), ("other", 0)]), ("predict", [("no", 0.25)])],
)
def test_labels_or_scores_may_be_missing(versions: Versions, signature: str, pairs: list[Any]) -> None:
    """They are empty then; the method's name does not matter unless the flag says so."""
    request = classification_pb2.ClassificationRequest(model_spec=spec(signature), input=examples(0.25))
    (row,) = classify(versions, request).result.classifications
    assert [(one.label, one.score) for one in row.classes][: len(pairs)] == pairs


def test_a_label_that_is_no_text(versions: Versions) -> None:
    """REST writes its bytes as they are, gRPC replaces what no protobuf string can hold."""
    message = input_pb2.Input(example_list={"examples": [example(x=1, label=b"\xff")]})
    request = classification_pb2.ClassificationRequest(model_spec=spec("classes"), input=message)
    assert classify(versions, request).result.classifications[0].classes[0].label == "�"
    body = b'{"signature_name": "classes", "examples": [{"label": {"b64": "/w=="}}]}'
    assert b'["\xff", 0.0]' in classify_json(versions, spec(), body)


@pytest.mark.parametrize("signature", ["regress", "flat"])
def test_a_regression_is_one_value_per_example(versions: Versions, signature: str) -> None:
    """Of shape [n] or [n, 1]."""
    request = regression_pb2.RegressionRequest(model_spec=spec(signature), input=examples(0.25, 1))
    answer = regress(versions, request)
    assert answer.model_spec == answered_by(signature)
    assert [one.value for one in answer.result.regressions] == [0.5, 2]


def test_a_context_counts_for_every_example(versions: Versions) -> None:
    """Unless the example says otherwise."""
    message = input_pb2.Input(
        example_list_with_context={"context": example(x=3), "examples": [example(), example(x=1)]}
    )
    request = regression_pb2.RegressionRequest(model_spec=spec("flat"), input=message)
    assert [one.value for one in regress(versions, request).result.regressions] == [6, 2]


def test_answers_over_rest_to_the_byte(versions: Versions) -> None:
    """As RapidJSON's PrettyWriter lays them out; a version and a label are the path's."""
    body = {"examples": [{"x": 0.1}, {"x": 2.0, "label": "yes"}]}
    assert classify_json(versions, spec(), json.dumps(body).encode()) == (
        b'{\n    "results": [[["no", 0.1], ["other", 0.9]], [["yes", 2.0], ["other", -1.0]]\n    ]\n}'
    )
    body["signature_name"] = "regress"
    assert regress_json(versions, spec(), json.dumps(body).encode()) == b'{\n    "results": [0.2, 4.0]\n}'


CLASSIFY_REFUSALS = [
    ("nope", "No signature was found with the name: nope"),
    ("two_inputs", "Expected one input Tensor."),
    ("three_outputs", "Expected one or two output Tensors, found 3"),
    ("wrong_input", 'No classification inputs found in SignatureDef: inputs {\n  key: "x"'),
    (
        "wrong_outputs",
        'Expected classification signature outputs to contain at least one of "classes" or "scores". Signature was: ',
    ),
    ("flat_classes", "Expected Tensor shape: [batch_size num_classes] but got [2]"),
    ("number_classes", "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
    ("double_scores", "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
    ("short_scores", "Expected scores output batch size of 2. Got: 1"),
    ("uneven", "Tensors class and score should match in dim_size(1). Got 1 vs. 2"),
]
REGRESS_REFUSALS = [
    ("nope", "No signature was found with the name: nope"),
    ("two_inputs", "Expected one input Tensor."),
    ("two_outputs", "Expected one output Tensor."),
    ("scores", "No regression outputs found in SignatureDef: "),
    ("wide", "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,2]"),
    ("short", "Input batch size did not match output batch size: 2 vs. 1"),
    ("double", "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE"),
]


@pytest.mark.parametrize(
    ("method", "signature", "text"),
    [("classify", *row) for row in CLASSIFY_REFUSALS] + [("regress", *row) for row in REGRESS_REFUSALS],
)
def test_signatures_and_their_tensors_are_checked(versions: Versions, method: str, signature: str, text: str) -> None:
    """In TensorFlow Serving's words, the same at both doors."""
    calls: dict[str, Any] = {"classify": (classify, classify_json), "regress": (regress, regress_json)}
    kinds: dict[str, Any] = {
        "classify": classification_pb2.ClassificationRequest,
        "regress": regression_pb2.RegressionRequest,
    }
    over_grpc, over_rest = calls[method]
    with pytest.raises(ServingError) as caught:
        over_grpc(versions, kinds[method](model_spec=spec(signature), input=examples(1, 2)))
    assert str(caught.value).startswith(f"INVALID_ARGUMENT: {text}")
    body = {"signature_name": signature, "examples": [{"x": 1.0}, {"x": 2.0}]}
    with pytest.raises(ServingError) as by_rest:
        over_rest(versions, spec(), json.dumps(body).encode())
    assert str(by_rest.value) == str(caught.value)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({}, "INVALID_ARGUMENT: Missing ModelSpec"),
        ({"model_spec": spec(name="")}, "INVALID_ARGUMENT: ModelSpec has no name specified."),
        ({"model_spec": spec(name="x")}, "NOT_FOUND: Servable not found for request: Latest(x)"),
        ({"model_spec": spec()}, "INVALID_ARGUMENT: Input is empty."),
        (
            {"model_spec": spec(), "input": {"example_list": {"examples": [example(x=b"no number")]}}},
            "INVALID_ARGUMENT: Name: <unknown>, Key: x, Index: 0.",
        ),
    ],
)
def test_the_order_of_the_checks_over_grpc(versions: Versions, message: dict[str, Any], text: str) -> None:
    """Model, signature, examples, then what the model makes of them."""
    with pytest.raises(ServingError) as caught:
        classify(versions, classification_pb2.ClassificationRequest(**message))
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"examples": []}', "value is an empty array"),
        (b'{"examples": [{}]}', r"NOT_FOUND: Servable not found for request: Latest\(x\)"),
        (b'{"examples": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_the_body_is_checked_before_the_model_over_rest(versions: Versions, body: bytes, text: str) -> None:
    """All of it, unlike predict's."""
    with pytest.raises(ServingError, match=text):
        classify_json(versions, spec(name="x"), body)


def task(signature: str, method: str, name: str = "m") -> inference_pb2.InferenceTask:
    """One task of a MultiInference."""
    return inference_pb2.InferenceTask(model_spec=spec(signature, name), method_name=method)


def test_several_signatures_answer_the_same_examples(versions: Versions) -> None:
    """In the order of the tasks."""
    request = inference_pb2.MultiInferenceRequest(
        tasks=[task("regress", REGRESS), task("", CLASSIFY)], input=examples(0.25)
    )
    first, second = multi_inference(versions, request).results
    assert (first.model_spec, second.model_spec) == (answered_by("regress"), answered_by("serving_default"))
    assert [one.value for one in first.regression_result.regressions] == [0.5]
    assert [one.score for one in second.classification_result.classifications[0].classes] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("tasks", "text"),
    [
        ([], "INVALID_ARGUMENT: ModelSpec has no name specified."),
        ([task("", CLASSIFY, "x")], "NOT_FOUND: Servable not found for request: Latest(x)"),
        ([task("", CLASSIFY), task("", REGRESS, "")], "INVALID_ARGUMENT: Found ModelSpec with an empty model name."),
        (
            [task("", CLASSIFY), task("", REGRESS, "x")],
            "INVALID_ARGUMENT: All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            [task("", CLASSIFY), task("serving_default", CLASSIFY)],
            "INVALID_ARGUMENT: Duplicate evaluation of signature: serving_default",
        ),
        ([task("nope", CLASSIFY)], "INVALID_ARGUMENT: Requested signature not found in model graph: nope"),
        ([task("", PREDICT)], "UNIMPLEMENTED: Unsupported signature method_name: tensorflow/serving/predict"),
        ([task("two_outputs", REGRESS)], "INVALID_ARGUMENT: Expected one output Tensor."),
        (
            [task("", CLASSIFY), task("other_input", REGRESS)],
            "INVALID_ARGUMENT: Input tensor must be the same for all Signatures.",
        ),
    ],
)
def test_tasks_must_fit_together(versions: Versions, tasks: list[Any], text: str) -> None:
    """One model, each signature once, one input."""
    with pytest.raises(ServingError) as caught:
        multi_inference(versions, inference_pb2.MultiInferenceRequest(tasks=tasks, input=examples(1)))
    assert str(caught.value) == text


def test_method_names_are_checked_where_the_flag_says_so(versions: Versions) -> None:
    """--enable_signature_method_name_check, for all three APIs."""
    strict = Runtime(check_method_names=True)
    body = b'{"signature_name": "%b", "examples": [{}]}'
    assert classify_json(versions, spec(), body % b"scores", runtime=strict)
    with pytest.raises(ServingError, match="Expected classification signature method_name to be .*classify. Was: .*p"):
        classify_json(versions, spec(), body % b"predict", runtime=strict)
    with pytest.raises(ServingError, match="Expected regression signature method_name to be .*. Was: strange/method"):
        regress_json(versions, spec(), body % b"strange", runtime=strict)
    strange = b'{"signature_name": "strange", "inputs": []}'
    assert predict_json(versions, spec(), strange)
    with pytest.raises(ServingError, match=r"^INTERNAL: Expected prediction signature method_name .* Was: strange/me"):
        predict_json(versions, spec(), strange, runtime=strict)


def test_examples_and_latencies_are_counted() -> None:
    """Only of what was answered."""
    runtime = Runtime(Metrics())
    with pytest.raises(ServingError):
        multi_inference(served({}), inference_pb2.MultiInferenceRequest(), runtime=runtime)
    assert "example_count_total{" not in runtime.metrics.page()


def test_counts_of_an_answer(versions: Versions) -> None:
    """Three examples in one call."""
    runtime = Runtime(Metrics())
    request = regression_pb2.RegressionRequest(model_spec=spec("flat"), input=examples(1, 2, 3))
    regress(versions, request, runtime=runtime)
    lines = runtime.metrics.page().splitlines()
    assert ':tensorflow:serving:request_example_count_total{model="m"} 3' in lines
    assert ':tensorflow:serving:runtime_latency_count{model_name="m",API="Regress",runtime="TF1"} 1' in lines
