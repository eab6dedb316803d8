"""The registry of variants, and what an exporter is given of one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gateway.core.contract import ModelContract
from models.job import Job
from models.train import predict_keras, predict_torch
from models.variants import VARIANTS, UnknownVariantError, chosen


def test_a_list_names_variants_and_the_default_ones_come_with_it() -> None:
    """The default ones are the model's own build, without which there is nothing."""
    assert [variant.name for variant in chosen("default")] == ["torchscript", "savedmodel"]
    assert [variant.name for variant in chosen("xla, onnx")] == ["torchscript", "onnx", "savedmodel", "xla"]
    assert [variant.name for variant in chosen("all")] == list(VARIANTS)


def test_an_unknown_variant_is_named_with_those_that_there_are() -> None:
    """A misspelt name is answered with the list to choose from."""
    with pytest.raises(UnknownVariantError, match="unknown variant 'onyx'; there are default, all, torchscript, eager"):
        chosen("onnx,onyx")


def test_only_a_default_variant_is_served_under_the_models_own_name() -> None:
    """Any other one is a model of its own on its server."""
    assert VARIANTS["torchscript"].served_name("digits") == "digits"
    assert VARIANTS["aotinductor"].served_name("digits") == "digits-aotinductor"


def test_a_job_builds_the_trained_network_in_either_framework(job: Callable[[str], Job]) -> None:
    """From the weights beside the build: both answer as the build's golden values say."""
    its = job("xla")
    with np.load(its.base / "golden.npz") as golden:
        inputs, expected = golden["features"], golden["progression"]
    assert np.allclose(predict_torch(its.torch_net(), inputs), expected, rtol=1e-5, atol=1e-5)
    assert np.allclose(predict_keras(its.keras_net(), inputs), expected, rtol=1e-5, atol=1e-5)


def test_an_exact_variants_contract_is_the_models_under_another_name(job: Callable[[str], Job]) -> None:
    """Its tensors and its tolerance are the model's."""
    contract = job("xla").contract
    assert (contract.name, contract.variants, contract.parity) == ("simplenn-xla", {"xla": "tfserving"}, None)
    assert contract.quality is None
    assert "quality" not in contract.to_json()


def test_a_quantized_variants_contract_says_how_far_the_metric_may_fall(job: Callable[[str], Job]) -> None:
    """By the variant's own drop from what the trained network reaches; it survives the file."""
    contract = job("tflite-int8").contract
    assert contract.quality is not None
    assert contract.quality.metric == "r2"
    assert contract.quality.least == pytest.approx(contract.quality.original - 0.02)
    assert contract.quality.argmax_agreement_least is None
    assert ModelContract.from_json(contract.to_json()) == contract
