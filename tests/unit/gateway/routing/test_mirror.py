"""Copies of live traffic, and what they tell."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from gateway.core.digest import digest
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.core.observer import NullObserver
from gateway.routing.endpoint import Target
from gateway.routing.mirror import MOST, WORST, Mirror
from tests.builders import FakeClock, contract, doubled, request, tensor


@dataclass
class Counts(NullObserver):
    finished: list[tuple[str, float | None]] = field(default_factory=list)

    def mirror_finished(
        self, *, model: str, endpoint: str, outcome: str, seconds: float | None, difference: float | None
    ) -> None:
        self.finished.append((outcome, difference))


class Bench:
    """A primary that doubles, and a mirror that answers as it is told."""

    def __init__(self, version: int | None = None, **settings: Any) -> None:
        self.copies: list[InferenceRequest] = []
        self.hold: asyncio.Event | None = None
        self.factor = 2.0
        self.error: Exception | None = None
        self.idle = True
        self.counts = Counts()
        self.mirror = Mirror(
            contract(),
            Target("m", "doubler", version),
            self.answer,  # type: ignore[arg-type]
            **{
                "share": 1.0,
                "idle": lambda: self.idle,
                "clock": FakeClock(),
                "observer": self.counts,
                "random": Random(7),
                **settings,
            },
        )

    async def answer(self, asked: InferenceRequest, _: object) -> InferenceResponse:
        self.copies.append(asked)
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return InferenceResponse("doubler", 1, (tensor("y", asked.inputs[0].array * self.factor),))

    async def offer(self, value: float = 1.0, **asked: Any) -> None:
        answered = request([[value, 0.0]], **asked)
        self.mirror.offer(answered, doubled(answered), "predict")
        await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_equal_answer_is_counted() -> None:
    """With no difference, and nothing is kept of it."""
    bench = Bench()
    await bench.offer()
    assert bench.counts.finished == [("ok", 0.0)]
    assert bench.mirror.report().worst == []


async def test_a_copy_under_way_ends_with_the_mirror() -> None:
    """Closing leaves nothing behind."""
    bench = Bench()
    bench.hold = asyncio.Event()
    await bench.offer()
    assert (len(bench.copies), bench.counts.finished) == (1, [])
    await bench.mirror.close()
    assert bench.counts.finished == []


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(GatewayError(Cause.UPSTREAM_LOST, ""), "upstream_lost"), (KeyError("bug"), "internal")],
    ids=["failure", "bug"],
)
async def test_a_mirrors_failure_is_its_own(error: Exception, outcome: str) -> None:
    """Counted by its cause, and told to nobody else."""
    bench = Bench()
    bench.error = error
    await bench.offer()
    assert bench.counts.finished == [(outcome, None)]


async def test_only_idle_slots_are_used_and_only_so_many_at_once() -> None:
    """What does not fit is counted as skipped."""
    bench = Bench()
    bench.idle = False
    await bench.offer()
    bench.idle = True
    bench.hold = asyncio.Event()
    for _ in range(MOST + 2):
        await bench.offer()
    assert len(bench.copies) == MOST
    assert bench.counts.finished == [("skipped", None)] * 3
    bench.hold.set()
    await settled()
    assert len(bench.counts.finished) == MOST + 3


async def test_a_share_is_a_share() -> None:
    """A twentieth of the traffic, by chance."""
    bench = Bench(share=0.05)
    for _ in range(2000):
        await bench.offer()
    assert 60 <= len(bench.copies) <= 140


async def test_what_the_mirror_itself_answered_is_not_copied() -> None:
    """It would be compared with itself."""
    bench = Bench()
    bench.mirror.offer(request(), doubled(request()), "predict", Target("m", "doubler"))
    assert bench.counts.finished == [("same_endpoint", None)]


# The version that the client named, that of the target that answered, that of its answer, and the mirror's.
SAME = [(None, None, 1, 1), (None, 1, 1, 1), (1, None, 1, None), (1, 1, 1, 1)]
OTHER = [(None, 1, 1, 2), (None, None, 1, 2), (1, 1, 1, 2), (None, 1, 1, None)]


@pytest.mark.parametrize(
    ("wanted", "target", "answered", "mirrors", "copied"),
    [*((*case, False) for case in SAME), *((*case, True) for case in OTHER)],
)
async def test_another_version_at_the_same_endpoint_is_copied(
    wanted: int | None, target: int | None, answered: int, mirrors: int | None, copied: bool
) -> None:
    """A canary stands beside what it is to replace; only what itself has answered is not asked again."""
    bench = Bench(mirrors)
    asked = request(version=wanted)
    answer = replace(doubled(asked), version=answered)
    bench.mirror.offer(asked, answer, "predict", Target("m", "doubler", target))
    await settled()
    assert bool(bench.copies) is copied


async def test_another_model_at_the_same_endpoint_is_copied() -> None:
    """As a canary under a name of its own."""
    bench = Bench()
    bench.mirror.offer(request(), doubled(request()), "predict", Target("m", "doubler_before"))
    await settled()
    assert bench.counts.finished == [("ok", 0.0)]


async def test_the_worst_differences_are_kept_without_their_payloads() -> None:
    """The largest few, largest first, each by its request's digest."""
    bench = Bench()
    bench.factor = 2.5
    for value in range(1, WORST + 4):
        await bench.offer(float(value))
    worst = bench.mirror.report().worst
    scaled = [mismatch.difference.max_scaled for mismatch in worst]
    assert len(worst) == WORST
    assert scaled == sorted(scaled, reverse=True)
    assert worst[0].digest == digest(request([[WORST + 3.0, 0.0]])).hex()
    assert {mismatch.request for mismatch in worst} == {None}
    assert bench.mirror.report().outcomes == {"mismatch": WORST + 3}


async def test_payloads_are_kept_where_the_operator_asks_for_them() -> None:
    """Request and both answers."""
    bench = Bench(keep_payloads=True)
    bench.factor = 3.0
    await bench.offer()
    (mismatch,) = bench.mirror.report().worst
    assert mismatch.request is not None
    assert mismatch.mirrored is not None
    assert mismatch.mirrored.outputs[0].array.tolist() == [[3.0, 0.0]]


async def test_the_mirrors_own_version_is_asked() -> None:
    """Whatever version the client chose for its answer; no selection goes along."""
    bench = Bench(version=2)
    await bench.offer(version=1)
    assert bench.copies[0].model.version == 2
