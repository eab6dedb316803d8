"""The `tf-trt` variant: TensorRT engines inside a SavedModel."""

from __future__ import annotations

import tensorflow as tf
from tensorflow.compiler.tf2tensorrt import _pywrap_py_utils

from models.export import savedmodel
from models.job import Job
from models.zoo.dataset import Rows


def unavailable(job: Job) -> str | None:
    """TensorFlow's own packages are built without TensorRT since 2.18: what they hold of TF-TRT only refuses."""
    if not _pywrap_py_utils.is_tensorrt_enabled():
        return f"needs an NVIDIA GPU and a TensorFlow built with TensorRT; TensorFlow {tf.__version__} here is not"
    if not tf.config.list_physical_devices("GPU"):
        return "needs an NVIDIA GPU"
    return None


def export(job: Job) -> None:
    """Converts the model's SavedModel; the engines are built on the GPU that they will run on."""
    from tensorflow.python.compiler.tensorrt import trt_convert

    version = str(job.definition.version)
    converter = trt_convert.TrtGraphConverterV2(input_saved_model_dir=str(job.base / "savedmodel" / version))
    converter.convert()
    converter.save(str(job.folder / version))


def predict(job: Job, rows: Rows) -> Rows:
    """The outputs of the SavedModel in the variant's folder."""
    return savedmodel.predict(job.definition, job.folder, rows)
