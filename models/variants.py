"""The variants: every form in which a stack can serve a trained model, as data.

A variant is made by one module of `models.export`, its exporter. The default variants (`torchscript` and `savedmodel`)
are the model's own build; every other has a folder of its own below it, `variants/<name>/`, and is served as a model
of its own, `<model>-<variant>`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

if TYPE_CHECKING:
    from models.job import Job
    from models.zoo.dataset import Rows

Stack = Literal["torchserve", "tfserving"]
DEFAULT = {"torchserve": "torchscript", "tfserving": "savedmodel"}


class VariantError(RuntimeError):
    """Raised by an exporter where what it made is not the variant; its text is the reason that people read."""


class Exporter(Protocol):
    """What each exporter module offers; a module may make several variants, told apart by `job.variant.name`."""

    def unavailable(self, job: Job) -> str | None:
        """Why this variant cannot be made or served here, precisely and found without heavy work; None where it can."""
        ...

    def export(self, job: Job) -> None:
        """Writes the servable into `job.folder`; raises whatever the framework raises."""
        ...

    def predict(self, job: Job, rows: Rows) -> Rows:
        """The outputs for all rows, of the servable in `job.folder`, run as its server will run it."""
        ...


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to serve a model.

    `datatype` is what it computes in; `exporter` is the module below `models.export`. Where it is `exact`, its outputs
    must be within the model's own tolerance of the eager original's. Elsewhere it has a contract of its own: the
    model's metric may fall by `drop`, and of a classification `agreement` is the least share of rows with the same
    class; both are set before anything is measured (docs/decisions/017). `packages` shape the servable beside the
    stack's own framework; `cpu_bound` says that the servable only runs on a CPU with the instructions of the one that
    it was made on; `mixes_rows` that a row's answer depends on the other rows of a run, so that requests of different
    clients must not travel together.
    """

    name: str
    stack: Stack
    datatype: Literal["FP32", "BF16", "FP16", "INT8"]
    device: Literal["cpu", "cuda"]
    served_by: str
    exact: bool
    exporter: str
    summary: str
    drop: float = 0.0
    agreement: float = 1.0
    packages: tuple[str, ...] = ()
    cpu_bound: bool = False
    mixes_rows: bool = False

    @property
    def default(self) -> bool:
        """Whether it is its stack's default variant, which is the model's own build."""
        return DEFAULT[self.stack] == self.name

    def served_name(self, model: str) -> str:
        """The model's name on the variant's server."""
        return model if self.default else f"{model}-{self.name}"

    def module(self) -> Exporter:
        """The exporter, imported when it is needed: it brings a framework."""
        return cast(Exporter, importlib.import_module(f"models.export.{self.exporter}"))


