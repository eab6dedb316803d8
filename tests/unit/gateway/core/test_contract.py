"""Contracts: the file, the checks on requests and replies, and the comparison with a server's metadata."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gateway.core.contract import ContractError, ModelContract, Parity
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import Bounds, InferenceRequest, InferenceResponse, TensorSpec
from tests.builders import contract, doubled, request, tensor


def _bounded(bounds: Bounds) -> str:
    return contract(inputs=(TensorSpec("x", "FP32", (-1, 2), bounds=bounds),)).to_json()


@pytest.mark.parametrize("bounds", [Bounds(0, 30521, (-1, 512)), Bounds(most=0.5), Bounds(largest=(4, -1))])
def test_bounds_survive_the_file_of_a_contract(bounds: Bounds) -> None:
    """And are none of the metadata that servers tell."""
    read = ModelContract.from_json(_bounded(bounds))
    assert read.inputs[0].bounds == bounds
    assert read.inputs[0].as_json() == contract().inputs[0].as_json()
    assert "bounds" not in contract().to_json()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1, 5], [-1, 0]], "input 'ids' holds -1; its least value is 0"),
        ([[1, 9]], "input 'ids' holds 9; its greatest value is 8"),
        ([[1] * 4], r"input 'ids' has shape \[1, 4\]; its largest is \[-1, 3\]"),
    ],
)
def test_a_value_or_size_beyond_its_bounds_is_refused(values: list[list[int]], expected: str) -> None:
    """The bounds themselves pass, and so does an input without values."""
    its = contract(inputs=(TensorSpec("ids", "INT64", (-1, -1), bounds=Bounds(0, 8, (-1, 3))),))
    with pytest.raises(GatewayError, match=expected) as caught:
        its.check_request(replace(request(), inputs=(tensor("ids", values, "INT64"),)))
    assert caught.value.cause is Cause.INVALID_INPUT
    its.check_request(replace(request(), inputs=(tensor("ids", [[0, 8, 8]], "INT64"),)))
    its.check_request(replace(request(), inputs=(tensor("ids", np.zeros((2, 0)), "INT64"),)))


def test_a_contract_survives_its_file() -> None:
    """What is written is what is read."""
    written = contract(parity=Parity(True, 1e-6, 1e-7, 1.0), class_labels=("a", "b"))
    assert ModelContract.from_json(written.to_json()) == written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not JSON"),
        ("[" * 50_000, "not JSON"),
        ('{"schema": 1, "name": "m", "version": 1e400}', "infinity"),
        ("[]", "schema 1"),
        ('{"schema": 2}', "schema 1"),
        ('{"schema": 1, "name": "m", "version": 1, "outputs": []}', "'inputs' is missing"),
        ('{"schema": 1, "name": "m", "version": 1, "inputs": [], "outputs": []}', "at least one tensor"),
        (contract().to_json().replace("FP32", "FLOAT"), "unknown datatype 'FLOAT'"),
        (contract().to_json().replace("required", "maybe"), "finite is 'maybe'"),
        (_bounded(Bounds(2, 1)), "bounds of 'x': least and most are no numbers in order"),
        (_bounded(Bounds(largest=(4,))), "bounds of 'x': largest is not one size for each of 2 dimensions"),
        (_bounded(Bounds(0, 1)).replace("FP32", "BF16"), "bounds of 'x': BF16 has no least and most"),
        (_bounded(Bounds(0, 1)).replace('"least"', '"lest"'), "lest"),
    ],
)
def test_a_wrong_contract_file_is_named_with_its_fault(text: str, expected: str) -> None:
    """The message names the file and what was expected."""
    with pytest.raises(ContractError, match=expected) as caught:
        ModelContract.from_json(text, "somewhere/contract.json")
    assert "somewhere/contract.json" in str(caught.value)


def test_a_missing_contract_says_how_to_make_one(tmp_path: Path) -> None:
    """The message names the command that writes contracts."""
    with pytest.raises(ContractError, match="twinserve models build"):
        ModelContract.load(tmp_path / "contract.json")


REQUESTS: list[tuple[InferenceRequest, str]] = [
    (replace(request(), inputs=()), "input 'x' is missing; model 'doubler' expects FP32 \\[-1, 2\\]"),
    (replace(request(), inputs=(tensor("z", [[1, 2]]),)), "no input 'z'; its inputs are 'x'"),
    (replace(request(), inputs=(tensor("x", [[1, 2]]),) * 2), "given twice"),
    (replace(request(), inputs=(tensor("x", [[1, 2]], "FP64"),)), "is FP64; expected FP32"),
    (request([1.0, 2.0]), "has shape \\[2\\]; expected \\[-1, 2\\]"),
    (request([[1.0]]), "has shape \\[1, 1\\]"),
    (request([[1.0, float("nan")]]), "NaN or infinity"),
    (request([[1.0, 2.0]] * 9), "9 rows; model 'doubler' takes at most 8"),
    (request(wanted=("w",)), "no output 'w'; its outputs are 'y'"),
]


@pytest.mark.parametrize(("asked", "expected"), REQUESTS)
def test_a_request_that_breaks_the_contract_is_refused(asked: InferenceRequest, expected: str) -> None:
    """The message names the input and what was expected."""
    with pytest.raises(GatewayError, match=expected) as caught:
        contract().check_request(asked)
    assert caught.value.cause is Cause.INVALID_INPUT


def test_inputs_are_put_in_the_contracts_order() -> None:
    """Clients may name inputs in any order; servers get one."""
    two = contract(inputs=(TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "FP32", (-1,))))
    asked = replace(request(), inputs=(tensor("b", [1]), tensor("a", [2])))
    assert [item.name for item in two.check_request(asked).inputs] == ["a", "b"]


def test_inputs_with_different_rows_are_refused() -> None:
    """Dimension 0 is one batch for all inputs."""
    two = contract(inputs=(TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "FP32", (-1,))))
    with pytest.raises(GatewayError, match="differ in rows"):
        two.check_request(replace(request(), inputs=(tensor("a", [1]), tensor("b", [1, 2]))))


def test_an_empty_batch_is_a_batch() -> None:
    """No rows are fewer than the cap."""
    assert contract().check_request(request(np.zeros((0, 2)))).inputs[0].shape == (0, 2)


def test_infinity_passes_where_the_contract_allows_it() -> None:
    """`finite: allowed` lets NaN and infinity in and out."""
    loose = contract(finite="allowed")
    asked = loose.check_request(request([[1.0, float("inf")]]))
    assert loose.check_response(asked, doubled(asked)).outputs[0].array[0, 1] == float("inf")


REPLIES: list[tuple[tuple[object, ...], str]] = [
    ((), "output 'y' is missing"),
    ((tensor("y", [[1, 2]], "FP64"),), "is FP64"),
    ((tensor("y", [[1, 2, 3]]),), "contract says FP32 \\[-1, 2\\]"),
    ((tensor("y", [[1, 2], [3, 4]]),), "has 2 rows for 1 asked"),
    ((tensor("y", [[1, float("nan")]]),), "NaN or infinity"),
]


@pytest.mark.parametrize(("outputs", "expected"), REPLIES)
def test_a_reply_that_breaks_the_contract_is_never_passed_on(outputs: tuple, expected: str) -> None:
    """A model server is not trusted either."""
    with pytest.raises(GatewayError, match=expected) as caught:
        contract().check_response(request(), InferenceResponse("doubler", 1, outputs))
    assert caught.value.cause is Cause.UPSTREAM_BAD_REPLY


def test_only_wanted_outputs_are_given_in_the_order_asked() -> None:
    """Extra outputs are dropped."""
    two = contract(outputs=(TensorSpec("y", "FP32", (-1,)), TensorSpec("z", "FP32", (-1,))))
    reply = InferenceResponse("doubler", 1, (tensor("y", [1]), tensor("z", [2]), tensor("extra", [3])))
    checked = two.check_response(request(wanted=("z", "y")), reply)
    assert [item.name for item in checked.outputs] == ["z", "y"]


def test_a_servers_metadata_is_compared_side_by_side() -> None:
    """Both sides are named; a dimension that either leaves open agrees with anything."""
    ours = contract()
    same = replace(ours, inputs=(TensorSpec("x", "FP32", (4, 2)),)).metadata((1,))
    assert ours.differences(same) == []
    other = replace(ours, inputs=(TensorSpec("x", "INT64", (-1, 2)), TensorSpec("w", "FP32", (1,)))).metadata((1,))
    assert ours.differences(other) == [
        "input 'x': the contract has FP32 [-1, 2], the server INT64 [-1, 2]",
        "input 'w': unknown to the contract, the server has FP32 [1]",
    ]


def test_a_servers_metadata_amounts_to_a_contract() -> None:
    """Any value may come and go; a variable dimension 0 everywhere is taken for a batch, yet nobody is held to it."""
    made = ModelContract.of("mine", contract().metadata((3, 2)))
    assert (made.name, made.version, made.finite, made.synthesised) == ("mine", 3, "allowed", True)
    assert made.batch_cap is not None
    asked = made.check_request(request([[1.0, float("nan")]] * 9, model="mine"))
    answer = InferenceResponse("mine", 3, (tensor("y", [[1, 2]]),))
    assert made.check_response(asked, answer).outputs[0].shape == (1, 2)
    two = (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("n", "INT64", (-1,)))
    uneven = InferenceRequest(request().model, (tensor("x", [[1, 2]]), tensor("n", [1, 2, 3], "INT64")))
    assert (
        ModelContract.of("m", replace(contract().metadata((1,)), inputs=two)).check_request(uneven).inputs
        == uneven.inputs
    )
    scalar = replace(contract().metadata(()), outputs=(TensorSpec("y", "FP32", ()),))
    assert (ModelContract.of("m", scalar).batch_cap, ModelContract.of("m", scalar).version) == (None, 1)
    assert "synthesised" not in made.to_json()


def test_a_tensor_of_unknown_rank_may_have_any_shape() -> None:
    """It agrees with every shape of its datatype, and is no batch."""
    anything = TensorSpec("x", "FP32", (-1,), ranked=False)
    made = ModelContract.of("m", replace(contract().metadata((1,)), inputs=(anything,)))
    assert made.batch_cap is None
    for values in (1.0, [1.0], [[1.0, 2.0]]):
        asked = replace(request(), inputs=(tensor("x", values),))
        assert made.check_request(asked).inputs == asked.inputs
    with pytest.raises(GatewayError, match="is FP64; expected FP32"):
        made.check_request(replace(request(), inputs=(tensor("x", [1], "FP64"),)))
    assert contract().differences(replace(contract().metadata((1,)), inputs=(anything,))) == []
    ints = replace(anything, datatype="INT64")
    (difference,) = contract().differences(replace(contract().metadata((1,)), inputs=(ints,)))
    assert difference == "input 'x': the contract has FP32 [-1, 2], the server INT64 of any shape"
