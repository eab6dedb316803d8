"""How requests become batches: sizes, times, capacity, and the parts of large ones. A clock of numbers, no threads."""

from __future__ import annotations

import numpy as np
import pytest

from serving.tfserving.savedmodel_server.batch_queue import BatchingOptions, BatchQueue, Task
from serving.tfserving.savedmodel_server.errors import ServingError


def options(**changes: object) -> BatchingOptions:
    """Batches of up to four rows, after a second."""
    return BatchingOptions(**{"max_batch_size": 4, "max_execution_size": 4, "timeout_s": 1, **changes})  # type: ignore[arg-type]


def task(rows: int) -> Task:
    """A request whose rows are numbered."""
    return Task(rows, {"x": np.arange(rows)})


def sizes(batch: list[Task] | None) -> list[int] | None:
    """The rows of a batch's tasks."""
    return None if batch is None else [entry.rows for entry in batch]


def test_a_batch_waits_for_more_until_its_time_is_over() -> None:
    """The time counts from its first request."""
    queue = BatchQueue(options())
    assert queue.due() is None
    queue.put(task(1), 10.0)
    queue.put(task(2), 10.9)
    assert queue.take(10.99) is None
    assert queue.due() == 11.0
    assert sizes(queue.take(11.0)) == [1, 2]
    assert queue.due() is None


def test_a_full_batch_goes_at_once() -> None:
    """So does one that the next request does not fit into."""
    queue = BatchQueue(options())
    queue.put(task(4), 10.0)
    assert sizes(queue.take(10.0)) == [4]
    queue.put(task(3), 20.0)
    queue.put(task(2), 20.5)
    assert sizes(queue.take(20.5)) == [3]
    assert queue.take(20.5) is None
    assert queue.due() == 21.5


def test_without_a_timeout_nobody_waits() -> None:
    """A thread that is free takes whatever there is."""
    queue = BatchQueue(options(timeout_s=0))
    queue.put(task(1), 10.0)
    assert sizes(queue.take(10.0)) == [1]


def test_a_request_of_no_rows_is_one_all_the_same() -> None:
    """It goes when its time is over."""
    queue = BatchQueue(options())
    queue.put(task(0), 10.0)
    assert sizes(queue.take(11.0)) == [0]


def test_a_request_that_is_too_large_is_refused() -> None:
    """In TensorFlow's words."""
    with pytest.raises(ServingError) as caught:
        BatchQueue(options()).put(task(5), 0)
    assert str(caught.value) == "INVALID_ARGUMENT: Task size 5 is larger than maximum input batch size 4"


def test_a_full_queue_refuses() -> None:
    """The open batch counts; taking one makes room again."""
    queue = BatchQueue(options(max_enqueued_batches=2))
    queue.put(task(4), 0)
    queue.put(task(3), 0)
    queue.put(task(1), 0)
    with pytest.raises(ServingError) as caught:
        queue.put(task(1), 0)
    assert str(caught.value) == (
        "UNAVAILABLE: The batch scheduling queue to which this task was submitted is full; currently 2 batches "
        "enqueued and max_enqueued_batches is 2"
    )
    assert sizes(queue.take(0)) == [4]
    queue.put(task(1), 0)
    assert [sizes(queue.take(9)) for _ in range(2)] == [[3, 1], [1]]


def test_a_large_request_is_cut_where_batches_are_smaller() -> None:
    """It fills the open batch first, and its rows keep their order."""
    queue = BatchQueue(options(max_batch_size=10, splitting=True))
    queue.put(task(3), 0)
    parts = queue.put(task(7), 0)
    assert [part.arrays["x"].tolist() for part in parts] == [[0], [1, 2, 3, 4], [5, 6]]
    assert [sizes(queue.take(9)) for _ in range(3)] == [[3, 1], [4], [2]]
    parts = queue.put(task(8), 0)
    assert [part.arrays["x"].tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_queue_that_cuts_counts_rows() -> None:
    """All of a large request must find room."""
    queue = BatchQueue(options(max_batch_size=10, splitting=True, max_enqueued_batches=2))
    queue.put(task(3), 0)
    with pytest.raises(ServingError) as caught:
        queue.put(task(6), 0)
    assert str(caught.value) == (
        "UNAVAILABLE: The batch scheduling queue to which this task was submitted is full; task size is 6 but "
        "scheduling capacity is only 5 (num_enqueued_batches=1, max_enqueued_batches=2, open_batch_size=3, "
        "max_execution_batch_size=4)"
    )
    queue.put(task(5), 0)


def test_a_batch_is_padded_to_the_next_allowed_size() -> None:
    """Any size is allowed where none is listed."""
    padded = options(allowed_sizes=(2, 4))
    assert [padded.padded_size(rows) for rows in (1, 2, 3, 4)] == [2, 2, 4, 4]
    assert options().padded_size(3) == 3
