"""Classification and regression: what their signatures must look like, and what their tensors mean.

Checks and texts of servables/tensorflow/classifier.cc and regressor.cc, in their order. A signature takes one vector
of serialized tf.Examples under `inputs`; it answers with `classes` and `scores`, or one of them, or with `outputs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from google.protobuf import text_format
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving.tfserving.savedmodel_server.errors import invalid
from serving.tfserving.savedmodel_server.json_response import quoted, single_line
from serving.tfserving.savedmodel_server.json_values import decimals
from serving.tfserving.savedmodel_server.tensors import DATA_TYPES, NDArray

SignatureDef: TypeAlias = meta_graph_pb2.SignatureDef

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
PREDICT = "tensorflow/serving/predict"

INPUTS = "inputs"
CLASSES = "classes"
SCORES = "scores"
OUTPUTS = "outputs"

_NAMES = {np.dtype(kind.dtype): types_pb2.DataType.Name(number) for number, kind in DATA_TYPES.items()}


def check_classification(definition: SignatureDef, *, method_name: bool) -> tuple[str, ...]:
    """The outputs of a classification signature that count; raises INVALID_ARGUMENT where it is none.

    `method_name` is whether its method has to be named as such (--enable_signature_method_name_check).
    """
    if method_name and definition.method_name != CLASSIFY:
        raise invalid(f"Expected classification signature method_name to be {CLASSIFY}. Was: {definition.method_name}")
    if len(definition.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(definition.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(definition.outputs)}")
    if INPUTS not in definition.inputs:
        raise invalid(f"No classification inputs found in SignatureDef: {_text(definition)}")
    outputs = tuple(alias for alias in (CLASSES, SCORES) if alias in definition.outputs)
    if not outputs:
        raise invalid(
            f'Expected classification signature outputs to contain at least one of "{CLASSES}" or "{SCORES}". '
            f"Signature was: {_text(definition)}"
        )
    return outputs


def check_regression(definition: SignatureDef, *, method_name: bool) -> tuple[str, ...]:
    """The output of a regression signature; raises INVALID_ARGUMENT where it is none. `method_name` as above."""
    if method_name and definition.method_name != REGRESS:
        raise invalid(f"Expected regression signature method_name to be {REGRESS}. Was: {definition.method_name}")
    if len(definition.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(definition.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if INPUTS not in definition.inputs:
        raise invalid(f"No regression inputs found in SignatureDef: {_text(definition)}")
    if OUTPUTS not in definition.outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {_text(definition)}")
    return (OUTPUTS,)


@dataclass(frozen=True, slots=True)
class Classification:
    """Of every example, its classes as pairs of a label, which may be any bytes, and a score."""

    examples: Sequence[Sequence[tuple[bytes, np.float32]]]

    def message(self) -> classification_pb2.ClassificationResult:
        """The gRPC answer; what of a label is no UTF-8 is replaced, since protobuf strings cannot carry it."""
        result = classification_pb2.ClassificationResult()
        for pairs in self.examples:
            classes = result.classifications.add().classes
            for label, score in pairs:
                classes.add(label=label.decode("utf-8", "replace"), score=score)
        return result

    def json(self) -> bytes:
        """The body of the REST answer; a label is written as the bytes it is."""
        scores = iter(decimals(np.array([score for pairs in self.examples for _, score in pairs], np.float32)))
        items = [
            single_line(
                single_line((quoted(label.decode("utf-8", "surrogateescape")), next(scores))) for label, _ in pairs
            )
            for pairs in self.examples
        ]
        return f'{{\n    "results": [{", ".join(items)}\n    ]\n}}'.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Regression:
    """One FP32 value for every example, [n]."""

    values: NDArray

    def message(self) -> regression_pb2.RegressionResult:
        """The gRPC answer."""
        result = regression_pb2.RegressionResult()
        for value in self.values.tolist():
            result.regressions.add(value=value)
        return result

    def json(self) -> bytes:
        """The body of the REST answer."""
        return f'{{\n    "results": {single_line(decimals(self.values))}\n}}'.encode()


def classification(arrays: dict[str, NDArray], examples: int) -> Classification:
    """The result that `classes` [n, c] and `scores` [n, c] mean for n `examples`; raises INVALID_ARGUMENT.

    Without classes the labels are empty, without scores these are 0.
    """
    classes, scores = arrays.get(CLASSES), arrays.get(SCORES)
    for name, array, dtype in ((CLASSES, classes, np.dtype(object)), (SCORES, scores, np.dtype(np.float32))):
        if array is not None:
            _check_classes(name, array, dtype, examples)
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise invalid(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    if classes is None:
        assert scores is not None, "the signature has one of both"  # noqa: S101 - for the type checker
        classes = np.full(scores.shape, b"", object)
    if scores is None:
        scores = np.zeros(classes.shape, np.float32)
    rows = zip(classes, scores, strict=True)
    return Classification([list(zip(labels, values, strict=True)) for labels, values in rows])


def regression(arrays: dict[str, NDArray], examples: int) -> Regression:
    """The result that `outputs` [n] or [n, 1] means for n `examples`; raises INVALID_ARGUMENT."""
    array = arrays[OUTPUTS]
    if array.ndim != 1 and (array.ndim != 2 or array.shape[1] != 1):
        raise invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(array)}"
        )
    if array.shape[0] != examples:
        raise invalid(f"Input batch size did not match output batch size: {examples} vs. {array.shape[0]}")
    if array.dtype != np.float32:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {_NAMES[array.dtype]}")
    return Regression(array.reshape(-1))


def _check_classes(name: str, array: NDArray, dtype: np.dtype[np.generic], examples: int) -> None:
    if array.ndim != 2:
        raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}")
    if array.dtype != dtype:
        raise invalid(f"Expected {name} Tensor of {_NAMES[dtype]}. Got: {_NAMES[array.dtype]}")
    if array.shape[0] != examples:
        raise invalid(f"Expected {name} output batch size of {examples}. Got: {array.shape[0]}")


def _shape(array: NDArray) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def _text(definition: SignatureDef) -> str:
    return text_format.MessageToString(definition)
