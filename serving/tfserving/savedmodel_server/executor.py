"""One loaded SavedModel: a session as TensorFlow Serving has it, its signatures resolved once.

A session, rather than TensorFlow 2's restored functions: it is what TensorFlow Serving runs, so that kernels fail with
the same texts, outputs that nobody wants are not computed, a call that is out of time is cancelled in the middle, and
a call costs a fifth of a function call from Python.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import tensorflow as tf
from grpc import StatusCode
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session

from serving.tfserving.savedmodel_server import tensors
from serving.tfserving.savedmodel_server.errors import DEADLINE_TEXT, ServingError, invalid, of_number
from serving.tfserving.savedmodel_server.tensors import NDArray

SERVE = "serve"
DEFAULT_SIGNATURE = "serving_default"
INIT_OP = "__saved_model_init_op"

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


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Threads of TensorFlow's own pools: within one operation, and operations at once; 0 is its own choice."""

    intra_op: int = 0
    inter_op: int = 0


class Signature:
    """One signature of a loaded model."""

    def __init__(self, name: str, definition: SignatureDef, session: tf.compat.v1.Session) -> None:
        self.name = name
        self.inputs = {alias: definition.inputs[alias] for alias in sorted(definition.inputs)}
        self.outputs = {alias: definition.outputs[alias] for alias in sorted(definition.outputs)}
        self.defaults: dict[str, TensorProto] = dict(definition.defaults)
        self._session = session
        # Sorted as a session sorts its feeds: `arg[i]` in an error text is the place in this order.
        self._order = sorted(self.inputs, key=lambda alias: self.inputs[alias].name)
        self._feeds = _handles(session.graph, self.inputs)
        self._fetches = _handles(session.graph, self.outputs)

    def run(
        self, arrays: Mapping[str, NDArray], wanted: Sequence[str], deadline: float | None = None
    ) -> dict[str, NDArray]:
        """The wanted outputs for one array per input. Any thread may call this, several at once.

        `deadline` is a time.monotonic(). Raises INVALID_ARGUMENT for a wrong dtype, DEADLINE_EXCEEDED out of time, and
        TensorFlow's own code and text where a kernel refuses.
        """
        for place, alias in enumerate(self._order):
            self._check_dtype(place, alias, arrays[alias])
        feeds = {handle: arrays[alias] for alias, handle in _plain(self._feeds, self._feeds)}
        fetches = [handle for _, handle in _plain(self._fetches, wanted)]
        options = pywrap_tf_session.TF_NewBufferFromString(_run_options(deadline).SerializeToString())
        try:
            # Session.run says the same in five times the time: it looks every name up anew and copies the feeds.
            values = self._session._call_tf_sessionrun(options, feeds, fetches, [], None)
        except tf.errors.OpError as exc:
            raise of_number(exc.error_code, exc.message) from exc
        finally:
            pywrap_tf_session.TF_DeleteBuffer(options)
        return {
            alias: tensors.as_array(value, self.outputs[alias].dtype)
            for alias, value in zip(wanted, values, strict=True)
        }

    def _check_dtype(self, place: int, alias: str, array: NDArray) -> None:
        dtype = self.inputs[alias].dtype
        expected = tensors.DATA_TYPES.get(dtype)
        if expected is None or array.dtype != expected.dtype:
            given = next(kind.word for kind in tensors.DATA_TYPES.values() if kind.dtype == array.dtype)
            raise invalid(f"Expects arg[{place}] to be {tensors.word_of(dtype)} but {given} is provided")


class SavedModel:
    """A SavedModel in memory. Raises ServingError where it cannot be loaded."""

    def __init__(self, path: Path, parallelism: Parallelism = Parallelism()) -> None:
        # Nothing is shared between versions but TensorFlow's thread pools, which the first session makes.
        config = config_pb2.ConfigProto(
            intra_op_parallelism_threads=parallelism.intra_op, inter_op_parallelism_threads=parallelism.inter_op
        )
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        try:
            with self._session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(self._session, [SERVE], str(path))
            self._definitions: dict[str, SignatureDef] = dict(meta_graph.signature_def)
            self._signatures = {
                name: Signature(name, definition, self._session)
                for name, definition in self._definitions.items()
                if name != INIT_OP
            }
        except Exception as exc:
            self._session.close()
            raise _load_error(exc) from exc

    @property
    def signature_defs(self) -> Mapping[str, SignatureDef]:
        """Every signature as the SavedModel declares it, the initialiser's included."""
        return self._definitions

    def signature(self, name: str) -> Signature | None:
        """The signature of that name ("" is `serving_default`); None where there is none."""
        return self._signatures.get(name or DEFAULT_SIGNATURE)

    def close(self) -> None:
        """Frees the session; no call may be under way."""
        self._session.close()


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


def _run_options(deadline: float | None) -> config_pb2.RunOptions:
    if deadline is None:
        return config_pb2.RunOptions()
    left_ms = math.ceil((deadline - time.monotonic()) * 1000)
    if left_ms <= 0:
        raise ServingError(StatusCode.DEADLINE_EXCEEDED, DEADLINE_TEXT)
    return config_pb2.RunOptions(timeout_in_ms=left_ms)


def _load_error(exc: Exception) -> ServingError:
    match exc:
        case ServingError():
            return exc
        case tf.errors.OpError():
            return of_number(exc.error_code, exc.message)
        case OSError():
            return ServingError(StatusCode.NOT_FOUND, str(exc))
    return ServingError(StatusCode.UNKNOWN, f"{type(exc).__name__}: {exc}")
