"""One loaded SavedModel: a session as TensorFlow Serving has it, with one prepared call per signature.

A session, rather than TensorFlow 2's restored functions: it is what TensorFlow Serving runs, so that kernels fail with
the same texts, outputs that nobody wants are not computed, and a call costs a fifth of a function call from Python.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import tensorflow as tf
from grpc import StatusCode
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

from serving.tfserving.savedmodel_server import tensors
from serving.tfserving.savedmodel_server.errors import ServingError, invalid, of_number
from serving.tfserving.savedmodel_server.tensors import NDArray

SERVE = "serve"
DEFAULT_SIGNATURE = "serving_default"
INIT_OP = "__saved_model_init_op"
# Prepared calls for subsets of the outputs; clients choose the subsets, so they are not kept without end.
MAX_SUBSETS = 32

SignatureDef: TypeAlias = meta_graph_pb2.SignatureDef
TensorProto: TypeAlias = tensor_pb2.TensorProto
SessionCall: TypeAlias = Callable[..., Sequence[Any]]
Prepare: TypeAlias = Callable[[list[str], list[str]], SessionCall]


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

    def __init__(self, name: str, definition: SignatureDef, prepare: Prepare) -> None:
        self.name = name
        self.inputs = {alias: definition.inputs[alias] for alias in sorted(definition.inputs)}
        self.outputs = {alias: definition.outputs[alias] for alias in sorted(definition.outputs)}
        self.defaults: dict[str, TensorProto] = dict(definition.defaults)
        # Sorted as a session sorts its feeds: `arg[i]` in an error text is the place in this order.
        self._feeds = sorted(self.inputs, key=lambda alias: self.inputs[alias].name)
        self._prepare = prepare
        self._calls: dict[frozenset[str], tuple[list[str], SessionCall]] = {}
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Makes the call for all outputs ready, which the first request would otherwise wait for."""
        self._call_for(frozenset(self.outputs))

    def run(self, arrays: Mapping[str, NDArray], wanted: Sequence[str]) -> dict[str, NDArray]:
        """The wanted outputs for one array per input. Any thread may call this, several at once.

        Raises INVALID_ARGUMENT for a wrong dtype, and TensorFlow's own code and text where a kernel refuses.
        """
        for place, alias in enumerate(self._feeds):
            expected, given = tensors.DATA_TYPES.get(self.inputs[alias].dtype), arrays[alias].dtype
            if expected is None or given != expected.dtype:
                words = [kind.word for kind in tensors.DATA_TYPES.values() if kind.dtype == given]
                raise invalid(
                    f"Expects arg[{place}] to be {tensors.word_of(self.inputs[alias].dtype)} but {words[0]} is provided"
                )
        names, call = self._call_for(frozenset(wanted))
        try:
            values = call(*(arrays[alias] for alias in self._feeds))
        except tf.errors.OpError as exc:
            raise of_number(exc.error_code, exc.message) from exc
        by_name = dict(zip(names, values, strict=True))
        return {
            alias: tensors.as_array(by_name[self.outputs[alias].name], self.outputs[alias].dtype) for alias in wanted
        }

    def _call_for(self, wanted: frozenset[str]) -> tuple[list[str], SessionCall]:
        found = self._calls.get(wanted)
        if found is not None:
            return found
        with self._lock:
            if len(self._calls) >= MAX_SUBSETS:
                wanted = frozenset(self.outputs)
            if wanted not in self._calls:
                names = sorted({self.outputs[alias].name for alias in wanted})
                feeds = [self.inputs[alias].name for alias in self._feeds]
                self._calls[wanted] = (names, self._prepare(feeds, names))
            return self._calls[wanted]


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
                name: Signature(name, definition, self._prepare)
                for name, definition in self._definitions.items()
                if name != INIT_OP
            }
            for signature in self._signatures.values():
                signature.prepare()
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

    def _prepare(self, feeds: list[str], fetches: list[str]) -> SessionCall:
        # Session.make_callable converts every feed in Python (and a bool to a float on the way); this, which Keras
        # used too, hands the arrays to the runtime as they are.
        options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
        with self._session.graph.as_default():
            call: SessionCall = self._session._make_callable_from_options(options)
            return call


def _load_error(exc: Exception) -> ServingError:
    match exc:
        case ServingError():
            return exc
        case tf.errors.OpError():
            return of_number(exc.error_code, exc.message)
        case OSError():
            return ServingError(StatusCode.NOT_FOUND, str(exc))
    return ServingError(StatusCode.UNKNOWN, f"{type(exc).__name__}: {exc}")
