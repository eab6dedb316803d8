"""The TorchServe variants on an NVIDIA GPU, each loaded by the handler itself, without TorchServe.

`python -m tests.gpu.variants [MODEL ...]` needs torch with CUDA, numpy, scikit-learn and, for ONNX, its packages. Every
variant is made for the GPU, compared with the eager network on the CPU, and timed inside the handler beside it: a
request's tensors in main memory in, and the answer's out. `resnet50` has weights drawn by a seed.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from gateway.core.contract import ModelContract
from loadtests.campaign.gpu import GpuMeter, gpu_meter
from models.export import aotinductor, archive, bf16, cuda, eager, onnx, tensorrt, torchscript
from models.train import train
from models.zoo import BATCH_CAP, MODELS, ModelDefinition
from models.zoo.dataset import Array, Rows
from serving.torchserve.handler import Request, Service, Tensor

SIZES = (1, 32)
ROUNDS, REPEATS, ROUND_S = 4, 50, 0.5
# FP32 without TF32, in other kernels than the CPU's.
TOLERANCE = 1e-4
BF16_AGREEMENT = 0.98


@dataclass
class Subject:
    """A network to make variants of, on the CPU, with rows for it and the eager CPU output of 64 of them."""

    definition: ModelDefinition
    net: torch.nn.Module
    rows: Rows
    expected: Array


def subject(name: str) -> Subject:
    """A trained small model, or a large one with weights drawn by a seed."""
    definition = MODELS[name]
    if definition.demo:
        net = train(definition, "pytorch", 7).net
        data = definition.module("data").load(7)
        rows = {definition.inputs[0].name: data.test_inputs[:64]}
    else:
        data = definition.module("data").load(7)
        torch.manual_seed(7)
        net = definition.module("torch_net").build(data).eval()
        for weight in net.parameters():
            if not weight.any():  # blocks that would add nothing
                torch.nn.init.normal_(weight, std=0.1)
        rows = {definition.inputs[0].name: data.test_inputs[:64]}
    with torch.inference_mode():
        expected = np.concatenate([net(*_tensors(rows, first, first + 8)).numpy() for first in range(0, 64, 8)])
    return Subject(definition, net, rows, expected)


def _tensors(rows: Rows, first: int, last: int) -> list[torch.Tensor]:
    return [torch.from_numpy(array[first:last]) for array in rows.values()]


def _some(rows: Rows, count: int) -> Rows:
    return {name: array[:count] for name, array in rows.items()}


def make(variant: str, its: Subject, folder: Path) -> dict[str, Any]:
    """Writes a variant's files; the section of model-config.yaml that loads them."""
    net, two, output = copy.deepcopy(its.net), _some(its.rows, 2), its.definition.outputs[0].name
    if variant in ("eager-cpu", "cuda", "compile"):
        device = "cpu" if variant == "eager-cpu" else "cuda"
        return eager.write("compile" if variant == "compile" else "eager", net, folder, device)[1]
    if variant == "aotinductor":
        path = aotinductor.package_of(net, two, folder, device="cuda")
        return archive.section_of(variant, "aotinductor", [path], device="cuda")
    if variant in ("onnx", "tensorrt"):
        path = onnx.graph_of(net, two, output, folder)
        provider = {"provider": "Tensorrt"} if variant == "tensorrt" else {}
        return archive.section_of(variant, "onnx", [path], device="cuda", **provider)
    if variant == "bf16":
        net = bf16.Autocast(net, "cuda")
    path = torchscript.trace(net, two, folder / torchscript.GRAPH, "cuda")
    return archive.section_of(variant, "torchscript", [path], device="cuda")


@contextmanager
def served(its: Subject, section: dict[str, Any], folder: Path) -> Iterator[Service]:
    """The handler with a variant loaded and warmed up, as TorchServe would have it on its first GPU."""
    definition = its.definition
    contract = ModelContract(definition.name, 1, definition.inputs, definition.outputs, BATCH_CAP)
    (folder / archive.CONTRACT).write_text(contract.to_json())
    context: Any = SimpleNamespace(
        model_name=definition.name,
        manifest={"model": {"modelVersion": "1", "serializedFile": section["file"]}},
        system_properties={"model_dir": str(folder), "gpu_id": 0},
        model_yaml_config={"variant": section, "torch": {"intraOpThreads": 1}},
    )
    path = list(sys.path)
    service = Service(context)
    service.warm_up()
    try:
        yield service
    finally:
        sys.path[:] = path
        torch.compiler.set_stance("default")
        torch._dynamo.reset()


