"""Run in a process of its own: our messages beside the official packages, in one process and byte for byte.

Official are TensorFlow's and TF Serving's Python packages, and the .proto files inside TorchServe's own jar, which
hold its API and its copy of the Open Inference Protocol. Prints `ok` at the end; any difference is an AssertionError.
"""

from __future__ import annotations

import importlib.util
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc_tools
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from grpc_tools import protoc
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import error_codes_pb2, meta_graph_pb2
from tensorflow.python.framework import tensor_util
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
    status_pb2,
)

import gateway
from gateway._generated import oip_pb2, tensorflow_pb2, tfserving_pb2, torchserve_pb2
from gateway.codecs import tfserving_proto
from gateway.core.messages import InferenceRequest, ModelSpec
from gateway.core.tensor import NUMPY_DTYPE, Tensor
from tests.unit.gateway.codecs import official_tfserving

PROTOS = Path(gateway.__file__).parent / "protos"

# Our fields that TorchServe's copy of the Open Inference Protocol lacks; the published protocol has them.
NEWER = {"ModelMetadataResponse.properties", "InferParameter.double_param", "InferParameter.uint64_param"}

# Messages of Triton's extensions, which TorchServe's copy lacks too.
EXTENSIONS = {"ModelStreamInferResponse", "RepositoryIndexRequest", "RepositoryIndexResponse"}


def official_tensorflow() -> Iterator[tuple[type[Message], type[Message]]]:
    """Ours and theirs, message by message."""
    for theirs in (
        tensor_pb2.TensorProto,
        tensor_shape_pb2.TensorShapeProto,
        meta_graph_pb2.TensorInfo,
        meta_graph_pb2.SignatureDef,
    ):
        yield getattr(tensorflow_pb2, theirs.DESCRIPTOR.name), theirs
    for theirs in (
        model_pb2.ModelSpec,
        predict_pb2.PredictRequest,
        predict_pb2.PredictResponse,
        get_model_metadata_pb2.SignatureDefMap,
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataResponse,
        get_model_status_pb2.GetModelStatusRequest,
        get_model_status_pb2.GetModelStatusResponse,
        get_model_status_pb2.ModelVersionStatus,
        status_pb2.StatusProto,
    ):
        yield getattr(tfserving_pb2, theirs.DESCRIPTOR.name), theirs


def compiled(folders: Sequence[Path | str], files: Sequence[str]) -> descriptor_pool.DescriptorPool:
    """The files' descriptors, in a pool of their own."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "set.bin"
        include = [f"--proto_path={path}" for path in (*folders, Path(grpc_tools.__file__).parent / "_proto")]
        assert protoc.main(["protoc", *include, "--include_imports", f"--descriptor_set_out={result}", *files]) == 0
        descriptors = descriptor_pb2.FileDescriptorSet.FromString(result.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in descriptors.file:
        pool.Add(file)
    return pool


def torchserve_pool() -> descriptor_pool.DescriptorPool:
    """TorchServe's own API and its copy of the Open Inference Protocol, from the jar in the torchserve package."""
    origin = importlib.util.find_spec("ts")
    assert origin is not None
    assert origin.origin is not None
    jar = Path(origin.origin).parent / "frontend" / "model-server.jar"
    files = ["inference.proto", "open_inference_grpc.proto", "google/rpc/status.proto"]
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(jar) as archive:
        archive.extractall(folder, files)
        return compiled([folder], files)


def official_torchserve(pool: descriptor_pool.DescriptorPool) -> Iterator[tuple[type[Message], type[Message]]]:
    """Ours and theirs, message by message."""
    for name, ours in (("inference.proto", torchserve_pb2), ("open_inference_grpc.proto", oip_pb2)):
        for message, descriptor in pool.FindFileByName(name).message_types_by_name.items():
            if hasattr(ours, message):
                yield getattr(ours, message), message_factory.GetMessageClass(descriptor)


def assert_services_agree(torchserve: descriptor_pool.DescriptorPool) -> None:
    """Our .proto files declare, under the real names, methods that the official services have."""
    pool = compiled([PROTOS], sorted(path.name for path in PROTOS.glob("*.proto")))
    theirs = {
        "tensorflow.serving.PredictionService": prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"],
        "tensorflow.serving.ModelService": model_service_pb2.DESCRIPTOR.services_by_name["ModelService"],
        "org.pytorch.serve.grpc.inference.InferenceAPIsService": torchserve.FindServiceByName(
            "org.pytorch.serve.grpc.inference.InferenceAPIsService"
        ),
        # TorchServe serves the protocol under a package name of its own.
        "inference.GRPCInferenceService": torchserve.FindServiceByName(
            "org.pytorch.serve.grpc.openinference.GRPCInferenceService"
        ),
    }
    for name, service in theirs.items():
        for method in pool.FindServiceByName(name).methods:
            other = service.methods_by_name.get(method.name)
            if other is None:
                assert method.input_type.name in EXTENSIONS or method.output_type.name in EXTENSIONS, method.full_name
                continue
            assert method.input_type.name == other.input_type.name, method.full_name
            assert method.output_type.name == other.output_type.name, method.full_name


def assert_fields_agree(ours: Descriptor, theirs: Descriptor) -> None:
    """Every field of ours has theirs' number, name, type, label and JSON name; likewise in nested messages."""
    for field in ours.fields:
        where = f"{ours.name}.{field.name}"
        other = theirs.fields_by_number.get(field.number)
        if other is None:
            assert where in NEWER, where
            continue
        assert (field.name, field.type, field.json_name) == (other.name, other.type, other.json_name), where
        assert (field.is_repeated, field.has_presence) == (other.is_repeated, other.has_presence), where
        if field.enum_type is not None:
            assert_values_agree(field.enum_type, other.enum_type)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            assert_fields_agree(field.message_type, other.message_type)
    for name, nested in ours.nested_types_by_name.items():
        other = theirs.nested_types_by_name.get(name)
        if other is None and nested.name == "Status":  # google.rpc.Status, nested in ours only
            other = theirs.fields_by_name["status"].message_type
        if other is not None:
            assert_fields_agree(nested, other)


