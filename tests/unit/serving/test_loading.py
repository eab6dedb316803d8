"""Variants that end while TorchServe loads them, by what its log says."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.loading import Loading, without
from serving.models import BuiltModel, BuiltVariant
from serving.processes import LaunchError
from serving.settings import LaunchSettings, Ports


def _end(name: str, error: str) -> str:
    """What a worker of a model writes when it ends while it loads."""
    said = (
        *("Traceback (most recent call last):", '  File "handler.py", line 397, in handle', error, ""),
        *(
            "Backend worker process died.",
            "Traceback (most recent call last):",
            "RuntimeError: 500 - Unknown exception",
        ),
    )
    return "".join(f"2026-11-26T02:35:07,385 [INFO ] W-9001-{name}_1-stdout MODEL_LOG - {line}\n" for line in said)


@pytest.fixture
def settings(tmp_path: Path) -> LaunchSettings:
    """With a run folder that has logs."""
    made = LaunchSettings(artifacts=tmp_path)
    (made.run_dir / "logs").mkdir(parents=True)
    return made


def _log(settings: LaunchSettings, text: str) -> Path:
    log = settings.run_dir / "logs" / "torchserve.log"
    log.write_text(text)
    return log


def test_a_variant_that_ends_twice_while_it_loads_is_dropped(settings: LaunchSettings) -> None:
    """Once, with the error that it told; the first time may be an accident."""
    said: list[str] = []
    loading = Loading(settings, Ports.free(), ("m", "m-onnx"), ("m-onnx",), said.append)
    once = _end("m-onnx", "runtimes.Unloadable: model.onnx needs an opset.")
    _log(settings, once)
    assert loading.waiting_for() == "an answer to /ping"
    assert loading.dropped == {}
    log = _log(settings, once * 2)
    assert loading.waiting_for() == loading.waiting_for() == "an answer to /ping"
    reason = "it ends while TorchServe loads it: runtimes.Unloadable: model.onnx needs an opset"
    assert loading.dropped == {"m-onnx": reason}
    assert said == [f"left out: m-onnx: {reason}; more is in {log}"]


def test_a_default_variant_that_does_not_load_ends_the_start(settings: LaunchSettings) -> None:
    """There is nothing to answer in its place."""
    loading = Loading(settings, Ports.free(), ("m", "m-onnx"), ("m-onnx",))
    _log(settings, _end("m", "RuntimeError: no graph") * 2)
    with pytest.raises(LaunchError, match=r"'m' ends while it loads: RuntimeError: no graph; more is in .*torchserve"):
        loading.waiting_for()


def test_what_was_dropped_is_unavailable(tmp_path: Path) -> None:
    """With its reason, beside what was so before."""
    variants = tuple(BuiltVariant(name, "torchserve", f"m-{name}", tmp_path) for name in ("onnx", "eager"))
    (left,) = without([BuiltModel("m", tmp_path, variants, {"cuda": "no GPU"})], {"m-onnx": "it ends"})
    assert left.variants == variants[1:]
    assert left.unavailable == {"cuda": "no GPU", "onnx": "it ends"}
