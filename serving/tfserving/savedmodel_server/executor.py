"""One loaded SavedModel: a session as TensorFlow Serving has it, its signatures resolved once.

A session, rather than TensorFlow 2's restored functions: it is what TensorFlow Serving runs, so that kernels fail with
the same texts, outputs that nobody wants are not computed, a call that is out of time is cancelled in the middle, and
a call costs a fifth of a function call from Python.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import tensorflow as tf
from grpc import StatusCode
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session

from serving.tfserving.savedmodel_server import tensors
from serving.tfserving.savedmodel_server.errors import DEADLINE_TEXT, ServingError, invalid, of_number
from serving.tfserving.savedmodel_server.tensors import NDArray, PartialShape

SERVE = "serve"
DEFAULT_SIGNATURE = "serving_default"
INIT_OP = "__saved_model_init_op"
TRAIN_OP = "__saved_model_train_op"
# Listed among the signatures, with operations where a signature has tensors; they cannot be called.
NO_SIGNATURES = (INIT_OP, TRAIN_OP)
MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")

SignatureDef: TypeAlias = meta_graph_pb2.SignatureDef
TensorProto: TypeAlias = tensor_pb2.TensorProto


class Servable(Protocol):
    """What the versions and the doors need of a loaded model."""

    @property
    def signature_defs(self) -> Mapping[str, SignatureDef]:
        """Every signature as the SavedModel declares it."""
        ...

    def signature(self, name: str) -> Signature | None:
        """The signature of that name ("" is `serving_default`); None where there is none."""
        ...

    def close(self) -> None:
        """Frees what the model holds; no call may be under way."""
        ...


class Execute(Protocol):
    """Computes the wanted outputs of a signature for one array per input, checked already; any thread may call it.

    `deadline` is a time.monotonic(). Raises ServingError: DEADLINE_EXCEEDED out of time, and TensorFlow's own code and
    text where a kernel refuses.
    """

    def __call__(
        self, arrays: Mapping[str, NDArray], wanted: Sequence[str], deadline: float | None
    ) -> dict[str, NDArray]:
        """The outputs by alias."""
        ...


Wrap: TypeAlias = Callable[[SignatureDef, Execute], Execute]


class Signature:
    """One signature of a loaded model, over whatever executes it."""

    def __init__(
        self, name: str, definition: SignatureDef, execute: Execute, shapes: Mapping[str, PartialShape] | None = None
    ) -> None:
        """`shapes` of the inputs by alias, -1 for any size: those that the definition declares unless given."""
        self.name = name
        self.method_name: str = definition.method_name
        self.inputs = {alias: definition.inputs[alias] for alias in sorted(definition.inputs)}
        self.outputs = {alias: definition.outputs[alias] for alias in sorted(definition.outputs)}
        self.defaults: dict[str, TensorProto] = dict(definition.defaults)
        # Sorted as a session sorts its feeds: `arg[i]` in an error text is the place in this order.
        self._order = sorted(self.inputs, key=lambda alias: self.inputs[alias].name)
        self._shapes = shapes or {alias: tensors.partial_shape(info) for alias, info in self.inputs.items()}
        self._execute = execute

    def run(
        self, arrays: Mapping[str, NDArray], wanted: Sequence[str], deadline: float | None = None
    ) -> dict[str, NDArray]:
        """The wanted outputs for one array per input. Any thread may call this, several at once.

        `deadline` is a time.monotonic(). Raises INVALID_ARGUMENT for a wrong dtype or shape, and as `Execute` does.
        """
        for place, alias in enumerate(self._order):
            self._check_dtype(place, alias, arrays[alias])
            self._check_shape(place, alias, arrays[alias])
        return self._execute(arrays, wanted, deadline)

    def _check_dtype(self, place: int, alias: str, array: NDArray) -> None:
        dtype = self.inputs[alias].dtype
        expected = tensors.DATA_TYPES.get(dtype)
        if expected is None or array.dtype != expected.dtype:
            given = next(kind.word for kind in tensors.DATA_TYPES.values() if kind.dtype == array.dtype)
            raise invalid(f"Expects arg[{place}] to be {tensors.word_of(dtype)} but {given} is provided")

    def _check_shape(self, place: int, alias: str, array: NDArray) -> None:
        """What Session.run checks, and the C++ session does not: without it one request may end the whole process.

        oneDNN's convolution ends it: fewer than four dimensions fail a CHECK in it, which is no error to be caught.
        """
        declared = self._shapes[alias]
        if declared is None:
            return
        shape = array.shape
        if len(shape) != len(declared) or any(
            size not in (-1, given) for size, given in zip(declared, shape, strict=True)
        ):
            raise invalid(
                f"Expects arg[{place}] to be of shape {tensors.shape_text(declared)} but "
                f"{tensors.shape_text(shape)} is provided"
            )


class SavedModel:
    """A SavedModel in memory. Raises ServingError where it cannot be loaded.

    `wrap` may put something before each signature's execution, such as a batcher.
    """

    def __init__(
        self,
        path: Path,
        *,
        tags: Sequence[str] = (SERVE,),
        config: config_pb2.ConfigProto | None = None,
        wrap: Wrap | None = None,
    ) -> None:
        # Nothing is shared between versions but TensorFlow's thread pools, which the first session makes.
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        try:
            with self._session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(self._session, list(tags), str(path))
            self._definitions: dict[str, SignatureDef] = dict(meta_graph.signature_def)
            self._signatures = {
                name: self._signature(name, definition, wrap)
                for name, definition in self._definitions.items()
                if name not in NO_SIGNATURES
            }
        except Exception as exc:
            self._session.close()
            raise _load_error(exc, path, tags) from exc

    @property
    def signature_defs(self) -> Mapping[str, SignatureDef]:
        """Every signature as the SavedModel declares it, the initialiser's included."""
        return self._definitions

    @property
    def device(self) -> str:
        """Where TensorFlow puts every operation that can run there: `GPU:0` where it has one, else `CPU:0`."""
        names = [device.name.rpartition("device:")[2] for device in self._session.list_devices()]
        return next((name for name in names if name.startswith("GPU")), "CPU:0")

    def signature(self, name: str) -> Signature | None:
        """The signature of that name ("" is `serving_default`); None where there is none."""
        return self._signatures.get(name or DEFAULT_SIGNATURE)

    def close(self) -> None:
        """Frees the session; no call may be under way."""
        self._session.close()

    def _signature(self, name: str, definition: SignatureDef, wrap: Wrap | None) -> Signature:
        execute: Execute = _SessionRun(definition, self._session)
        return Signature(name, definition, wrap(definition, execute) if wrap else execute)


