"""Real TorchServe on an NVIDIA GPU with our gateway in front: what each variant answers, how fast, at what power.

`python -m tests.gpu.stack [--variants A,B] [--rehearse] [MODEL ...]` needs what `tests.gpu.variants` needs, TorchServe,
Java 17 and the gateway. Each variant is a model of its own on one TorchServe, asked through the gateway over REST and
gRPC, held against the eager network on the CPU, then asked by many callers at once while the GPU is read. `--rehearse`
leaves out what needs a GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from gateway._generated import oip_pb2
from gateway.core.contract import ModelContract
from gateway.core.tensor import Tensor, to_raw
from loadtests.campaign.gpu import GpuMeter, gpu_meter
from models.export import archive, cuda, torchscript
from models.zoo import BATCH_CAP
from serving import servers
from serving.local import LocalStack
from serving.models import BuiltModel, BuiltVariant
from serving.settings import LaunchSettings, Ports
from tests.gpu.variants import Subject, judged, make, subject
from twinserve.client import SERVICE, Question, predict_grpc, predict_rest

# By the name it is asked by: how it is made (of tests.gpu.variants), and whether it needs a GPU.
MADE = {
    "eager": ("eager-cpu", False),
    "cuda": ("cuda", True),
    "compile": ("compile", True),
    "aotinductor": ("aotinductor", True),
    "bf16": ("bf16", True),
}
CALLERS, SECONDS, WARM_S = 64, 4.0, 1.0
READ_EVERY_S = 0.1


def build(its: Subject, root: Path, variants: list[str]) -> BuiltModel:
    """The archives of a model's default variant and of `variants`, in the layout that the launcher serves."""
    name, definition = its.definition.name, its.definition
    folder = root / name
    folder.mkdir(parents=True)
    contract = ModelContract(
        name, 1, definition.inputs, definition.outputs, BATCH_CAP, variants={"torchscript": "torchserve"}
    )
    (folder / archive.CONTRACT).write_text(contract.to_json())
    two = {key: array[:2] for key, array in its.rows.items()}
    torchscript.export(name, 1, its.net, two, folder / archive.CONTRACT, folder / "torchscript")
    built = []
    for variant in variants:
        place, work = folder / "variants" / variant, Path(tempfile.mkdtemp(dir=root))
        place.mkdir(parents=True)
        section = make(MADE[variant][0], its, work)
        config = archive.write_config(work / archive.CONFIG, {"variant": section}, timeout_s=300)
        extra = [work / file for file in section["files"] if file != section["file"]]
        served = f"{name}-{variant}"
        handler = archive.SERVING / archive.HANDLER
        archive.write(served, 1, work / section["file"], [folder / archive.CONTRACT, *extra], config, place, handler)
        built.append(BuiltVariant(variant, "torchserve", served, place))
    return BuiltModel(name, folder, tuple(built))


def asked(stack: LocalStack, its: Subject, variant: str) -> dict[str, Any]:
    """What a variant answers to two rows over both of the gateway's doors, and who says so."""
    rows = {key: array[:2] for key, array in its.rows.items()}  # two images are as much JSON as the gateway takes
    question = Question(its.definition.name, rows, variant=variant)
    output = its.definition.outputs[0].name
    told: dict[str, Any] = {}
    for door, answer in (
        ("rest", predict_rest(stack.gateway_rest, question)),
        ("grpc", predict_grpc(stack.gateway_grpc, question)),
    ):
        part = Subject(its.definition, its.net, rows, its.expected[:2])
        good, words = judged(variant, part, np.asarray(answer.outputs[output], np.float32))
        told[door] = {"ok": good, "parity": words, "served_by": answer.served_by}
    return told


