"""Tiny SavedModels: one whose versions differ, and one with a signature for every case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

NUMBERS = ("float32", "float64", "int32", "int16", "int8", "uint8", "int64", "uint32", "uint64", "uint16", "bool")
HALVES = ("float16", "bfloat16")


class Affine(tf.Module):
    """y = 2 x + version, for x FP32 [-1, 2]: the answer tells which version gave it."""

    def __init__(self, version: int) -> None:
        super().__init__()
        self.weight = tf.Variable(2.0)
        self.version = tf.Variable(float(version))

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def infer(self, x: Any) -> dict[str, Any]:
        """The default signature."""
        return {"y": self.weight * x + self.version}


class Filter(tf.Module):
    """A convolution over x FP32 [-1, 4, 4, 1], whose oneDNN kernel ends the process over a tensor of too low a rank."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = tf.Variable(tf.ones((3, 3, 1, 2)))

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 1], tf.float32, name="x")])
    def infer(self, x: Any) -> dict[str, Any]:
        """The sum of each 3x3 square, twice."""
        return {"y": tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, self.weight, 1, "VALID"), tf.zeros(2)))}


class Zoo(tf.Module):
    """Many signatures, none of which is the default."""

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.float32, name="a"), tf.TensorSpec([None], tf.float32, name="b")]
    )
    def pair(self, a: Any, b: Any) -> dict[str, Any]:
        """Two inputs and two outputs."""
        return {"sum": a + b, "difference": a - b}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.string, name="words")])
    def words(self, words: Any) -> dict[str, Any]:
        """Strings as they are, as text and as bytes."""
        return {"text": tf.identity(words), "same_bytes": tf.identity(words)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="x")])
    def scalar_out(self, x: Any) -> dict[str, Any]:
        """An output without a batch dimension."""
        return {"total": tf.reduce_sum(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def uneven(self, x: Any) -> dict[str, Any]:
        """Outputs whose first dimensions differ."""
        return {"all": tf.identity(x), "first": x[:1]}

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.float32, name="x"), tf.TensorSpec([], tf.float32, name="scale")]
    )
    def scaled(self, x: Any, scale: Any) -> dict[str, Any]:
        """An input with a default, which is put into the file after saving."""
        return {"y": x * scale}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32, name="steps")])
    def slow(self, steps: Any) -> dict[str, Any]:
        """As slow as one likes."""
        start = (tf.constant(0), tf.eye(64))
        count, _ = tf.while_loop(lambda i, _: i < steps, lambda i, m: (i + 1, tf.linalg.matmul(m, m)), start)
        return {"count": count}

    def same(self, name: str) -> Any:
        """The identity of one dtype."""

        @tf.function(input_signature=[tf.TensorSpec(None, tf.dtypes.as_dtype(name), name="x")])
        def identity(x: Any) -> dict[str, Any]:
            return {"y": tf.identity(x)}

        return identity


def save_affine(base: Path, version: int) -> None:
    """Writes a version of `Affine` beside `base` and renames it into place, as an exporter must."""
    model = Affine(version)
    aside = base.parent / f".{base.name}.{version}"
    tf.saved_model.save(model, str(aside), signatures={"serving_default": model.infer})
    base.mkdir(parents=True, exist_ok=True)
    aside.rename(base / str(version))


def save_filter(base: Path) -> None:
    """Writes version 1 of `Filter`."""
    model = Filter()
    tf.saved_model.save(model, str(base / "1"), signatures={"serving_default": model.infer})


def save_zoo(base: Path) -> None:
    """Writes version 1 of `Zoo`: its methods by name, and `same_<dtype>` for every dtype."""
    zoo = Zoo()
    signatures = {name: getattr(zoo, name) for name in ("pair", "words", "scalar_out", "uneven", "scaled", "slow")}
    signatures |= {f"same_{name}": zoo.same(name) for name in NUMBERS + HALVES}
    tf.saved_model.save(zoo, str(base / "1"), signatures=signatures)
    file = base / "1" / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    defaults = saved.meta_graphs[0].signature_def["scaled"].defaults
    defaults["scale"].CopyFrom(tf.make_tensor_proto(3.0))
    file.write_bytes(saved.SerializeToString())


def save_version_1(base: Path, *, op: str = "main") -> None:
    """Writes a model as TensorFlow 1 does: y = x + 1 and a table of words, initialised by a main or a legacy op."""
    v1 = tf.compat.v1
    words = base.parent / f".{base.name}.words"
    words.write_text("zero\none\ntwo\n")
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], "x")
        one = v1.get_variable("one", [], initializer=v1.constant_initializer(1.0), use_resource=False)
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, file := tf.constant(str(words)))
        table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                file, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            ),
            -1,
        )
        word = v1.placeholder(tf.string, [None], "word")
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        signature = v1.saved_model.signature_def_utils.predict_signature_def
        builder = v1.saved_model.Builder(str(base / "1"))
        builder.add_meta_graph_and_variables(
            session,
            [v1.saved_model.tag_constants.SERVING],
            {
                "serving_default": signature({"x": x}, {"y": x + one}),
                "number": signature({"word": word}, {"number": table.lookup(word)}),
            },
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            **{"main_op" if op == "main" else "legacy_init_op": v1.tables_initializer()},
        )
        builder.save()
    words.unlink()


def save_keras(base: Path) -> None:
    """Writes a Keras model, exported as for serving: two features, one value."""
    inputs = tf.keras.Input((2,), name="features")
    outputs = tf.keras.layers.Dense(1, kernel_initializer="ones", bias_initializer="ones", name="value")(inputs)
    tf.keras.Model(inputs, outputs).export(str(base / "1"), verbose=False)


def tflite_model(model: tf.Module, signature: Any) -> bytes:
    """A module's function converted to TFLite."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions([signature.get_concrete_function()], model)
    return bytes(converter.convert())


def write_warmup(version: Path, *records: bytes) -> None:
    """Puts warm-up records into a version's folder."""
    (version / "assets.extra").mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(version / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for record in records:
            writer.write(record)
