"""Run by `official.py`: TF Serving's official Python client against our doors, and our documents against protobuf's."""

from __future__ import annotations

import asyncio
import json

import grpc
import numpy as np
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import types_pb2
from tensorflow.python.framework import tensor_util
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from gateway._generated import tfserving_pb2
from gateway.codecs import tfserving_documents, tfserving_json_in, tfserving_proto_in
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceResponse, ModelSpec, TensorSpec
from gateway.core.tensor import NUMPY_DTYPE, Tensor
from serving.tfserving.savedmodel_server import json_request
from serving.tfserving.savedmodel_server.errors import ServingError
from tests.builders import contract
from tests.unit.gateway.frontends.world import World

SIGNATURE_DEF = "signature_def"


def assert_tensors_agree() -> None:
    """TensorFlow reads the answers that our door writes, and our door the requests that TensorFlow writes."""
    rng = np.random.default_rng(0)
    for datatype, dtype in NUMPY_DTYPE.items():
        for shape in ((), (3,), (0, 2), (2, 3)):
            array = np.empty(int(np.prod(shape)), dtype=dtype)
            array[:] = [b"\xff\0"] * array.size if datatype == "BYTES" else rng.integers(0, 2, array.size)
            array = array.reshape(shape)
            answer = InferenceResponse("m", 1, (Tensor("y", datatype, array),))
            there = predict_pb2.PredictResponse.FromString(tfserving_proto_in.encode_response(answer, None))
            assert tensor_util.MakeNdarray(there.outputs["y"]).tolist() == array.tolist(), (datatype, shape)
            assert not there.outputs["y"].tensor_content, datatype
            asked = predict_pb2.PredictRequest()
            asked.inputs["x"].CopyFrom(tensor_util.make_tensor_proto(array, shape=shape))
            model = contract(inputs=(TensorSpec("x", datatype, shape),), batch_cap=None)
            message = tfserving_pb2.PredictRequest.FromString(asked.SerializeToString())
            (here,) = tfserving_proto_in.decode_request(message, ModelSpec("m"), model).inputs
            assert (here.datatype, here.shape, here.array.tolist()) == (datatype, shape, array.tolist()), datatype


def assert_documents_agree() -> None:
    """The JSON of status and metadata is what protobuf makes of the messages, as the real server does."""
    states = [tfserving_documents.VersionState(12, True), tfserving_documents.VersionState(3, False)]
    status = get_model_status_pb2.GetModelStatusResponse.FromString(tfserving_documents.status_message(states))
    assert json.loads(tfserving_documents.status_json(states)) == as_json(status)
    model = contract().metadata((3,))
    metadata = get_model_metadata_pb2.GetModelMetadataResponse.FromString(
        tfserving_documents.metadata_message("m", {"serving_default": model}, 3)
    )
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert metadata.metadata[SIGNATURE_DEF].Unpack(signatures)
    document = json.loads(tfserving_documents.metadata_json("m", {"serving_default": model}, 3))
    assert document["metadata"][SIGNATURE_DEF] == as_json(signatures)
    assert document["model_spec"] == as_json(metadata.model_spec)


def as_json(message: object) -> object:
    """Protobuf's own JSON, with defaults and with names as in the .proto."""
    return json_format.MessageToDict(
        message,  # type: ignore[arg-type]
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )


# Models by their inputs' datatypes: one input, or two that only go by name.
MODELS = ({"x": "FP32"}, {"x": "INT64"}, {"x": "BYTES"}, {"x": "BOOL"}, {"a": "INT32", "b": "BYTES"})
DTYPES = {
    "FP32": types_pb2.DT_FLOAT,
    "INT32": types_pb2.DT_INT32,
    "INT64": types_pb2.DT_INT64,
    "BYTES": types_pb2.DT_STRING,
    "BOOL": types_pb2.DT_BOOL,
}
NUMBERS = st.integers(-5, 5) | st.floats(width=16)
LEAVES = st.none() | st.booleans() | NUMBERS | st.sampled_from(["a", "aGk=", {"b64": "aGk="}])
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "a", "b", "b64"]), inner, max_size=3)
    ),
    max_leaves=10,
)
MATRICES = st.integers(1, 3).flatmap(lambda size: st.lists(st.lists(NUMBERS, min_size=size, max_size=size), max_size=3))
FORMS = VALUES | MATRICES | MATRICES.map(lambda rows: {"x": rows}) | MATRICES.map(lambda rows: [{"x": r} for r in rows])
DOCUMENTS = st.dictionaries(st.sampled_from(["instances", "inputs", "signature_name"]), FORMS, max_size=2)


@settings(max_examples=1000, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(DOCUMENTS, st.sampled_from(MODELS))
def assert_bodies_agree(document: dict[str, object], model: dict[str, str]) -> None:
    """The stand-in, written apart from the gateway after the same server, takes and refuses the same bodies."""
    body = json.dumps(document).encode()
    there: object = None
    here: object = None
    try:
        arrays = json_request.parse(body).tensors({name: DTYPES[datatype] for name, datatype in model.items()})
        there = {name: (array.shape, repr(array.tolist())) for name, array in arrays.items()}
    except ServingError as exc:
        assert exc.http_status == 400  # noqa: PT017 - no test of pytest's
    specs = tuple(TensorSpec(name, datatype, (-1,)) for name, datatype in model.items())
    try:
        tensors = tfserving_json_in.parse(body).tensors(contract(inputs=specs))
        here = {item.name: (item.shape, repr(item.array.tolist())) for item in tensors}
    except GatewayError as exc:
        assert exc.cause in (Cause.UNPARSEABLE, Cause.INVALID_INPUT)  # noqa: PT017
    assert here == there, body


async def assert_stubs_work() -> None:
    """The official stubs reach the model on either stack, as they would TF Serving."""
    world = await World.started()
    async with world.grpc() as channel:
        predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "doubler"
        request.model_spec.signature_name = "serving_default"
        request.model_spec.version_label = "stable"
        request.inputs["x"].CopyFrom(tensor_util.make_tensor_proto([[1.0, 2.0]], shape=(1, 2)))
        for stack in ("torchserve", "tfserving"):
            answer = await predictions.Predict(request, timeout=10, metadata=(("x-stack", stack),))
            assert list(answer.outputs["y"].float_val) == [2, 4], stack
            assert answer.model_spec.version.value == 1
        about = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=[SIGNATURE_DEF])
        about.model_spec.name = "doubler"
        assert SIGNATURE_DEF in (await predictions.GetModelMetadata(about)).metadata
        asked = get_model_status_pb2.GetModelStatusRequest()
        asked.model_spec.name = "doubler"
        (found,) = (await models.GetModelStatus(asked)).model_version_status
        assert (found.version, found.state) == (1, get_model_status_pb2.ModelVersionStatus.AVAILABLE)
        request.model_spec.name = "nope"
        request.model_spec.version.value = 2
        try:
            await predictions.Predict(request)
        except grpc.aio.AioRpcError as exc:
            assert exc.code() is grpc.StatusCode.NOT_FOUND  # noqa: PT017 - no test of pytest's
            assert exc.details() == "Servable not found for request: Specific(nope, 2)"  # noqa: PT017
        else:
            raise AssertionError("an unknown model was answered")


def compare() -> None:
    """All comparisons."""
    assert_tensors_agree()
    assert_documents_agree()
    assert_bodies_agree()
    asyncio.run(assert_stubs_work())