async def load(stack: LocalStack, its: Subject, variant: str, meter: GpuMeter) -> dict[str, Any]:
    """Requests a second of one row each from `CALLERS` callers who wait for their answers, and the GPU meanwhile."""
    message = _message(its, variant).SerializeToString()
    counted, failed, why = 0, 0, set[str]()
    async with grpc.aio.insecure_channel(stack.gateway_grpc) as channel:
        call = channel.unary_unary(f"{SERVICE}/ModelInfer")
        begin = time.perf_counter() + WARM_S
        ends = begin + SECONDS

        async def caller() -> None:
            nonlocal counted, failed
            while time.perf_counter() < ends:
                try:
                    await call(message, timeout=30)
                except grpc.aio.AioRpcError as exc:
                    failed += 1
                    why.add(f"{exc.code().name}: {exc.details()}")
                counted += begin <= time.perf_counter() < ends

        async def reader() -> None:
            await asyncio.sleep(WARM_S)
            meter.begin()
            while time.perf_counter() < ends:
                await asyncio.sleep(READ_EVERY_S)
                meter.sample()

        await asyncio.gather(reader(), *(caller() for _ in range(CALLERS)))
    gpu = meter.end()
    per_1000 = None if gpu.get("energy_j") is None else round(gpu["energy_j"] / max(counted, 1) * 1000, 1)
    return {
        "requests_per_s": round(counted / SECONDS, 1),
        "failed": failed,
        "why": sorted(why),
        "j_per_1000": per_1000,
        "gpu": gpu,
    }


def _message(its: Subject, variant: str) -> oip_pb2.ModelInferRequest:
    message = oip_pb2.ModelInferRequest(model_name=its.definition.name)
    message.parameters["variant"].string_param = variant
    for spec in its.definition.inputs:
        array = np.ascontiguousarray(its.rows[spec.name][:1])
        message.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        message.raw_input_contents.append(bytes(to_raw(Tensor(spec.name, spec.datatype, array))))
    return message


def devices(log: Path) -> list[str]:
    """What the handler says of where each model runs."""
    return sorted({line[line.index("Model ") :] for line in log.read_text().splitlines() if " runs on " in line})


def main(arguments: list[str]) -> int:
    """0 where every variant answered within what is expected of it, over both doors, and no request failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.stack", description=__doc__)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--variants", default=",".join(MADE), help="beside torchscript (default: %(default)s)")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds for all servers to start")
    parser.add_argument("models", nargs="*", default=["simplenn", "digits", "resnet50"])
    options = parser.parse_args(arguments)
    missing = cuda.without_gpu()
    if missing and not options.rehearse:
        print(missing)
        return 3
    variants = [name for name in options.variants.split(",") if not (missing and MADE[name][1])]
    meter, bad, lines = gpu_meter(time.monotonic), 0, []
    with tempfile.TemporaryDirectory(dir="/tmp") as work:
        settings = LaunchSettings(artifacts=Path(work), start_timeout_s=options.patience)
        subjects = [subject(name) for name in options.models]
        built = [build(its, settings.models_dir, variants) for its in subjects]
        ports = Ports.free()
        stages = [[servers.torchserve(settings, ports, built)], [servers.gateway(settings, ports, built)]]
        with LocalStack(settings, ports, stages=stages, report=lambda line: print(line, flush=True)) as stack:
            print("\n".join(devices(settings.run_dir / "logs" / "torchserve.log")), flush=True)
            for its in subjects:
                for variant in ("torchscript", *variants):
                    line: dict[str, Any] = {"model": its.definition.name, "variant": variant}
                    try:
                        line |= asked(stack, its, variant) | asyncio.run(load(stack, its, variant, meter))
                        bad += bool(line["failed"]) or not (line["rest"]["ok"] and line["grpc"]["ok"])
                    except Exception as exc:  # the others still tell something
                        bad, line["error"] = bad + 1, f"{type(exc).__name__}: {exc}"
                    lines.append(line)
                    print(json.dumps(line), flush=True)
    meter.close()
    if "OUT" in os.environ:
        Path(os.environ["OUT"], "stack-gpu.json").write_text(json.dumps(lines, indent=1))
    print(f"{len(lines)} variants, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
