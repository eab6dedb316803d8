"""Turns between callers, company within a key."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from gateway.batching.fair_queue import BatchLimits, FairQueue

LIMITS = BatchLimits(4, 1000)


@dataclass(eq=False)
class Waiting:
    name: str
    caller: str = "a"
    key: str = "k"
    rows: int = 1
    nbytes: int = 10
    limits: BatchLimits | None = LIMITS


def queue_of(*entries: Waiting) -> FairQueue[Waiting]:
    queue: FairQueue[Waiting] = FairQueue()
    for entry in entries:
        queue.push(entry)
    return queue


def batches(queue: FairQueue[Waiting]) -> list[list[str]]:
    taken = []
    while queue:
        taken.append([entry.name for entry in queue.take()])
    return taken


def test_an_empty_queue_gives_nothing() -> None:
    """No batch, no caller, no entry to give up."""
    queue = queue_of()
    assert (queue.take(), len(queue), queue.giving_way("a")) == ([], 0, None)


def test_what_shares_a_key_travels_together_in_order() -> None:
    """Up to the rows of a batch."""
    queue = queue_of(*(Waiting(str(number)) for number in range(6)))
    assert batches(queue) == [["0", "1", "2", "3"], ["4", "5"]]


def test_rows_and_bytes_bound_a_batch() -> None:
    """Whichever is reached first; a request larger than a batch goes alone."""
    queue = queue_of(Waiting("big", rows=9), Waiting("x", rows=3), Waiting("y", rows=2), Waiting("z", nbytes=995))
    assert batches(queue) == [["big"], ["x"], ["y"], ["z"]]


def test_other_keys_and_loners_do_not_mix() -> None:
    """A key of its own, or no limits, is no company."""
    queue = queue_of(Waiting("1"), Waiting("other", key="o"), Waiting("alone", key="l", limits=None), Waiting("2"))
    assert batches(queue) == [["1", "2"], ["other"], ["alone"]]


def test_a_batch_is_filled_from_all_callers_in_turn() -> None:
    """One caller's flood leaves room for the others' single requests."""
    flood = [Waiting(f"a{number}") for number in range(8)]
    queue = queue_of(*flood, Waiting("b0", caller="b"), Waiting("c0", caller="c"))
    assert batches(queue)[0] == ["a0", "b0", "c0", "a1"]


def test_callers_take_turns_between_keys() -> None:
    """A caller of many kinds of requests does not keep a caller of another kind waiting for all of them."""
    mine = [Waiting(f"a{number}", key=f"k{number}") for number in range(5)]
    queue = queue_of(*mine, Waiting("b", caller="b", key="kb"))
    assert batches(queue)[1] == ["b"]


def test_whoever_leaves_gives_up_the_place_once() -> None:
    """And is in no batch."""
    first, second = Waiting("1"), Waiting("2")
    queue = queue_of(first, second)
    assert queue.discard(first)
    assert not queue.discard(first)
    assert (len(queue), queue.count_of("a")) == (1, 1)
    assert batches(queue) == [["2"]]
    assert not queue.discard(second)


def test_the_longest_caller_gives_up_a_place() -> None:
    """The last of its entries, to a caller who would still have fewer; never one place for another."""
    queue = queue_of(Waiting("a0"), Waiting("b0", caller="b"), Waiting("b1", caller="b"))
    chosen = queue.giving_way("c")
    assert chosen is not None
    assert chosen.name == "b1"
    assert queue.giving_way("a") is None
    assert queue.giving_way("b") is None


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from("kl"), st.integers(0, 5), st.booleans(), st.integers(0, 3)),
        max_size=60,
    )
)
def test_every_entry_comes_out_exactly_once(steps: list[tuple[str, str, int, bool, int]]) -> None:
    """Whatever is pushed, taken and discarded in between: nothing is lost, doubled or left behind."""
    queue: FairQueue[Waiting] = FairQueue()
    inside: dict[int, Waiting] = {}
    for number, (caller, key, rows, leaves, takes) in enumerate(steps):
        entry = Waiting(str(number), caller, key, rows)
        queue.push(entry)
        inside[id(entry)] = entry
        if leaves:
            gone = next(iter(inside.values()))
            assert queue.discard(inside.pop(id(gone)))
        for _ in range(takes == 3):
            batch = queue.take()
            assert bool(batch) is bool(inside)
            assert len({item.key for item in batch}) <= 1
            assert len(batch) <= 1 or sum(item.rows for item in batch) <= 4
            for item in batch:
                del inside[id(item)]
        assert len(queue) == len(inside)
        assert {id(item) for item in queue} == set(inside)
    while queue:
        for item in queue.take():
            del inside[id(item)]
    assert not inside
    assert queue.giving_way("a") is None
