"""Tests of gateway.backends.null: the answer that costs nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gateway.backends.null import Null
from gateway.core.backend import Outcome
from gateway.core.context import CallContext
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause
from gateway.core.messages import InferenceRequest, InferenceResponse, TensorSpec
from gateway.core.tensor import Tensor
from tests.unit.gateway.backends.support import call, failure, request

CONTRACT = ModelContract(
    "digits",
    3,
    (TensorSpec("image", "FP32", (-1, 8, 8, 1)),),
    (TensorSpec("probabilities", "FP32", (-1, 10)), TensorSpec("label", "BYTES", (-1,))),
    batch_cap=256,
)


class Started(Null):
    """A null backend that is asked without a coroutine."""

    async def infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        heard: list[Outcome] = []
        self.start(request, context, heard.append)
        (outcome,) = heard
        assert isinstance(outcome, InferenceResponse)
        return outcome


@pytest.fixture(params=[Null, Started])
def null(request: pytest.FixtureRequest) -> Null:
    """A null backend with one model, asked in both ways."""
    made: type[Null] = request.param
    return made({"digits": CONTRACT})


@pytest.mark.parametrize("rows", [0, 1, 64])
async def test_the_answer_fits_the_contract(null: Null, rows: int) -> None:
    """Every output in its shape, with as many rows as were asked."""
    image = Tensor("image", "FP32", np.zeros((rows, 8, 8, 1), np.float32))
    asked = replace(request("digits"), inputs=(image,))
    response = CONTRACT.check_response(asked, await null.infer(asked, call()))
    assert [(tensor.name, tensor.shape) for tensor in response.outputs] == [
        ("probabilities", (rows, 10)),
        ("label", (rows,)),
    ]
    assert response.outputs[1].array.tolist() == [b""] * rows
    assert (response.version, response.id) == (3, "i")


async def test_wanted_outputs_only(null: Null) -> None:
    """What was not asked for is not made."""
    response = await null.infer(replace(request("digits"), wanted=("label",)), call())
    assert [tensor.name for tensor in response.outputs] == ["label"]


async def test_what_it_does_not_have(null: Null) -> None:
    """Models, versions and labels outside the contract have their causes."""
    assert (await failure(null.infer(request("nope"), call()))).cause is Cause.MODEL_NOT_FOUND
    assert (await failure(null.infer(request("digits", version=1), call()))).cause is Cause.VERSION_NOT_FOUND
    assert (await failure(null.infer(request("digits", label="stable"), call()))).cause is Cause.LABEL_NOT_FOUND
    assert (await failure(null.infer(request("digits"), call(0.0)))).cause is Cause.DEADLINE


async def test_its_state_is_the_contract(null: Null) -> None:
    """The contract's version is ready, with the contract's tensors."""
    state = await null.model_state("digits")
    assert state.versions == (3,)
    assert state.metadata == CONTRACT.metadata((3,))