def assert_values_agree(ours: EnumDescriptor, theirs: EnumDescriptor) -> None:
    """Every value of ours has theirs' number."""
    for value in ours.values:
        assert theirs.values_by_number[value.number].name == value.name, f"{ours.name}.{value.name}"


def filled(message: Message, depth: int = 0) -> Message:
    """The message with every field set, down to a few levels; of a oneof, the last one stays."""
    for field in message.DESCRIPTOR.fields:
        if field.full_name.startswith("google.protobuf.Any"):
            message.type_url, message.value = "type.googleapis.com/tensorflow.serving.SignatureDefMap", b""  # type: ignore[attr-defined]
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            fill_map(getattr(message, field.name), field, depth)
        elif field.message_type is not None:
            if depth < 4:
                value = getattr(message, field.name)
                filled(value.add() if field.is_repeated else value, depth + 1)
                if not field.is_repeated:
                    value.SetInParent()
        elif field.is_repeated:
            getattr(message, field.name).extend([scalar(field)] * 2)
        else:
            setattr(message, field.name, scalar(field))
    return message


def fill_map(target: object, field: FieldDescriptor, depth: int) -> None:
    """One entry."""
    value = field.message_type.fields_by_name["value"]
    if value.message_type is None:
        target["key"] = scalar(value)  # type: ignore[index]
    else:
        filled(target["key"], depth + 1)  # type: ignore[index]


def scalar(field: FieldDescriptor) -> object:
    """A value that is not the default."""
    if field.enum_type is not None:
        return field.enum_type.values[1].number
    return {"string": "é", "bytes": b"\xff\0", "bool": True, "float": 0.5, "double": 0.5}.get(
        {1: "double", 2: "float", 8: "bool", 9: "string", 12: "bytes"}.get(field.type, ""), 300
    )


def assert_bytes_agree(ours: type[Message], theirs: type[Message]) -> None:
    """What we write they read and write again the same, and the other way round."""
    sent = filled(ours()).SerializeToString(deterministic=True)
    there = theirs.FromString(sent)
    assert there.SerializeToString(deterministic=True) == sent, ours.DESCRIPTOR.name
    # Their own fields that ours lacks survive in ours as unknown ones, and are dropped before comparing ours.
    theirs_sent = filled(theirs()).SerializeToString(deterministic=True)
    here = ours.FromString(theirs_sent)
    again = theirs.FromString(here.SerializeToString(deterministic=True))
    assert again == theirs.FromString(theirs_sent), ours.DESCRIPTOR.name


def assert_tensors_agree() -> None:
    """TensorFlow reads the tensors that our codec writes, and our codec those that TensorFlow writes."""
    rng = np.random.default_rng(0)
    for datatype, dtype in NUMPY_DTYPE.items():
        for shape in ((), (3,), (0, 2), (2, 3)):
            array = np.empty(int(np.prod(shape)), dtype=dtype)
            array[:] = (
                [b"\xff\0%d" % n for n in range(array.size)] if datatype == "BYTES" else rng.integers(0, 2, array.size)
            )
            array = array.reshape(shape)
            sent = tfserving_proto.encode_request(InferenceRequest(ModelSpec("m"), (Tensor("x", datatype, array),)))
            there = predict_pb2.PredictRequest.FromString(sent).inputs["x"]
            back = tensor_util.MakeNdarray(there)
            assert back.tolist() == array.tolist(), (datatype, shape)
            reply = predict_pb2.PredictResponse()
            reply.outputs["x"].CopyFrom(tensor_util.make_tensor_proto(array, shape=shape))
            (here,) = tfserving_proto.decode_response(reply.SerializeToString()).outputs
            assert (here.datatype, here.shape, here.array.tolist()) == (datatype, shape, array.tolist()), datatype
    repeated = predict_pb2.PredictResponse()
    repeated.outputs["x"].CopyFrom(tensor_util.make_tensor_proto(7.0, shape=(2, 2), dtype=types_pb2.DT_FLOAT))
    assert tfserving_proto.decode_response(repeated.SerializeToString()).outputs[0].array.tolist() == [[7, 7], [7, 7]]


def main() -> None:
    """All comparisons."""
    torchserve = torchserve_pool()
    assert_services_agree(torchserve)
    pairs = [*official_tensorflow(), *official_torchserve(torchserve)]
    names = {ours.DESCRIPTOR.name for ours, _ in pairs}
    for module in (oip_pb2, tensorflow_pb2, tfserving_pb2, torchserve_pb2):
        missing = set(module.DESCRIPTOR.message_types_by_name) - names - EXTENSIONS
        assert not missing, missing
    for ours, theirs in pairs:
        assert_fields_agree(ours.DESCRIPTOR, theirs.DESCRIPTOR)
        assert_bytes_agree(ours, theirs)
    assert_values_agree(tensorflow_pb2.DataType.DESCRIPTOR, types_pb2.DataType.DESCRIPTOR)
    assert_values_agree(tfserving_pb2.StatusProto.Code.DESCRIPTOR, error_codes_pb2.Code.DESCRIPTOR)
    assert_tensors_agree()
    official_tfserving.compare()
    print("ok", len(pairs))


if __name__ == "__main__":
    main()
