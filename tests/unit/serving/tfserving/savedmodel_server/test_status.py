"""Answers about models: status and metadata, as messages and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf import json_format
from grpc import StatusCode
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from serving.tfserving.savedmodel_server import status
from serving.tfserving.savedmodel_server.errors import ServingError, invalid
from serving.tfserving.savedmodel_server.versions import State, Version, Versions
from tests.unit.serving.tfserving.savedmodel_server.fakes import FakeServable


@pytest.fixture
def versions() -> Versions:
    """Model m: version 2 failed, version 1 is available."""
    table = Versions(lambda _: None)
    for number in (1, 2):
        version = Version("m", number, Path("/m"), State.LOADING)
        table.add(version)
        if number == 1:
            table.available(version, FakeServable())
        else:
            table.ended(version, invalid("it is broken"))
    return table


def spec(name: str, number: int | None = None) -> model_pb2.ModelSpec:
    """A ModelSpec, perhaps with a version."""
    message = model_pb2.ModelSpec(name=name)
    if number is not None:
        message.version.value = number
    return message


def test_status_lists_the_newest_first(versions: Versions) -> None:
    """With the reason of a failure; a label is ignored, even an unknown one."""
    request = get_model_status_pb2.GetModelStatusRequest(model_spec=model_pb2.ModelSpec(name="m", version_label="x"))
    entries = status.model_status(versions, request).model_version_status
    assert [(entry.version, entry.state, entry.status.error_code) for entry in entries] == [
        (2, State.END, StatusCode.INVALID_ARGUMENT.value[0]),
        (1, State.AVAILABLE, 0),
    ]
    assert entries[0].status.error_message == "it is broken"


def test_status_as_json(versions: Versions) -> None:
    """Numbers of 64 bits are strings, defaults are written out, one space of indentation."""
    body = status.status_json(versions, spec("m", 1))
    assert body == (
        b'{\n "model_version_status": [\n  {\n   "version": "1",\n   "state": "AVAILABLE",\n   "status": {\n'
        b'    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n'
    )
    json_format.Parse(body, get_model_status_pb2.GetModelStatusResponse())


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        (spec("other"), "NOT_FOUND: Could not find any versions of model other"),
        (spec("m", 9), "NOT_FOUND: Could not find version 9 of model m"),
        (spec(""), "INVALID_ARGUMENT: Missing model name in request."),
    ],
)
def test_status_of_what_is_unknown(versions: Versions, wish: model_pb2.ModelSpec, text: str) -> None:
    """TensorFlow Serving's texts."""
    with pytest.raises(ServingError) as caught:
        status.status_json(versions, wish)
    assert str(caught.value) == text


def test_metadata_is_the_signatures_without_their_defaults(versions: Versions) -> None:
    """Packed as Any, for the version that answers."""
    request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec("m"), metadata_field=["signature_def"])
    response = status.model_metadata(versions, request)
    assert response.model_spec.version.value == 1
    packed = response.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert packed.Unpack(signatures)
    assert signatures.signature_def["serving_default"].inputs["x"].name == "x:0"
    assert not signatures.signature_def["serving_default"].defaults


def test_metadata_as_json(versions: Versions) -> None:
    """`signature_def` is doubled, sizes are strings, names are in snake case, defaults are written out."""
    document = json.loads(status.metadata_json(versions, spec("m")))
    assert document["model_spec"] == {"name": "m", "signature_name": "", "version": "1"}
    definition = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert definition["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
        "name": "x:0",
    }
    assert (definition["method_name"], definition["defaults"]) == ("predict", {})


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({}, "Missing ModelSpec"),
        (
            {"model_spec": spec("m")},
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        ({"model_spec": spec("m"), "metadata_field": ["assets"]}, "Metadata field assets is not supported"),
    ],
)
def test_metadata_requests_are_checked(versions: Versions, request_: dict[str, object], text: str) -> None:
    """In TensorFlow Serving's order."""
    with pytest.raises(ServingError) as caught:
        status.model_metadata(versions, get_model_metadata_pb2.GetModelMetadataRequest(**request_))
    assert str(caught.value) == f"INVALID_ARGUMENT: {text}"
    with pytest.raises(ServingError, match="Missing ModelSpec"):
        status.model_status(versions, get_model_status_pb2.GetModelStatusRequest())
    with pytest.raises(ServingError, match="Missing model name in request"):
        status.metadata_json(versions, spec(""))
