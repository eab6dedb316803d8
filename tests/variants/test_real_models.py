"""The large models through the gateway, in their default variants."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.golden import load_golden
from serving.local import LocalStack
from serving.settings import LaunchSettings, Ports
from tests.variants.conftest import REAL, build
from twinserve.client import Question, predict_grpc, predict_rest

pytestmark = [pytest.mark.variants, pytest.mark.servers]


def test_the_real_models_answer_as_they_are_served_by_default(artifacts: Path) -> None:
    """Golden rows on every stack that has them, over both doors."""
    build(REAL, "default")
    settings = LaunchSettings(artifacts=artifacts, models=",".join(REAL))
    faults = []
    with LocalStack(settings, Ports.free(), report=print) as stack:
        for name in REAL:
            golden = load_golden(artifacts, name)
            inputs = {key: array[:2] for key, array in golden.inputs.items()}
            for variant in golden.contract.variants or {}:
                question = Question(name, inputs, variant=variant)
                for door, answer in (
                    ("rest", predict_rest(stack.gateway_rest, question)),
                    ("grpc", predict_grpc(stack.gateway_grpc, question)),
                ):
                    fault = golden.fault(0, 2, answer.outputs)
                    faults += [f"{name} as {variant} over {door}: {fault}"] if fault else []
    assert faults == []
