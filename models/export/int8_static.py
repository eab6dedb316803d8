"""The variant `int8-static`: INT8 weights and activations (torchao's PT2E), compiled by AOTInductor.

Calibrated on training rows. The package needs no torchao where it is served.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from models.export import aotinductor, archive
from models.export.archive import predict
from models.export.eager import without_compiler
from models.job import Job

if TYPE_CHECKING:
    from collections.abc import Iterable

    from models.zoo.dataset import Rows

__all__ = ["export", "predict", "unavailable"]

CALIBRATION_ROWS = 256


def unavailable(_: Job) -> str | None:
    """It needs torchao and a C++ compiler to build, and neither to serve."""
    try:
        import torchao  # noqa: F401
    except ImportError as exc:
        return f"{exc}: `pip install torchao`"
    return without_compiler()


def export(job: Job) -> None:
    """The package and the archive around it."""
    with tempfile.TemporaryDirectory() as work, archive.without_deprecation():
        rows = archive.calibration(job, CALIBRATION_ROWS)
        quantized = quantize(job.torch_net(), archive.example(job), rows, archive.cap(job))
        package = aotinductor.compiled(quantized, Path(work), aotinductor.cpu(), freezing=True)
        archive.pack(job, [package], archive.section_of(job.variant.name, "aotinductor", [package]))


def quantize(net: nn.Module, example: Rows, calibration: Iterable[Rows], cap: int) -> Any:  # noqa: ANN401 - an exported program
    """The network as an exported program with INT8 weights, and activations quantized by what `calibration` showed."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    for name in kept(net):
        quantizer.set_module_name_qconfig(name, None)
    tensors = tuple(torch.from_numpy(array) for array in example.values())
    shapes = aotinductor.dynamic(example, cap)
    with torch.no_grad():
        prepared = prepare_pt2e(torch.export.export(net, tensors, dynamic_shapes=shapes).module(), quantizer)
        for rows in calibration:
            prepared(*[torch.from_numpy(array) for array in rows.values()])
        return torch.export.export(convert_pt2e(prepared), tensors, dynamic_shapes=shapes)


def kept(net: nn.Module) -> list[str]:
    """The layers that stay FP32: for a convolution over one channel, Inductor's frozen INT8 kernel of torch 2.13
    computes wrong values (on the digits: 10 % right, where the same program run eagerly has 99.7 %).
    """
    return [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d) and module.in_channels == 1]
