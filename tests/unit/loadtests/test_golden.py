"""Golden data: what counts as a right answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gateway.core.messages import TensorSpec
from loadtests.errors import LoadTestError
from loadtests.golden import Golden, load_golden, question_order
from tests.unit.loadtests.builders import ROWS, toy_contract, write_toy


@pytest.fixture
def golden(tmp_path: Path) -> Golden:
    """The toy model's golden data."""
    return load_golden(write_toy(tmp_path), "toy")


def test_the_golden_answer_is_right(golden: Golden) -> None:
    """Each question's own rows, and no others, are its answer."""
    answer = {"y": golden.outputs["y"][6:9]}
    assert golden.fault(2, 3, answer) is None
    assert golden.fault(3, 3, answer) is not None


def test_an_answer_within_the_tolerance_is_right(golden: Golden) -> None:
    """|a - b| <= atol + rtol * |b|, the contract's own limit."""
    expected = golden.outputs["y"][:1].astype(np.float64)
    limit = 1e-5 + 1e-5 * np.abs(expected)
    assert golden.fault(0, 1, {"y": expected + 0.9 * limit}) is None
    assert "off by" in (golden.fault(0, 1, {"y": expected + 1.1 * limit}) or "")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({}, "missing"),
        ({"y": np.zeros((1, 3), np.float32)}, "shape"),
        ({"y": np.full((1, 2), np.nan, np.float32)}, "off by"),
    ],
)
def test_an_incomplete_answer_is_wrong(golden: Golden, answer: dict[str, np.ndarray], reason: str) -> None:
    """A missing output, another shape and a NaN are all faults."""
    assert reason in (golden.fault(0, 1, answer) or "")


def test_questions_cut_the_rows_evenly(golden: Golden) -> None:
    """Rows that do not fill a question are left out; more rows than there are is an error."""
    assert golden.questions(3) == ROWS // 3
    assert [t.shape for t in golden.tensors(1, 3)] == [(3, 3)]
    for rows in (0, ROWS + 1):
        with pytest.raises(LoadTestError, match="golden rows"):
            golden.questions(rows)


def test_a_model_without_artifacts_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    """The message names the file and the command that writes it."""
    with pytest.raises(LoadTestError, match="twinserve models build"):
        load_golden(tmp_path, "none")


def test_golden_values_must_fit_the_contract(tmp_path: Path) -> None:
    """A tensor of the contract that the archive lacks is named."""
    folder = tmp_path / "models" / "toy"
    folder.mkdir(parents=True)
    (folder / "contract.json").write_text(toy_contract().to_json())
    np.savez(folder / "golden.npz", x=np.zeros((4, 3)))
    with pytest.raises(LoadTestError, match="no golden values for y"):
        load_golden(tmp_path, "toy")
    np.savez(folder / "golden.npz", x=np.zeros((4, 3)), y=np.zeros((5, 2)))
    with pytest.raises(LoadTestError, match="differ in rows"):
        load_golden(tmp_path, "toy")


def test_bytes_are_bytes_again(tmp_path: Path) -> None:
    """An archive without pickles keeps them as numpy's own; anything else in their place is named."""
    folder = tmp_path / "models" / "toy"
    folder.mkdir(parents=True)
    its = toy_contract()
    its = replace(its, inputs=(TensorSpec("text", "BYTES", (-1,)),))
    (folder / "contract.json").write_text(its.to_json())
    y = np.zeros((2, *its.outputs[0].shape[1:]), np.float32)
    np.savez(folder / "golden.npz", text=np.array([b"", "ž".encode()]), y=y)
    assert load_golden(tmp_path, "toy").inputs["text"].tolist() == [b"", "ž".encode()]
    np.savez(folder / "golden.npz", text=np.zeros(2), y=y)
    with pytest.raises(LoadTestError, match="a BYTES tensor is stored as float64"):
        load_golden(tmp_path, "toy")


def test_every_user_asks_every_question_from_another_start() -> None:
    """Users do not march in step over the same rows."""
    orders = [question_order(64, user) for user in range(4)]
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len({order[0] for order in orders}) == 4
