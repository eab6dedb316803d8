"""What clients of TensorFlow Serving and of TorchServe can ask beside an inference, and how they are refused."""

from __future__ import annotations

import pytest

from tests.integration.clients.world import MODEL, STACKS, World

pytestmark = pytest.mark.clients

SHAPE = "input 'image' has shape [1, 4]; expected [-1, 8, 8, 1] (-1: any size)"
LATEST = "Servable not found for request: Latest(nope)"
SPECIFIC = "Servable not found for request: Specific(digits, 99)"
OVMS = "ovmsclient.tfs_compat.base.errors"


@pytest.mark.parametrize("stack", STACKS)
def test_tensorflow_serving_clients_learn_of_the_model(world: World, stack: str) -> None:
    """Metadata unpacks with the official messages, and says of TorchServe's model what it says of any other."""
    told = world.tell("tensorflow_serving", stack)
    about = told["grpc_about"]
    assert about["version"] == 1
    assert about["tensors"] == {"image": ["float32", [-1, 8, 8, 1]], "probabilities": ["float32", [-1, 10]]}
    assert about["method"] == "tensorflow/serving/predict"
    assert about["states"] == {"1": "AVAILABLE"}
    (version,) = told["rest_about"]["status"]["model_version_status"]
    assert (version["version"], version["state"]) == ("1", "AVAILABLE")
    assert told["rest_about"]["metadata"]["model_spec"] == {"name": MODEL, "signature_name": "", "version": "1"}


@pytest.mark.parametrize("stack", STACKS)
def test_the_model_spec_of_an_answer_is_complete(world: World, stack: str) -> None:
    """Name, version and signature, with version, signature and output filter asked for."""
    told = world.tell("tensorflow_serving", stack)["grpc_spec"]
    assert {name: told[name] for name in ("name", "version", "signature_name", "outputs")} == {
        "name": MODEL,
        "version": 1,
        "signature_name": "serving_default",
        "outputs": ["probabilities"],
    }


@pytest.mark.parametrize("stack", STACKS)
def test_tensorflow_serving_clients_are_refused_in_its_words(world: World, stack: str) -> None:
    """Its codes and texts over both transports."""
    told = world.tell("tensorflow_serving", stack)
    over_grpc, over_rest = told["grpc_refusals"], told["rest_refusals"]
    assert over_grpc["unknown_model"] == ["NOT_FOUND", LATEST]
    assert over_grpc["unknown_version"] == ["NOT_FOUND", SPECIFIC]
    assert over_grpc["unknown_label"] == ["INVALID_ARGUMENT", "Unrecognized servable version label: nope"]
    assert over_grpc["unknown_signature"][0] == "FAILED_PRECONDITION"
    assert over_grpc["unknown_signature"][1].startswith('Serving signature key "nope" not found.')
    assert over_grpc["wrong_shape"] == ["INVALID_ARGUMENT", f"{SHAPE}, of at most 256 rows"]
    assert over_grpc["wrong_datatype"][0] == "INVALID_ARGUMENT"
    assert over_rest["unknown_model"] == [404, {"error": LATEST}]
    assert over_rest["unknown_version"] == [404, {"error": SPECIFIC}]
    assert over_rest["wrong_shape"] == [400, {"error": SHAPE.replace("[1, 4]", "[1, 2]")}]
    assert over_rest["no_rows"] == [400, {"error": "Missing 'inputs' or 'instances' key"}]


def test_methods_over_examples_are_refused_by_name(world: World) -> None:
    """Classify, Regress, MultiInference and a config reload: UNIMPLEMENTED, with what to use instead."""
    told = world.tell("tensorflow_serving", "torchserve")
    for name, (code, text) in told["grpc_beyond"].items():
        assert code == "UNIMPLEMENTED", name
        assert "use Predict" in text or "reload them at the model server" in text
    assert told["rest_refusals"]["classify"][0] == 400


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_ovmsclient_learns_of_the_model(world: World, transport: str, stack: str) -> None:
    """Metadata and status, with the version named or left to the server."""
    told = world.tell("ovms", stack)[f"{transport}_about"]
    state = {"1": {"state": "AVAILABLE", "error_code": 0, "error_message": ""}}
    assert told["status"] == told["status_of_1"] == state
    assert told["metadata"] == told["metadata_of_1"]
    if transport == "grpc":
        assert told["metadata"]["model_version"] == 1
        assert told["metadata"]["inputs"] == {"image": {"shape": [-1, 8, 8, 1], "dtype": "DT_FLOAT"}}
    else:
        # TensorFlow Serving's document as it is: the library's own form needs the names that OpenVINO's server uses.
        assert told["metadata"]["model_spec"]["version"] == "1"


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_ovmsclient_raises_what_it_documents(world: World, transport: str) -> None:
    """ModelNotFoundError and InvalidInputError, with the gateway's text."""
    told = world.tell("ovms", "torchserve")[f"{transport}_refusals"]
    for name, kind, text in (
        ("unknown_model", "ModelNotFoundError", "Specific(nope, 1)"),
        ("unknown_version", "ModelNotFoundError", SPECIFIC),
        ("wrong_shape", "InvalidInputError", SHAPE),
        ("unknown_input", "InvalidInputError", "image"),
        ("metadata", "ModelNotFoundError", "nope"),
        ("status", "ModelNotFoundError", "Could not find any versions of model nope"),
    ):
        assert told[name]["raised"] == f"{OVMS}.{kind}", told[name]
        assert text in told[name]["text"]


@pytest.mark.parametrize("stack", STACKS)
def test_torchserve_clients_learn_of_the_models(world: World, stack: str) -> None:
    """Ping over both transports, the list, and a model described."""
    told = world.tell("torchserve", stack)
    assert told["grpc_ping"] == told["rest_about"]["/ping"] == {"status": "Healthy"}
    (listed,) = told["rest_about"]["/models"]["models"]
    assert listed["modelName"] == MODEL
    (described,) = told["rest_about"][f"/models/{MODEL}"]
    assert (described["modelName"], described["modelVersion"]) == (MODEL, "1")
    assert described["workers"][0]["status"] == "READY"


@pytest.mark.parametrize("stack", STACKS)
def test_torchserve_clients_are_refused_in_its_words(world: World, stack: str) -> None:
    """Its error triple over REST; over gRPC the status that fits, its text, and its exception's class."""
    told = world.tell("torchserve", stack)
    shape = SHAPE.replace("[1, 4]", "[1, 2]")
    expected = {
        "unknown_model": (404, "NOT_FOUND", "archive.model.ModelNotFoundException", "Model not found: nope"),
        "unknown_version": (
            404,
            "NOT_FOUND",
            "archive.model.ModelVersionNotFoundException",
            "Model version: 99.0 does not exist for model: digits",
        ),
        "wrong_shape": (400, "INVALID_ARGUMENT", "http.BadRequestException", shape),
    }
    for name, (status, code, kind, text) in expected.items():
        body = {"code": status, "type": kind.rpartition(".")[2], "message": text}
        assert told["rest_refusals"][name] == [status, body]
        assert told["grpc_refusals"][name] == [code, f"{text}\norg.pytorch.serve.{kind}"]


def test_what_torchserve_has_and_the_gateway_has_not(world: World) -> None:
    """Streams and changes of the models are refused by name."""
    told = world.tell("torchserve", "tfserving")
    assert told["rest_refusals"]["unregister"][0] == 405
    code, text = told["grpc_refusals"]["stream"]
    assert (code, text) == ("UNIMPLEMENTED", "predictions are not streamed here; expected a call of Predictions")
