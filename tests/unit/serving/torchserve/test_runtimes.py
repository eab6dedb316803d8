"""What runs a model in the handler: files that are checked before they are loaded, devices, CPUs, and each runtime."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from gateway.core.contract import ModelContract
from gateway.core.errors import Cause
from gateway.core.messages import TensorSpec
from models.export import archive, eager
from models.zoo.simplenn import torch_net
from models.zoo.torch_layers import Affine
from serving.torchserve import handler, runtimes
from tests.builders import contract, tensor
from tests.unit.serving.toys import Doubler, FakeContext, frame, unpacked, write_model

pytestmark = pytest.mark.filterwarnings(r"ignore:.torch\.jit\.:DeprecationWarning")

CPU = torch.device("cpu")
BUILT = {"AOTI_DEVICE_KEY": "cpu", "AOTI_MACHINE": "x86_64", "AOTI_CPU_ISA": "AVX512 AVX512_VNNI"}
AVX2 = {"avx2", "fma", "f16c"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
SIMPLE = ModelContract(
    "simple", 1, (TensorSpec("features", "FP32", (-1, 10)),), (TensorSpec("y", "FP32", (-1, 1)),), batch_cap=256
)


def _simple() -> torch.nn.Module:
    one = torch.ones(1)
    return torch_net.SimpleNN(Affine(torch.ones(10), torch.zeros(10)), Affine(one, one)).eval()


def _load(folder: Path, variant: dict[str, Any], its: ModelContract = SIMPLE) -> handler.Service:
    (folder / "contract.json").write_text(its.to_json())
    return handler.Service(FakeContext(folder, its, yaml={"variant": variant}))  # type: ignore[arg-type]


def _doubler_onnx(path: Path) -> Path:
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", 2]) for name in ("x", "y")]
    node = onnx.helper.make_node("Add", ["x", "x"], ["y"])
    graph = onnx.helper.make_graph([node], "doubler", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_corrupt_file_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    """Its sha256 differs from that of model-config.yaml: the file is named, and what to do."""
    files, section = eager.write("eager", _simple(), tmp_path)
    files[0].write_bytes(files[0].read_bytes()[:-1] + b"?")
    with pytest.raises(runtimes.Unloadable, match=r"model.pt is corrupt: its sha256 is .* models build. makes it anew"):
        _load(tmp_path, section)
    files[1].unlink()
    with pytest.raises(runtimes.Unloadable, match=r"source.zip is missing from the archive"):
        runtimes.check_files(tmp_path, {"source.zip": section["files"]["source.zip"]})


def test_a_corrupt_contract_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """As is whatever else the section lists, a tokenizer for instance."""
    _, section = eager.write("eager", _simple(), tmp_path)
    (tmp_path / "contract.json").write_text(SIMPLE.to_json())
    section["files"] |= archive.digests([tmp_path / "contract.json"])
    assert _load(tmp_path, section).contract.batch_cap == 256
    with pytest.raises(runtimes.Unloadable, match=r"contract\.json is corrupt: its sha256 is"):
        _load(tmp_path, section, replace(SIMPLE, batch_cap=512))


def test_an_unknown_runtime_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    """A word in model-config.yaml that means nothing."""
    with pytest.raises(runtimes.Unloadable, match="'tvm'; expected one of torchscript, eager, compile, aotinductor"):
        _load(tmp_path, {"name": "tvm", "runtime": "tvm", "file": "model.pt"})


def test_a_variant_for_a_gpu_is_refused_where_torchserve_assigns_none() -> None:
    """It never runs on the CPU unseen; and one for the CPU stays there."""
    with pytest.raises(runtimes.Unloadable, match="variant cuda needs an NVIDIA GPU: TorchServe assigned gpu_id None"):
        runtimes.device_of({"name": "cuda", "device": "cuda"}, None)
    assert runtimes.device_of({"device": "cpu"}, 0) == CPU


@pytest.mark.parametrize(
    ("built", "flags", "words"),
    [
        (BUILT, AVX2, r"built for a CPU with AVX512, and this one lacks avx512bw, .* \(it has AVX2\)"),
        (BUILT, AVX512, r"with AVX512_VNNI, and this one lacks avx512_vnni \(it has AVX512\)"),
        (
            {**BUILT, "AOTI_CPU_ISA": "AVX2"},
            {"sse2"},
            r"with AVX2, and this one lacks avx2, f16c, fma \(it has neither\)",
        ),
        ({**BUILT, "AOTI_MACHINE": "aarch64"}, AVX512, "model.pt2 was built for aarch64, and this machine is x86_64"),
    ],
)
def test_a_package_for_another_cpu_is_refused_by_its_instruction_set(
    built: dict[str, str], flags: set[str], words: str
) -> None:
    """Before it is loaded: an instruction that the CPU lacks would end the worker."""
    with pytest.raises(runtimes.Unloadable, match=words):
        runtimes.check_cpu("model.pt2", built, "x86_64", flags)


@pytest.mark.parametrize("flags", [AVX512 | {"avx512_vnni"}, set()], ids=["has-all", "unknown"])
def test_a_package_for_this_cpu_is_taken(flags: set[str]) -> None:
    """Where the kernel tells no flags nothing is held against it."""
    runtimes.check_cpu("model.pt2", BUILT, "x86_64", flags)


def test_a_package_tells_what_it_was_built_for_before_it_is_loaded(tmp_path: Path) -> None:
    """Its metadata are read from the zip; the handler refuses one for another CPU, and what is no package."""
    package = tmp_path / "model.pt2"
    with zipfile.ZipFile(package, "w") as packed:
        packed.writestr(
            "m/data/aotinductor/model/a.wrapper_metadata.json", json.dumps(BUILT | {"AOTI_CPU_ISA": "VSX3"})
        )
    section = archive.section_of("aotinductor", "aotinductor", [package])
    with pytest.raises(runtimes.Unloadable, match="built for a CPU with VSX3"):
        _load(tmp_path, section)
    with zipfile.ZipFile(package, "w") as packed:
        packed.writestr("m/wrapper_metadata.json", json.dumps({"AOTI_DEVICE_KEY": "cuda"}))
    with pytest.raises(runtimes.Unloadable, match=r"built for cuda, and this worker runs on cpu"):
        _load(tmp_path, archive.section_of("aotinductor", "aotinductor", [package]))
    package.write_bytes(b"no zip")
    with pytest.raises(runtimes.Unloadable, match=r"model.pt2 is no AOTInductor package"):
        _load(tmp_path, archive.section_of("aotinductor", "aotinductor", [package]))


def test_the_eager_network_is_its_own_code_and_weights(tmp_path: Path) -> None:
    """It answers what the network answers, bit for bit."""
    net, rows = _simple(), np.random.default_rng(1).normal(size=(3, 10)).astype("f4")
    _, section = eager.write("eager", net, tmp_path)
    service = _load(tmp_path, section)
    (answer,) = service.infer(handler.Request((handler.Tensor("features", "FP32", rows),)))
    with torch.inference_mode():
        np.testing.assert_array_equal(answer.array, net(torch.from_numpy(rows)).numpy())
    assert json.loads(service.describe())["runtime"] == "torch eager"


def test_a_pickle_that_names_anything_but_networks_is_refused(tmp_path: Path) -> None:
    """Loading it would run what it names."""
    torch.save({"net": Path("/")}, tmp_path / "model.pt")
    (tmp_path / "source.zip").write_bytes(b"")
    section = {"name": "eager", "runtime": "eager", "file": "model.pt", "source": "source.zip"}
    with pytest.raises(
        runtimes.Unloadable, match=r"model.pt names pathlib\..*; expected modules of torch.nn and source"
    ):
        _load(tmp_path, section)


def test_onnx_answers_by_the_contracts_names(tmp_path: Path) -> None:
    """A frame in, a frame out, through ONNX Runtime; an input that is not aligned too."""
    graph = _doubler_onnx(tmp_path / "model.onnx")
    its = contract()
    (tmp_path / "contract.json").write_text(its.to_json())
    context = FakeContext(tmp_path, its, yaml={"variant": archive.section_of("onnx", "onnx", [graph])})
    handler.handle(None, context)  # type: ignore[arg-type]
    (reply,) = handler.handle([{"frame": frame([tensor("x", [[1, 2], [3, 4]])])}], context) or []  # type: ignore[arg-type]
    header, buffers = unpacked(reply)
    assert header["outputs"][0]["name"] == "y"
    assert np.frombuffer(buffers, "<f4").tolist() == [2, 4, 6, 8]


def test_an_onnx_output_of_another_datatype_is_the_models_failure(tmp_path: Path) -> None:
    """The contract says FP64, the graph gives FP32."""
    graph = _doubler_onnx(tmp_path / "model.onnx")
    its = contract(outputs=(TensorSpec("y", "FP64", (-1, 2)),))
    service = _load(tmp_path, archive.section_of("onnx", "onnx", [graph]), its)
    with pytest.raises(handler.Refused, match="gave no output 'y' of FP64") as refused:
        service.infer(handler.Request((handler.Tensor("x", "FP32", np.zeros((1, 2), "f4")),)))
    assert refused.value.cause == Cause.UPSTREAM_FAILED


def test_a_provider_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    """ONNX Runtime itself would fall back to the CPU."""
    section = archive.section_of("tensorrt", "onnx", [_doubler_onnx(tmp_path / "m.onnx")], provider="Nonesuch")
    with pytest.raises(runtimes.Unloadable, match=r"has no NonesuchExecutionProvider; it has .*CPUExecutionProvider"):
        _load(tmp_path, section, contract())


def test_the_warm_up_runs_every_batch_size_and_two_lengths(tmp_path: Path) -> None:
    """Twice each, and never one length alone: torch.compile would take it for fixed."""
    its = contract(inputs=(TensorSpec("x", "FP32", (-1, -1)),))
    service = _load(write_model(tmp_path, Doubler(), its), {"name": "compile", "warm_up": [1, 4]}, its)
    shapes: list[tuple[int, ...]] = []

    class Noting(runtimes.TorchRuntime):
        def run(self, inputs: Any) -> dict[str, Any]:
            shapes.extend(array.shape for _, array in inputs)
            return {}

        def warmed_up(self) -> None:
            shapes.append(())

    service.runtime = Noting("none", Doubler(), CPU, {})
    service.warm_up()
    assert shapes == [(1, 9), (1, 9), (4, 12), (4, 12), ()]


def test_a_variant_that_must_warm_up_does_not_load_where_it_cannot(tmp_path: Path) -> None:
    """A compiler that fails is found out before the worker is ready; elsewhere zeros need not be valid input."""
    its = contract(inputs=(TensorSpec("other", "INT64", (-1,)), TensorSpec("x", "FP32", (-1, 2))))
    folder = write_model(tmp_path, Doubler(), its)
    _load(folder, {"name": "torchscript"}, its).warm_up()
    with pytest.raises(RuntimeError, match="expected at most"):
        _load(folder, {"name": "compile", "must_warm_up": True}, its).warm_up()


def test_torchserves_description_tells_the_variant(tmp_path: Path) -> None:
    """What `GET /models/<name>?customized=true` asks the worker for."""
    its = contract()
    context = FakeContext(write_model(tmp_path, Doubler(), its), its)
    handler.handle(None, context)  # type: ignore[arg-type]
    context.get_request_header = lambda idx, key: "True" if key == "describe" else None  # type: ignore[method-assign]
    (told,) = handler.handle([{}], context) or []  # type: ignore[arg-type]
    assert json.loads(told) == {"variant": "torchscript", "runtime": "TorchScript", "device": "cpu", "files": {}}
