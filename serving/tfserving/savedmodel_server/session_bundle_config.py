"""Messages that tensorflow-serving-api leaves out, in a pool of their own, and how their text is read.

SessionBundleConfig, BatchingParameters and ModelWarmupOptions of servables/tensorflow/session_bundle_config.proto, and
the SavedModelBundleSourceAdapterConfig that a PlatformConfigMap wraps them in; MonitoringConfig and SSLConfig of
config/. A pool of their own, so that they never clash with an installation that brings the official ones.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from google.protobuf.descriptor import FileDescriptor
from grpc import StatusCode
from tensorflow.core.protobuf import config_pb2, named_tensor_pb2
from tensorflow_serving.config import platform_config_pb2

from serving.tfserving.savedmodel_server.batch_queue import BatchingOptions
from serving.tfserving.savedmodel_server.errors import ServingError, invalid

_PACKAGE = "tensorflow.serving"
_INT, _STRING, _BOOL, _TEXT = (
    f".google.protobuf.{name}" for name in ("Int64Value", "StringValue", "BoolValue", "Int32Value")
)
# Name, number, type: a message's full name, or a scalar's; `repeated` where it begins with a star.
_Fields: TypeAlias = tuple[tuple[str, int, str], ...]
_MESSAGES: dict[str, _Fields] = {
    "BatchingParameters": (
        ("max_batch_size", 1, _INT),
        ("batch_timeout_micros", 2, _INT),
        ("max_enqueued_batches", 3, _INT),
        ("num_batch_threads", 4, _INT),
        ("thread_pool_name", 5, _STRING),
        ("allowed_batch_sizes", 6, "*int64"),
        ("pad_variable_length_inputs", 7, "bool"),
        ("enable_large_batch_splitting", 8, _BOOL),
        ("max_execution_batch_size", 9, _INT),
    ),
    "ModelWarmupOptions": (
        ("num_request_iterations", 1, _TEXT),
        ("num_model_warmup_threads", 2, _TEXT),
    ),
    "SessionBundleConfig": (
        ("session_target", 1, "string"),
        ("session_config", 2, ".tensorflow.ConfigProto"),
        ("batching_parameters", 3, f".{_PACKAGE}.BatchingParameters"),
        ("session_run_load_threadpool_index", 4, _TEXT),
        ("experimental_transient_ram_bytes_during_load", 5, "uint64"),
        ("saved_model_tags", 6, "*string"),
        ("experimental_fixed_input_tensors", 778, "*.tensorflow.NamedTensorProto"),
        ("enable_model_warmup", 779, "bool"),
        ("model_warmup_options", 780, f".{_PACKAGE}.ModelWarmupOptions"),
        ("enable_session_metadata", 781, "bool"),
        ("remove_unused_fields_from_bundle_metagraph", 782, "bool"),
        ("prefer_tflite_model", 783, "bool"),
    ),
    "SavedModelBundleSourceAdapterConfig": (("legacy_config", 1000, f".{_PACKAGE}.SessionBundleConfig"),),
    "PrometheusConfig": (
        ("enable", 1, "bool"),
        ("path", 2, "string"),
    ),
    "MonitoringConfig": (("prometheus_config", 1, f".{_PACKAGE}.PrometheusConfig"),),
    "SSLConfig": (
        ("server_key", 1, "string"),
        ("server_cert", 2, "string"),
        ("custom_ca", 3, "string"),
        ("client_verify", 4, "bool"),
    ),
}
_SCALARS = {
    name: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in ("int64", "uint64", "bool", "string")
}
_BORROWED = (wrappers_pb2, config_pb2, named_tensor_pb2, platform_config_pb2)


def batching_options(path: Path) -> BatchingOptions:
    """The BatchingParameters in a file; raises ServingError naming the file and what is wrong with it."""
    return options_of(read(path, "BatchingParameters"))


def default_options() -> BatchingOptions:
    """What --enable_batching means without a file (model_servers/server.cc)."""
    return BatchingOptions(threads=os.cpu_count() or 1, thread_pool_name="model_server_batch_threads")


def read(path: Path, name: str) -> Any:  # noqa: ANN401 - a message of the pool, whose fields no type checker knows
    """A message of that name from a file in text format.

    Raises NOT_FOUND where there is no such file, and INVALID_ARGUMENT with the place of a mistake in it.
    """
    message = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))()
    try:
        text_format.Parse(path.read_text(), message, descriptor_pool=_POOL)
    except (OSError, UnicodeDecodeError) as exc:
        raise ServingError(StatusCode.NOT_FOUND, f"{path}: {getattr(exc, 'strerror', None) or exc}") from exc
    except text_format.ParseError as exc:
        raise invalid(f"Invalid protobuf file: '{path}': {exc}") from exc
    return message


def unpacked(any_message: Any, name: str) -> Any:  # noqa: ANN401 - as above
    """What an Any of the pool holds; raises INVALID_ARGUMENT where it is no message of that name."""
    expected = f"{_PACKAGE}.{name}"
    found = any_message.type_url.rpartition("/")[2]
    if found != expected:
        raise invalid(f"source_adapter_config is a {found or 'nothing'}; the stand-in takes {expected} only")
    message = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(expected))()
    message.ParseFromString(any_message.value)
    return message


def options_of(message: Any) -> BatchingOptions:  # noqa: ANN401 - as above
    """What a BatchingParameters means; raises INVALID_ARGUMENT with TensorFlow Serving's text where it cannot be."""
    defaults = BatchingOptions()

    def given(name: str, default: Any) -> Any:  # noqa: ANN401 - a wrapped number or text
        return getattr(message, name).value if message.HasField(name) else default

    splitting = given("enable_large_batch_splitting", False)
    largest = given("max_batch_size", defaults.max_batch_size)
    # Many models rely on a queue of one where they say 0 (SharedBatchScheduler::AddQueue).
    enqueued = given("max_enqueued_batches", defaults.max_enqueued_batches) or (0 if splitting else 1)
    options = BatchingOptions(
        max_batch_size=largest,
        timeout_s=given("batch_timeout_micros", 0) / 1e6,
        max_enqueued_batches=enqueued,
        threads=given("num_batch_threads", os.cpu_count() or 1),
        thread_pool_name=given("thread_pool_name", defaults.thread_pool_name),
        allowed_sizes=tuple(message.allowed_batch_sizes),
        pad_inputs=message.pad_variable_length_inputs,
        splitting=splitting,
        max_execution_size=given("max_execution_batch_size", largest) if splitting else largest,
    )
    _check(options)
    return options


