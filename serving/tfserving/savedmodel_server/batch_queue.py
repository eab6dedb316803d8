"""The queue of one signature's requests, put together into batches: shared_batch_scheduler.h without its threads.

It decides only: who calls it holds the lock and tells the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from grpc import StatusCode

from serving.tfserving.savedmodel_server.errors import ServingError, invalid
from serving.tfserving.savedmodel_server.tensors import NDArray

_FULL = "The batch scheduling queue to which this task was submitted is full; "


@dataclass(frozen=True, slots=True)
class BatchingOptions:
    """How requests are put together; the defaults are shared_batch_scheduler.h's, for one processor.

    `max_batch_size`: the most rows of one request; `max_execution_size`: of one batch, the same unless `splitting`,
    with which a larger request is cut into several batches. `timeout_s`: how long the first request of a batch waits
    for more. `allowed_sizes`: sizes that a batch is padded up to, increasing; empty allows any. `pad_inputs`: requests
    of different shapes are padded to the largest, rather than refused.
    """

    max_batch_size: int = 1000
    timeout_s: float = 0
    max_enqueued_batches: int = 10
    threads: int = 1
    thread_pool_name: str = "batch_threads"
    allowed_sizes: tuple[int, ...] = ()
    pad_inputs: bool = False
    splitting: bool = False
    max_execution_size: int = 1000

    def padded_size(self, rows: int) -> int:
        """The rows that a batch of so many is padded to: the smallest allowed size that holds them."""
        return next((size for size in self.allowed_sizes if size >= rows), rows)


@dataclass(eq=False, slots=True)
class Task:
    """A request that waits, or a part of one: `rows` of every array; `answer` gets its outputs or its error.

    `deadline` is a time.monotonic(), None for no limit; so is `since`, when the queue took it in.
    """

    rows: int
    arrays: Mapping[str, NDArray]
    deadline: float | None = None
    answer: Future[dict[str, NDArray]] = field(default_factory=Future)
    since: float = 0.0

    def parts(self, first: int, most: int) -> list[Task]:
        """This request as several, of `first` rows (none of 0) and then of at most `most`."""
        starts = [0, *range(first, self.rows, most)] if first else list(range(0, self.rows, most))
        ends = [*starts[1:], self.rows]
        return [
            Task(end - start, {alias: array[start:end] for alias, array in self.arrays.items()}, self.deadline)
            for start, end in zip(starts, ends, strict=True)
        ]


class BatchQueue:
    """Closed batches, and one open batch that still takes requests."""

    def __init__(self, options: BatchingOptions) -> None:
        self._options = options
        self._closed: deque[list[Task]] = deque()
        self._open: list[Task] = []
        self._open_rows = 0
        self._open_since = 0.0

    def put(self, task: Task, now: float) -> list[Task]:
        """Takes a request in, whole or in parts, and returns what it became.

        Raises INVALID_ARGUMENT for more rows than `max_batch_size`, and UNAVAILABLE where the queue is full.
        """
        self._check_capacity(task.rows)
        most = self._options.max_execution_size
        room = most - self._open_rows
        fits = task.rows <= room or not self._options.splitting
        parts = [task] if fits else task.parts(room, most)
        for part in parts:
            if self._open_rows + part.rows > most:
                self._close_open()
            if not self._open:
                self._open_since = now
            part.since = now
            self._open.append(part)
            self._open_rows += part.rows
        return parts

    def due(self) -> float | None:
        """When the next batch may be taken, in the past where it may be now; None where nothing waits."""
        if self._closed:
            return float("-inf")
        if not self._open:
            return None
        if self._open_rows >= self._options.max_execution_size:
            return float("-inf")
        return self._open_since + self._options.timeout_s

    def take(self, now: float) -> list[Task] | None:
        """The next batch, which is then no longer in the queue; None where none may be taken yet."""
        due = self.due()
        if due is None or due > now:
            return None
        if not self._closed:
            self._close_open()
        return self._closed.popleft()

    def _close_open(self) -> None:
        # An empty batch is closed only where one request fills a batch by itself, which the next one takes.
        if self._open:
            self._closed.append(self._open)
        self._open, self._open_rows = [], 0

    def _check_capacity(self, rows: int) -> None:
        options = self._options
        if rows > options.max_batch_size:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {options.max_batch_size}")
        enqueued = len(self._closed) + 1
        if options.splitting:
            capacity = (options.max_enqueued_batches - enqueued + 1) * options.max_execution_size - self._open_rows
            if rows > capacity:
                raise ServingError(
                    StatusCode.UNAVAILABLE,
                    f"{_FULL}task size is {rows} but scheduling capacity is only {capacity} "
                    f"(num_enqueued_batches={enqueued}, max_enqueued_batches={options.max_enqueued_batches}, "
                    f"open_batch_size={self._open_rows}, max_execution_batch_size={options.max_execution_size})",
                )
        elif self._open_rows + rows > options.max_batch_size and enqueued >= options.max_enqueued_batches:
            raise ServingError(
                StatusCode.UNAVAILABLE,
                f"{_FULL}currently {enqueued} batches enqueued and max_enqueued_batches is "
                f"{options.max_enqueued_batches}",
            )
