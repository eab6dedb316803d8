"""What is asked, over which connection, and what counts as an answer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.cell_spec import Load, Target
from loadtests.engine.asking import Asked, Clients, asked, timings_of
from loadtests.errors import LoadTestError
from loadtests.questions import questions_of
from loadtests.replies import Outcome, Reply, ServedBy
from tests.unit.loadtests.builders import write_toy
from tests.unit.loadtests.engine.builders import cell

TARGET = Target("toy", "predict", "127.0.0.1:1", "toy", pins={"x-endpoint": "tf"})


class FakeClient:
    """Counts what is sent over it; `fails` is raised instead of a reply."""

    def __init__(self) -> None:
        self.opened = 1
        self.sent: list[bytes] = []
        self.closed = False
        self.fails: BaseException | None = None

    def prepared(self, body: bytes) -> bytes:
        return b"head " + body

    def send(self, request: bytes) -> Reply:
        self.sent.append(request)
        if self.fails:
            raise self.fails
        return Reply(Outcome.OK, 0.001)

    def close(self) -> None:
        self.closed = True


def _clients(shared: int | None) -> tuple[Clients, list[FakeClient]]:
    made: list[FakeClient] = []

    def make() -> FakeClient:
        made.append(FakeClient())
        return made[-1]

    return Clients(make, shared), made


def test_the_connection_used_last_is_used_next() -> None:
    """One after the other needs one connection."""
    clients, made = _clients(None)
    for number in range(3):
        clients.send(bytes([number]))
    assert (len(made), clients.opened) == (1, 1)


def test_shared_channels_take_turns() -> None:
    """All of them exist from the start."""
    clients, made = _clients(2)
    for number in range(4):
        clients.send(bytes([number]))
    assert [client.sent for client in made] == [[b"\x00", b"\x02"], [b"\x01", b"\x03"]]


@pytest.mark.parametrize(("shared", "closed"), [(None, True), (1, False)])
def test_a_connection_in_the_middle_of_a_reply_is_not_used_again(shared: int | None, closed: bool) -> None:
    """One of its own is closed; a channel that others share is not."""
    clients, made = _clients(shared)
    clients.send(b"")
    made[0].fails = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        clients.send(b"")
    assert made[0].closed is closed


def test_requests_are_made_beforehand_one_for_each_question(tmp_path: Path) -> None:
    """The golden rows, as many in each as the load says."""
    found = asked(TARGET, replace(cell().load, rows=16), write_toy(tmp_path))
    assert len(found.requests) == 4
    assert found.requests[0].startswith(b"POST /predict HTTP/1.1\r\n")
    assert b"x-endpoint: tf\r\n" in found.requests[0]


def _asked(artifacts: Path, **changes: object) -> Asked:
    return asked(replace(TARGET, **changes), cell().load, artifacts)  # type: ignore[arg-type]


def _answer(artifacts: Path, question: int) -> bytes:
    questions, _ = questions_of(TARGET, 1, artifacts)
    assert questions is not None
    y = questions.golden.outputs["y"][question : question + 1]
    return json.dumps({"outputs": {"y": y.astype(float).tolist()}}).encode()


def test_an_answer_is_compared_and_its_origin_read(tmp_path: Path) -> None:
    """A right one of another question is wrong, and so is one from another endpoint than the pinned one."""
    found = _asked(write_toy(tmp_path))
    mark = 'endpoint=tf; stack=tfserving; server="savedmodel-server 1.0 (stand-in)"; version=1'
    reply = Reply(Outcome.OK, 0.001, _answer(tmp_path, 3), marks={"x-served-by": mark})
    origin = ServedBy("tf", "tfserving", "savedmodel-server 1.0 (stand-in)")
    assert found.judged(3, reply) == (Outcome.OK, "", origin)
    assert found.judged(4, reply)[0] is Outcome.WRONG_ANSWER
    elsewhere = replace(reply, marks={"x-served-by": mark.replace("endpoint=tf", "endpoint=ts")})
    assert found.judged(3, elsewhere)[:2] == (Outcome.WRONG_ANSWER, "answered by 'ts'; 'tf' was asked for")


def test_without_parity_the_status_decides(tmp_path: Path) -> None:
    """A server that cannot answer golden inputs is asked something all the same."""
    found = _asked(tmp_path, parity=False, model="unknown")
    assert len(found.requests) == 1
    assert found.judged(0, Reply(Outcome.OK, 0.001, b"anything"))[0] is Outcome.OK
    assert found.judged(0, Reply(Outcome.SHED, 0.001, detail="HTTP 503"))[:2] == (Outcome.SHED, "HTTP 503")


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    """No golden data with parity on, more rows than there are, a protocol that is none."""
    write_toy(tmp_path)
    for target, rows in ((replace(TARGET, model="unknown"), 1), (TARGET, 65), (replace(TARGET, protocol="soap"), 1)):  # type: ignore[arg-type]
        with pytest.raises(LoadTestError):
            questions_of(target, rows, tmp_path)


def test_server_timing_gives_milliseconds() -> None:
    """In any order; what is missing or none is not a number."""
    assert timings_of("total;dur=4.5, decode;dur=0.1, queue; dur=0.25, upstream;dur=3, encode;dur=0.2") == (
        0.1, 0.25, 3.0, 0.2, 4.5,
    )  # fmt: skip
    partial = timings_of("upstream;dur=3")
    assert partial[2] == 3.0
    assert all(math.isnan(partial[index]) for index in (0, 1, 3, 4))
    for header in (None, "", "miss", "total;dur=1.2.3"):
        assert all(math.isnan(value) for value in timings_of(header))


def test_grpc_channels_are_as_many_as_the_load_says() -> None:
    """A closed loop's clients each have their own instead."""
    target = replace(TARGET, protocol="oip-grpc", parity=False)
    load: Load = replace(cell().load, channels=3)
    assert len(asked(target, load, Path("nowhere")).clients._all) == 3
    # One was made to prepare the request; it is the first client's.
    assert len(asked(target, replace(load, arrivals="closed"), Path("nowhere")).clients._all) == 1