def answer(service: Service, rows: Rows) -> Array:
    """The first output for some rows, through the contract's checks and the runtime."""
    sent = tuple(Tensor(name, service.contract.inputs[name].datatype, array) for name, array in rows.items())
    array: Array = service.infer(Request(sent))[0].array
    return array


def timed(service: Service, rows: Rows) -> float:
    """The median time of a request in microseconds: of the medians of a few rounds, the least."""
    begin = time.perf_counter()
    answer(service, rows)
    repeats = min(REPEATS, 1 + int(ROUND_S / (time.perf_counter() - begin)))
    medians = []
    for _ in range(ROUNDS):
        took = []
        for _ in range(repeats):
            begin = time.perf_counter()
            answer(service, rows)
            took.append(time.perf_counter() - begin)
        medians.append(statistics.median(took))
    return min(medians) * 1e6


def judged(variant: str, its: Subject, found: Array) -> tuple[bool, str]:
    """Whether a variant is within what is expected of it, and by how much."""
    scaled = float((np.abs(found - its.expected) / (1 + np.abs(its.expected))).max())
    same = float((found.argmax(1) == its.expected.argmax(1)).mean())
    good = same >= BF16_AGREEMENT if variant == "bf16" else scaled <= TOLERANCE
    return good, f"max |a-b|/(1+|b|) {scaled:.1e}, same class {same:.1%}"


def check(name: str, meter: GpuMeter) -> list[dict[str, Any]]:
    """All variants of one model, one after the other; a failure is noted and the next one goes on."""
    its, found, base = subject(name), [], dict[str, dict[int, float]]()
    missing = {
        "tensorrt": onnx.without_provider(tensorrt.PROVIDER),
        "onnx": onnx.without_provider("CUDAExecutionProvider"),
    }
    for variant in ("eager-cpu", "cuda", "torchscript", "compile", "aotinductor", "onnx", "tensorrt", "bf16"):
        line: dict[str, Any] = {"model": name, "variant": variant}
        found.append(line)
        if missing.get(variant):
            line["unavailable"] = missing[variant]
        else:
            try:
                _measure(variant, its, line, base)
            except Exception as exc:
                traceback.print_exc()
                line["failed"] = f"{type(exc).__name__}: {(str(exc).strip().splitlines() or [''])[-1][:300]}"
        meter.sample()
        print(json.dumps(line), flush=True)
    return found


def _measure(variant: str, its: Subject, line: dict[str, Any], base: dict[str, dict[int, float]]) -> None:
    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as work:
        folder, begin = Path(work), time.perf_counter()
        section = make(variant, its, folder)
        made = time.perf_counter()
        with served(its, section, folder) as service:
            line |= {"build_s": round(made - begin, 1), "load_s": round(time.perf_counter() - made, 1)}
            line |= {"run_by": service.runtime.kind, "device": str(service.runtime.device)}
            line["ok"], line["parity"] = judged(variant, its, answer(service, its.rows))
            base[variant] = {size: timed(service, _some(its.rows, size)) for size in SIZES}
    line["peak_gpu_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    for size, took in base[variant].items():
        ratios = {f"of_{ref}": round(took / base[ref][size], 3) for ref in ("eager-cpu", "cuda") if ref in base}
        line[f"rows_{size}"] = {"us": round(took, 1), **ratios}


def refusal() -> None:
    """The variant `cuda` where TorchServe assigns no GPU is refused by name."""
    from serving.torchserve.runtimes import Unloadable, device_of  # noqa: PLC0415

    try:
        device_of({"name": "cuda", "device": "cuda"}, None)
    except Unloadable as exc:
        print(f"without an assigned GPU: {exc}")


def main(names: list[str]) -> int:
    """0 where every variant that could be made is within what is expected."""
    missing = cuda.without_gpu()
    if missing:
        print(missing)
        return 3
    meter = gpu_meter(time.monotonic)
    meter.begin()
    print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name(0)}))
    refusal()
    lines = [line for name in names for line in check(name, meter)]
    print(json.dumps(meter.end()))
    meter.close()
    if "OUT" in os.environ:
        Path(os.environ["OUT"], "variants-gpu.json").write_text(json.dumps(lines, indent=1))
    bad = [line for line in lines if "failed" in line or line.get("ok") is False]
    print(f"{len(lines)} variants, {len(bad)} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [name for name in ("simplenn", "digits", "resnet50") if name in MODELS]))
