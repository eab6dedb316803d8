"""The PyTorch exporters: what they pack, and what they make of a network; a longer tier serves every variant."""

from __future__ import annotations

import copy
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from models.export import aotinductor, archive, bf16, cuda, eager, int8_dynamic, int8_static, onnx, pruned
from models.export.pruned import Chain
from models.job import Job, job_of
from models.train import Trained
from models.variants import VARIANTS
from models.zoo import MODELS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ROWS = {"image": np.random.default_rng(3).normal(size=(2, 8, 8, 3)).astype("f4")}


class Small(nn.Module):
    """Two convolutions with a normalisation, then two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 4, 3, stride=2)
        self.hidden = nn.Linear(36, 12)
        self.out = nn.Linear(12, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images [n, 8, 8, 3] in, [n, 5] out."""
        middle = torch.relu(self.norm(self.first(image.permute(0, 3, 1, 2))))
        return self.out(torch.tanh(self.hidden(torch.relu(self.second(middle)).flatten(1))))


@pytest.fixture
def small() -> nn.Module:
    """A network with weights drawn by a seed."""
    torch.manual_seed(5)
    return Small().eval()


def _job(built: Path, variant: str, folder: Path) -> Job:
    definition = MODELS["simplenn"]
    return job_of(definition, VARIANTS[variant], built / "simplenn", folder, definition.module("data").load(7))


def _config(path: Path) -> dict[str, object]:
    with zipfile.ZipFile(path) as packed:
        loaded: dict[str, object] = yaml.safe_load(packed.read("model-config.yaml"))
    return loaded


@pytest.mark.parametrize("variant", ["eager", "bf16", "int8-dynamic"])
def test_an_archive_is_run_by_its_own_handler(built: Path, variant: str, tmp_path: Path) -> None:
    """Packed, unpacked and asked as TorchServe would: close to the network's own answers; sha256 of all that loads."""
    job = _job(built, variant, tmp_path)
    exporter = job.variant.module()
    assert exporter.unavailable(job) is None
    exporter.export(job)
    path = tmp_path / f"simplenn-{variant}.mar"
    section = _config(path)["variant"]
    with zipfile.ZipFile(path) as packed:
        assert {"handler.py", "runtimes.py", "instructions.py", "text.py", "contract.json"} <= set(packed.namelist())
        assert json.loads(packed.read("contract.json"))["name"] == f"simplenn-{variant}"
        files = section["files"]  # type: ignore[index]
        assert {"model.pt", "contract.json"} <= set(files) <= set(packed.namelist())
        for name, expected in files.items():
            assert hashlib.sha256(packed.read(name)).hexdigest() == expected
    answer = exporter.predict(job, job.test_rows)["progression"]
    with torch.inference_mode():
        own = job.torch_net()(torch.from_numpy(job.data.test_inputs)).numpy()
    assert np.abs(answer - own).max() <= (0 if variant == "eager" else 5)


def test_torch_compile_gets_time_and_batch_sizes_up_to_the_cap(built: Path, tmp_path: Path) -> None:
    """TorchServe's own limits are raised: it compiles before it is ready, and does not load where it cannot."""
    job = _job(built, "compile", tmp_path)
    job.variant.module().export(job)
    config = _config(tmp_path / "simplenn-compile.mar")
    assert (config["startupTimeout"], config["responseTimeout"]) == (600, 600)
    section = config["variant"]
    assert section["warm_up"] == [1, 2, 4, 8, 16, 32, 64]  # type: ignore[index]
    assert section["must_warm_up"]  # type: ignore[index]
    _, other = eager.write("compile", job.torch_net(), tmp_path, most=20)
    assert other["warm_up"] == [1, 2, 4, 8, 16]


def test_a_networks_sources_are_its_own_modules_alone(trained_torch: Trained) -> None:
    """With empty packages around them; nothing of the gateway, and no data set."""
    name = trained_torch.definition.name
    texts = dict(eager.sources(type(trained_torch.net).__module__))
    assert {path for path in texts if not path.endswith("__init__.py")} == {
        f"models/zoo/{name}/torch_net.py",
        "models/zoo/dataset.py",
        "models/zoo/torch_layers.py",
    }
    assert texts["models/zoo/__init__.py"] == ""