def _check(options: BatchingOptions) -> None:
    limit = "max_execution_batch_size" if options.splitting else "max_batch_size"
    if options.threads < 1:
        raise invalid(f"num_batch_threads must be positive; was {options.threads}")
    if options.max_batch_size < 1:
        raise invalid(f"input_batch_size_limit must be positive; was {options.max_batch_size}")
    if options.max_execution_size < 1:
        raise invalid(f"max_execution_batch_size must be positive; was {options.max_execution_size}")
    if options.timeout_s < 0:
        raise invalid(f"batch_timeout_micros must be non-negative; was {round(options.timeout_s * 1e6)}")
    if options.max_enqueued_batches < 1:
        raise invalid(f"max_enqueued_batches must be positive; was {options.max_enqueued_batches}")
    if options.max_execution_size > options.max_batch_size:
        raise invalid(
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
            "max_execution_batch_size."
        )
    sizes = options.allowed_sizes
    if any(size >= larger for size, larger in pairwise(sizes)):
        raise invalid("allowed_batch_sizes entries must be monotonically increasing")
    if sizes and sizes[-1] != options.max_execution_size:
        raise invalid(
            f"Last entry in allowed_batch_sizes must match {limit}; last entry was {sizes[-1]}; expected "
            f"{options.max_execution_size}"
        )


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()
    for module in _BORROWED:
        _add(pool, module.DESCRIPTOR, added)
    file = descriptor_pb2.FileDescriptorProto(
        name="savedmodel_server/session_bundle_config.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[module.DESCRIPTOR.name for module in _BORROWED],
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            label = "LABEL_REPEATED" if kind.startswith("*") else "LABEL_OPTIONAL"
            field = message.field.add(name=field_name, number=number)
            field.label = getattr(descriptor_pb2.FieldDescriptorProto, label)
            word = kind.removeprefix("*")
            field.type = _SCALARS.get(word, descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE)
            if word not in _SCALARS:
                field.type_name = word
    pool.Add(file)
    return pool


def _add(pool: descriptor_pool.DescriptorPool, file: FileDescriptor, added: set[str]) -> None:
    """Copies a file and what it depends on into the pool."""
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add(pool, dependency, added)
    pool.AddSerializedFile(file.serialized_pb)


_POOL = _pool()
