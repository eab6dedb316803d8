"""The judge of replies, and what is prepared once for all users."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests.load import Load
from loadtests.questions import Questions, astray, questions_of
from loadtests.replies import Outcome, Reply, ServedBy
from tests.unit.loadtests.builders import toy_target, write_toy


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """The toy's golden data."""
    return write_toy(tmp_path)


def _judge(artifacts: Path, **target: str) -> Questions:
    judge, _ = questions_of(toy_target(**target), 2, artifacts)
    assert judge is not None
    return judge


def _right(questions: Questions, question: int) -> Reply:
    rows = questions.golden.outputs["y"][2 * question : 2 * question + 2]
    return Reply(Outcome.OK, 0.001, json.dumps({"outputs": {"y": rows.astype(float).tolist()}}).encode())


def test_requests_are_encoded_once_for_all_users_by_hand(artifacts: Path) -> None:
    """All users of a target share the same bytes."""
    load = Load(artifacts, rows_each=2, timeout_s=1.0)
    assert load.questions(toy_target()) is load.questions(toy_target())
    assert len(load.questions(toy_target()).bodies) == 32
    assert [load.next_user(), load.next_user()] == [0, 1]


def test_a_right_answer_counts_again_by_its_bytes_only_for_its_own_question(artifacts: Path) -> None:
    """Remembering a right reply must never make it right for another question."""
    questions = _judge(artifacts)
    right = _right(questions, 3)
    for _ in range(2):
        assert questions.judged(3, right) == (Outcome.OK, "")
    assert questions.judged(4, right)[0] is Outcome.WRONG_ANSWER


def test_failures_keep_their_own_outcome(artifacts: Path) -> None:
    """A timeout is not judged as an answer."""
    reply = Reply(Outcome.TIMEOUT, 1.0, detail="no reply in 1 s")
    assert _judge(artifacts).judged(0, reply) == (Outcome.TIMEOUT, "no reply in 1 s")


def test_unreadable_replies_are_wrong_answers_and_inner_errors_keep_their_class(artifacts: Path) -> None:
    """Garbage with status 200 is a wrong answer; TorchServe's error body over gRPC counts by its own code."""
    garbage = Reply(Outcome.OK, 0.001, b"garbage")
    assert _judge(artifacts).judged(0, garbage)[0] is Outcome.WRONG_ANSWER
    # field 1 of PredictionResponse, length-delimited
    body = b'{"code": 503, "message": "no"}'
    refused = Reply(Outcome.OK, 0.001, b"\x0a" + bytes([len(body)]) + body)
    assert _judge(artifacts, protocol="torchserve-grpc").judged(0, refused) == (Outcome.SHED, "503: no")


def test_an_answer_from_elsewhere_is_told() -> None:
    """A pinned endpoint, or a pinned stack, must be the one that answers."""
    by_endpoint, by_stack = toy_target(pins={"x-endpoint": "ts"}), toy_target(pins={"x-stack": "torchserve"})
    other = ServedBy("tf", "tfserving", "s")
    assert astray(by_endpoint, ServedBy("ts", "torchserve", "s")) == astray(by_stack, ServedBy("ts-grpc", "torchserve"))
    assert astray(by_endpoint, other) == "answered by 'tf'; 'ts' was asked for"
    assert astray(by_stack, other) == "answered by 'tfserving'; 'torchserve' was asked for"
    assert not astray(toy_target(), other)
