"""A SavedModel as TensorFlow 1 exports it: signatures over tf.Examples that share one input, right and wrong ones.

Two more, `half` and `uint16`, answer with what JSON cannot carry.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
PREDICT = "tensorflow/serving/predict"


def save_examples(base: Path) -> None:
    """Writes version 1: of a feature `x` (FP32, 0 where it is missing) the scores are [x, 1 - x], the value is 2 x.

    The labels are a feature `label` (a string, `no` where it is missing) and `other`.
    """
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(tf.string, [None], name="examples")
        other = v1.placeholder(tf.string, [None], name="other_examples")
        features = {
            "x": tf.io.FixedLenFeature([1], tf.float32, [0.0]),
            "label": tf.io.FixedLenFeature([1], tf.string, ["no"]),
        }
        parsed = tf.io.parse_example(serialized, features)
        x, label = parsed["x"], parsed["label"]
        scores = tf.concat([x, 1.0 - x], axis=1)
        classes = tf.concat([label, tf.fill(tf.shape(label), "other")], axis=1)
        value = 2.0 * x

        def signature(inputs: dict[str, Any], outputs: dict[str, Any], method: str) -> meta_graph_pb2.SignatureDef:
            info = v1.saved_model.build_tensor_info
            return v1.saved_model.build_signature_def(
                {alias: info(tensor) for alias, tensor in inputs.items()},
                {alias: info(tensor) for alias, tensor in outputs.items()},
                method,
            )

        one = {"inputs": serialized}
        both = {"classes": classes, "scores": scores}
        signatures = {
            "serving_default": signature(one, both, CLASSIFY),
            "scores": signature(one, {"scores": scores}, CLASSIFY),
            "classes": signature(one, {"classes": classes}, CLASSIFY),
            "regress": signature(one, {"outputs": value}, REGRESS),
            "flat": signature(one, {"outputs": value[:, 0]}, REGRESS),
            "predict": signature(one, both, PREDICT),
            "strange": signature(one, {"outputs": value}, "strange/method"),
            "other_input": signature(
                {"inputs": other}, {"outputs": tf.io.parse_example(other, features)["x"]}, REGRESS
            ),
            "two_inputs": signature({"inputs": serialized, "more": other}, both, CLASSIFY),
            "three_outputs": signature(one, both | {"more": value}, CLASSIFY),
            "wrong_input": signature({"x": serialized}, both, CLASSIFY),
            "wrong_outputs": signature(one, {"y": scores}, CLASSIFY),
            "flat_classes": signature(one, {"classes": label[:, 0]}, CLASSIFY),
            "number_classes": signature(one, {"classes": scores}, CLASSIFY),
            "double_scores": signature(one, {"scores": tf.cast(scores, tf.float64)}, CLASSIFY),
            "short_scores": signature(one, {"scores": scores[:1]}, CLASSIFY),
            "uneven": signature(one, {"classes": label, "scores": scores}, CLASSIFY),
            "two_outputs": signature(one, {"outputs": value, "more": value}, REGRESS),
            "wide": signature(one, {"outputs": scores}, REGRESS),
            "short": signature(one, {"outputs": value[:1]}, REGRESS),
            "double": signature(one, {"outputs": tf.cast(value, tf.float64)}, REGRESS),
        }
        number = v1.placeholder(tf.float32, [None], name="number")
        for dtype in ("half", "uint16"):
            signatures[dtype] = signature({"x": number}, {"y": tf.cast(number, dtype)}, PREDICT)
        builder = v1.saved_model.Builder(str(base / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()