def test_the_cpu_to_build_for_is_this_one_or_one_with_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the vectors' width and the compiler's level: with one alone AVX-512 instructions stay in."""
    monkeypatch.setenv("TWINSERVE_AOT_CPU", "avx2")
    assert aotinductor.cpu() == {"cpp.simdlen": 256, "cpp.march": "x86-64-v3"}
    monkeypatch.setenv("TWINSERVE_AOT_CPU", "vax")
    with pytest.raises(ValueError, match="TWINSERVE_AOT_CPU is 'vax'; expected native or avx2"):
        aotinductor.cpu()


def test_rows_stay_free_and_so_do_the_lengths_of_sequences() -> None:
    """Of integers every dimension; of numbers the first."""
    ids, image = np.zeros((2, 7), np.int64), np.zeros((2, 8, 8, 3), "f4")
    shapes = aotinductor.dynamic({"ids": ids, "image": image}, 64)
    assert [sorted(each) for each in shapes] == [[0, 1], [0]]
    assert (shapes[0][0].min, shapes[0][0].max) == (1, 64)


def test_bf16_keeps_what_goes_in_and_out(small: nn.Module) -> None:
    """Dense and convolution layers hold BF16; the answer is FP32 and near."""
    image = torch.from_numpy(ROWS["image"])
    with torch.inference_mode():
        expected = small(image)
        found = bf16.Autocast(small)(image)
    assert small.first.weight.dtype == torch.bfloat16
    assert small.norm.weight.dtype == torch.float32
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=0.05)


def test_a_convolution_over_one_channel_stays_fp32() -> None:
    """Inductor's frozen INT8 kernel for it computes wrong values."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 1))
    assert int8_static.kept(net) == ["0"]


def test_a_layer_whose_activations_have_outliers_stays_fp32() -> None:
    """One value far from the others takes most of the 256 steps for itself."""
    rows = np.random.default_rng(2).normal(size=(1024, 16)).astype("f4")
    net = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))
    assert int8_dynamic.even(net, {"x": rows}) == ["0", "2"]
    rows[0, 0] = 1e4
    assert int8_dynamic.even(net, {"x": rows}) == ["2"]


def test_chains_are_found_in_the_exported_graph(small: nn.Module) -> None:
    """Through normalisations, activations and a flatten."""
    assert pruned.chains(small, ROWS, 8) == [
        Chain("first", "norm", "second"),
        Chain("second", None, "hidden"),
        Chain("hidden", None, "out"),
    ]


@pytest.mark.parametrize("chain", [Chain("first", "norm", "second"), Chain("second", None, "hidden")])
def test_channels_without_weight_go_and_the_answer_stays(small: nn.Module, chain: Chain) -> None:
    """A quarter of the channels weighs nothing: without it the network is smaller and gives what it gave."""
    second = small.get_submodule(chain.second)
    channels = len(small.get_submodule(chain.first).weight)  # type: ignore[arg-type]
    with torch.no_grad():
        columns = second.weight.unflatten(1, (channels, -1))  # type: ignore[operator]
        columns[:, : channels // 4] = 0
    image, smaller = torch.from_numpy(ROWS["image"]), copy.deepcopy(small)
    pruned.prune(smaller, chain, 0.25)
    with torch.inference_mode():
        assert torch.allclose(smaller(image), small(image), atol=1e-6)
    assert len(smaller.get_submodule(chain.first).weight) == channels - channels // 4  # type: ignore[arg-type]
    assert sum(each.numel() for each in smaller.parameters()) < sum(each.numel() for each in small.parameters())


def test_what_is_left_learns_from_the_original(small: nn.Module) -> None:
    """After some steps it answers more like the original than right after the cut."""
    image, smaller = torch.from_numpy(ROWS["image"]), copy.deepcopy(small)
    pruned.prune(smaller, Chain("hidden", None, "out"), 0.5)

    def apart() -> float:
        with torch.inference_mode():
            return float((smaller(image) - small(image)).square().mean())

    before = apart()
    pruned.learn(smaller, small, ROWS)
    assert apart() < before / 10


@pytest.mark.parametrize("variant", ["cuda", "tensorrt"])
def test_without_a_gpu_the_reason_says_so(built: Path, variant: str, tmp_path: Path) -> None:
    """Found without heavy work, by torch's own words."""
    job = _job(built, variant, tmp_path)
    expected = None if torch.cuda.is_available() else "needs an NVIDIA GPU: torch.cuda.is_available() is False here"
    reason = job.variant.module().unavailable(job)
    assert (reason or "").startswith(expected or "")
    assert cuda.without_gpu() is None or reason is not None


def test_a_provider_that_is_missing_is_named_with_those_that_are_there() -> None:
    """TensorRT's, in a build of ONNX Runtime for CPUs."""
    assert "has no NonesuchExecutionProvider here, only" in (onnx.without_provider("NonesuchExecutionProvider") or "")


def test_worker_settings_without_limits_are_an_error(tmp_path: Path) -> None:
    """A base file that lost a line would leave a compiling worker two minutes."""
    base = tmp_path / "base.yaml"
    base.write_text("startupTimeout: 120\n")
    with pytest.raises(ValueError, match="expected responseTimeout and startupTimeout"):
        archive.write_config(tmp_path / "out.yaml", {}, base=base, timeout_s=600)
