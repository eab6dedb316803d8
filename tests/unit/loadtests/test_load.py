"""The judge of replies, and what is prepared once for all users."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.cells import Cell
from loadtests.load import Load
from loadtests.recorder import ServedBy
from loadtests.replies import Outcome, Reply
from tests.unit.loadtests.builders import toy_cell, write_toy

NOBODY = ServedBy()


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """One process's share, with two rows in each request."""
    return Load(write_toy(tmp_path), rows_each=2, timeout_s=1.0)


def _reply(load: Load, cell: Cell, question: int) -> Reply:
    rows = load.questions(cell).golden.outputs["y"][2 * question : 2 * question + 2]
    return Reply(Outcome.OK, 0.001, json.dumps({"outputs": {"y": rows.astype(float).tolist()}}).encode())


def test_requests_are_encoded_once(load: Load) -> None:
    """All users of a cell share the same bytes."""
    assert load.questions(toy_cell()) is load.questions(toy_cell())
    assert len(load.questions(toy_cell()).bodies) == 32
    assert [load.next_user(), load.next_user()] == [0, 1]


def test_a_right_answer_counts_again_by_its_bytes_only_for_its_own_question(load: Load) -> None:
    """Remembering a right reply must never make it right for another question."""
    cell = toy_cell()
    questions = load.questions(cell)
    right = _reply(load, cell, 3)
    for _ in range(2):
        assert questions.verdict(cell, 3, right, NOBODY) == (Outcome.OK, "")
    assert questions.verdict(cell, 4, right, NOBODY)[0] is Outcome.WRONG_ANSWER


def test_failures_keep_their_own_outcome(load: Load) -> None:
    """A timeout is not judged as an answer."""
    reply = Reply(Outcome.TIMEOUT, 1.0, detail="no reply in 1 s")
    assert load.questions(toy_cell()).verdict(toy_cell(), 0, reply, NOBODY) == (Outcome.TIMEOUT, "no reply in 1 s")


def test_unreadable_replies_are_wrong_answers_and_inner_errors_keep_their_class(load: Load) -> None:
    """Garbage with status 200 is a wrong answer; TorchServe's error body over gRPC counts by its own code."""
    cell = toy_cell()
    garbage = Reply(Outcome.OK, 0.001, b"garbage")
    assert load.questions(cell).verdict(cell, 0, garbage, NOBODY)[0] is Outcome.WRONG_ANSWER
    over_grpc = toy_cell(protocol="grpc")
    # field 1 of PredictionResponse, length-delimited
    body = b'{"code": 503, "message": "no"}'
    refused = Reply(Outcome.OK, 0.001, b"\x0a" + bytes([len(body)]) + body)
    assert load.questions(over_grpc).verdict(over_grpc, 0, refused, NOBODY) == (Outcome.SHED, "503: no")


def test_an_answer_from_elsewhere_is_wrong(load: Load) -> None:
    """A pinned endpoint, or a pinned stack in a default row, must be the one that answers."""
    matched = toy_cell(path="gateway")
    default = replace(matched, endpoint=None, upstream="default")
    for cell, origin, outcome in (
        (matched, ServedBy("ts", "torchserve", "s"), Outcome.OK),
        (matched, ServedBy("tf", "tfserving", "s"), Outcome.WRONG_ANSWER),
        (default, ServedBy("ts-grpc", "torchserve", "s"), Outcome.OK),
        (default, ServedBy("tf", "tfserving", "s"), Outcome.WRONG_ANSWER),
    ):
        assert load.questions(cell).verdict(cell, 0, _reply(load, cell, 0), origin)[0] is outcome