class _SessionRun:
    """Executes one signature in a session, whose handles it looks up once."""

    def __init__(self, definition: SignatureDef, session: tf.compat.v1.Session) -> None:
        self._session = session
        self._dtypes = {alias: info.dtype for alias, info in definition.outputs.items()}
        self._feeds = _handles(session.graph, definition.inputs)
        self._fetches = _handles(session.graph, definition.outputs)

    def __call__(
        self, arrays: Mapping[str, NDArray], wanted: Sequence[str], deadline: float | None
    ) -> dict[str, NDArray]:
        feeds = {handle: arrays[alias] for alias, handle in _plain(self._feeds, self._feeds)}
        fetches = [handle for _, handle in _plain(self._fetches, wanted)]
        run_options = config_pb2.RunOptions(timeout_in_ms=left_ms(deadline))
        options = pywrap_tf_session.TF_NewBufferFromString(run_options.SerializeToString())
        try:
            # Session.run says the same in five times the time: it looks every name up anew and copies the feeds.
            values = self._session._call_tf_sessionrun(options, feeds, fetches, [], None)
        except tf.errors.OpError as exc:
            raise of_number(exc.error_code, exc.message) from exc
        finally:
            pywrap_tf_session.TF_DeleteBuffer(options)
        return {
            alias: tensors.as_array(value, self._dtypes[alias]) for alias, value in zip(wanted, values, strict=True)
        }


def _handles(graph: tf.Graph, infos: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, Any]:
    """The runtime's handle of every tensor by alias; None for what is no plain tensor (sparse, composite)."""
    return {
        alias: graph.get_tensor_by_name(info.name)._as_tf_output() if info.name else None
        for alias, info in infos.items()
    }


def _plain(handles: Mapping[str, Any], aliases: Iterable[str]) -> list[tuple[str, Any]]:
    for alias in aliases:
        if handles[alias] is None:
            raise ServingError(StatusCode.UNIMPLEMENTED, f"{alias} is no plain tensor")
    return [(alias, handles[alias]) for alias in aliases]


def left_ms(deadline: float | None) -> int:
    """The milliseconds until a time.monotonic(), 0 without one; raises DEADLINE_EXCEEDED where it is over."""
    if deadline is None:
        return 0
    left = math.ceil((deadline - time.monotonic()) * 1000)
    if left <= 0:
        raise ServingError(StatusCode.DEADLINE_EXCEEDED, DEADLINE_TEXT)
    return left


def _load_error(exc: Exception, path: Path, tags: Sequence[str]) -> ServingError:
    """The loader's error as TensorFlow Serving's own loader would tell it (tensorflow/cc/saved_model)."""
    text = str(exc)
    match exc:
        case ServingError():
            return exc
        case tf.errors.OpError():
            return of_number(exc.error_code, exc.message)
        case OSError() if any((path / name).exists() for name in MODEL_FILES):
            return ServingError(StatusCode.DATA_LOSS, f"Can't parse {path / MODEL_FILES[0]} as binary proto")
        case OSError():
            return ServingError(
                StatusCode.NOT_FOUND,
                f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}. Check that the "
                "directory exists and that you have the right permissions for accessing it.",
            )
        case RuntimeError() if "could not be found in SavedModel" in text:
            return ServingError(
                StatusCode.NOT_FOUND,
                f"Could not find meta graph def matching supplied tags: {{ {' '.join(tags)} }}. To inspect available "
                "tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`",
            )
    return ServingError(StatusCode.UNKNOWN, f"{type(exc).__name__}: {text}")