_TORCHSERVE = (
    Variant(
        "torchscript",
        "torchserve",
        "FP32",
        "cpu",
        "TorchServe, TorchScript",
        exact=True,
        exporter="torchscript",
        summary="The traced and frozen graph, without Python code; TorchServe's default here.",
    ),
    Variant(
        "eager",
        "torchserve",
        "FP32",
        "cpu",
        "TorchServe, torch eager",
        exact=True,
        exporter="eager",
        summary="The network's own Python code and weights, packed into the archive and run operation by operation.",
    ),
    Variant(
        "compile",
        "torchserve",
        "FP32",
        "cpu",
        "TorchServe, torch.compile",
        exact=True,
        exporter="eager",
        summary="The eager network behind torch.compile, warmed up at its batch sizes before the worker is ready.",
    ),
    Variant(
        "aotinductor",
        "torchserve",
        "FP32",
        "cpu",
        "TorchServe, AOTInductor",
        exact=True,
        exporter="aotinductor",
        summary="torch.export and AOTInductor: a compiled library for this CPU's instruction set, in a .pt2 package.",
        cpu_bound=True,
    ),
    Variant(
        "onnx",
        "torchserve",
        "FP32",
        "cpu",
        "TorchServe, ONNX Runtime",
        exact=True,
        exporter="onnx",
        summary="ONNX by the dynamo exporter, on ONNX Runtime's CPU provider.",
        packages=("onnx", "onnxscript", "onnxruntime"),
    ),
    Variant(
        "int8-dynamic",
        "torchserve",
        "INT8",
        "cpu",
        "TorchServe, TorchScript",
        exact=False,
        exporter="int8_dynamic",
        summary="Dense layers with INT8 weights; activations are quantized batch by batch.",
        drop=0.02,
        agreement=0.97,
        mixes_rows=True,
    ),
    Variant(
        "int8-static",
        "torchserve",
        "INT8",
        "cpu",
        "TorchServe, AOTInductor",
        exact=False,
        exporter="int8_static",
        summary="INT8 weights and activations (PT2E), calibrated on training rows, compiled by AOTInductor.",
        drop=0.02,
        agreement=0.97,
        packages=("torchao",),
        cpu_bound=True,
    ),
    Variant(
        "bf16",
        "torchserve",
        "BF16",
        "cpu",
        "TorchServe, TorchScript",
        exact=False,
        exporter="bf16",
        summary="Weights and activations in BF16; inputs and outputs stay FP32.",
        drop=0.02,
        agreement=0.98,
    ),
    Variant(
        "pruned",
        "torchserve",
        "FP32",
        "cpu",
        "TorchServe, TorchScript",
        exact=False,
        exporter="pruned",
        summary="Whole channels and neurons of least weight removed: a smaller network, at a price in accuracy.",
        drop=0.05,
        agreement=0.9,
    ),
    Variant(
        "cuda",
        "torchserve",
        "FP32",
        "cuda",
        "TorchServe, torch eager on CUDA",
        exact=True,
        exporter="cuda",
        summary="The eager network on an NVIDIA GPU.",
    ),
    Variant(
        "tensorrt",
        "torchserve",
        "FP32",
        "cuda",
        "TorchServe, ONNX Runtime with TensorRT",
        exact=True,
        exporter="tensorrt",
        summary="The ONNX graph on ONNX Runtime's TensorRT provider.",
        packages=("onnx", "onnxscript", "onnxruntime"),
    ),
)
_TFSERVING = (
    Variant(
        "savedmodel",
        "tfserving",
        "FP32",
        "cpu",
        "TensorFlow server, SavedModel",
        exact=True,
        exporter="savedmodel",
        summary="The SavedModel, optimised by Grappler when it is loaded; TensorFlow Serving's default.",
    ),
    Variant(
        "savedmodel-nograppler",
        "tfserving",
        "FP32",
        "cpu",
        "TensorFlow server without Grappler, SavedModel",
        exact=True,
        exporter="savedmodel_nograppler",
        summary="A SavedModel that no session rewrites, served by a second process with Grappler off.",
    ),
    Variant(
        "xla",
        "tfserving",
        "FP32",
        "cpu",
        "TensorFlow server, XLA",
        exact=True,
        exporter="xla",
        summary="A signature compiled by XLA; rows are padded to a few batch sizes, all compiled before it is ready.",
        packages=("tensorflow-serving-api",),
    ),
    Variant(
        "tflite-fp32",
        "tfserving",
        "FP32",
        "cpu",
        "TensorFlow server, TFLite",
        exact=True,
        exporter="tflite",
        summary="TFLite (LiteRT) in FP32.",
    ),
    Variant(
        "tflite-fp16",
        "tfserving",
        "FP16",
        "cpu",
        "TensorFlow server, TFLite",
        exact=False,
        exporter="tflite",
        summary="TFLite with FP16 weights, half the size; a CPU computes in FP32.",
        drop=0.005,
        agreement=0.99,
    ),
    Variant(
        "tflite-dynamic",
        "tfserving",
        "INT8",
        "cpu",
        "TensorFlow server, TFLite",
        exact=False,
        exporter="tflite",
        summary="TFLite with INT8 weights; activations are quantized batch by batch where a kernel can.",
        drop=0.02,
        agreement=0.97,
    ),
    Variant(
        "tflite-int8",
        "tfserving",
        "INT8",
        "cpu",
        "TensorFlow server, TFLite",
        exact=False,
        exporter="tflite",
        summary="TFLite with INT8 weights and activations, calibrated on training rows.",
        drop=0.02,
        agreement=0.97,
    ),
    Variant(
        "tf-trt",
        "tfserving",
        "FP32",
        "cuda",
        "TensorFlow server, TF-TRT",
        exact=True,
        exporter="tf_trt",
        summary="Parts of the SavedModel replaced by TensorRT engines.",
    ),
)
VARIANTS: dict[str, Variant] = {variant.name: variant for variant in (*_TORCHSERVE, *_TFSERVING)}


class UnknownVariantError(ValueError):
    """Raised for the name of no variant; says which there are."""


def chosen(text: str) -> list[Variant]:
    """The variants that `default`, `all` or a list such as `onnx,xla` names, the default ones always among them.

    Raises UnknownVariantError.
    """
    if text == "all":
        return list(VARIANTS.values())
    names = set() if text == "default" else {name.strip() for name in text.split(",")}
    for name in sorted(names):
        if name not in VARIANTS:
            raise UnknownVariantError(f"unknown variant '{name}'; there are default, all, {', '.join(VARIANTS)}")
    return [variant for variant in VARIANTS.values() if variant.default or variant.name in names]
