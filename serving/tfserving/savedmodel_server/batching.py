"""Requests put together before they are executed: batching_session.cc over threads of its own.

A request's thread waits here for its batch; the event loop never does.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np
from grpc import StatusCode
from tensorflow.core.protobuf import meta_graph_pb2

from serving.tfserving.savedmodel_server.batch_queue import BatchingOptions, BatchQueue, Task
from serving.tfserving.savedmodel_server.errors import ServingError, invalid
from serving.tfserving.savedmodel_server.executor import Execute
from serving.tfserving.savedmodel_server.metrics import Metrics
from serving.tfserving.savedmodel_server.tensors import NDArray

log = logging.getLogger(__name__)

MAX_PADDED_RANK = 6


class BatchScheduler:
    """The batch threads, which the signatures of all versions share, each with a queue of its own, in turns."""

    def __init__(self, options: BatchingOptions, metrics: Metrics | None = None) -> None:
        self.options = options
        self.metrics = metrics or Metrics()
        self._condition = threading.Condition()
        self._signatures: list[BatchedSignature] = []
        self._next = 0
        self._hurried = self._stopped = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{options.thread_pool_name}-{number}", daemon=True)
            for number in range(options.threads)
        ]
        for thread in self._threads:
            thread.start()

    def wrap(self, definition: meta_graph_pb2.SignatureDef, execute: Execute) -> Execute:
        """A signature's execution in batches."""
        return BatchedSignature(definition, execute, self)

    def submit(self, signature: BatchedSignature, task: Task) -> list[Task]:
        """Puts a request into the signature's queue; raises as the queue does."""
        with self._condition:
            if signature not in self._signatures:
                self._signatures.append(signature)
            parts = signature.queue.put(task, time.monotonic())
            self._condition.notify(len(parts))
            return parts

    def hurry(self) -> None:
        """From now on no request waits for others."""
        with self._condition:
            self._hurried = True
            self._condition.notify_all()

    def close(self, *, wait: bool = True) -> None:
        """Ends the threads after what is queued, which waits for nothing more; nothing may be submitted any more."""
        with self._condition:
            self._hurried = self._stopped = True
            self._condition.notify_all()
        if wait:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while (found := self._take()) is None:
                    if self._stopped and not self._signatures:
                        return
                    self._condition.wait(self._wait_s())
                # This thread is busy now: another one must look after what waits still.
                self._condition.notify()
            signature, batch = found
            signature.process(batch)

    def _take(self) -> tuple[BatchedSignature, list[Task]] | None:
        """A batch of the first signature in turn that has one; a signature with nothing waiting leaves the round."""
        now = math.inf if self._hurried else time.monotonic()
        for _ in range(len(self._signatures)):
            self._next %= len(self._signatures)
            signature = self._signatures[self._next]
            batch = signature.queue.take(now)
            if signature.queue.due() is None:
                del self._signatures[self._next]
            else:
                self._next += 1
            if batch is not None:
                return signature, batch
        return None

    def _wait_s(self) -> float | None:
        due = [when for signature in self._signatures if (when := signature.queue.due()) is not None]
        return max(min(due) - time.monotonic(), 0) if due else None


class BatchedSignature:
    """One signature whose requests are executed together where they want all of its outputs."""

    def __init__(self, definition: meta_graph_pb2.SignatureDef, execute: Execute, scheduler: BatchScheduler) -> None:
        self._names = {alias: info.name for alias, info in definition.inputs.items()}
        self._outputs = tuple(sorted(definition.outputs))
        self._execute = execute
        self.scheduler = scheduler
        self.queue = BatchQueue(scheduler.options)

    def __call__(
        self, arrays: Mapping[str, NDArray], wanted: Sequence[str], deadline: float | None
    ) -> dict[str, NDArray]:
        """Waits for the batch; raises as the queue and the execution do, and INVALID_ARGUMENT for what has no rows."""
        if set(wanted) != set(self._outputs):
            # A call that matches no signature exactly is not batched (BatchingSession::InternalRun).
            return self._execute(arrays, wanted, deadline)
        rows = _rows(arrays)
        for _ in arrays:
            self.scheduler.metrics.input_batch_size.record(rows)
        parts = self.scheduler.submit(self, Task(rows, arrays, deadline))
        answers = [part.answer.result() for part in parts]
        if len(answers) == 1:
            return {alias: answers[0][alias] for alias in wanted}
        return {alias: np.concatenate([answer[alias] for answer in answers]) for alias in wanted}

    def process(self, batch: Sequence[Task]) -> None:
        """Executes a batch and answers each of its tasks; an error is everybody's."""
        try:
            answers = self._answers(batch)
        except Exception as exc:
            if not isinstance(exc, ServingError):
                log.exception("a batch failed")
                exc = ServingError(StatusCode.INTERNAL, f"internal error: {type(exc).__name__}")
            for task in batch:
                # One for each: it is raised in several threads.
                task.answer.set_exception(ServingError(exc.code, exc.message))
            return
        for task, answer in zip(batch, answers, strict=True):
            task.answer.set_result(answer)

    def _answers(self, batch: Sequence[Task]) -> list[dict[str, NDArray]]:
        metrics, now = self.scheduler.metrics, time.monotonic()
        for task in batch:
            # Sessions are not told the name of the pool (bundle_factory_util.cc).
            metrics.queuing_latency.record((now - task.since) * 1e6, "")
        deadline = _latest_deadline(batch, now)
        rows = sum(task.rows for task in batch)
        size = self.scheduler.options.padded_size(rows)
        metrics.padding_size.record(size - rows, str(size))
        metrics.processed_batch_size.record(size)
        merged = {alias: self._merge(batch, alias, size - rows) for alias in batch[0].arrays}
        metrics.wrapped_run_count.add()
        outputs = self._execute(merged, self._outputs, deadline)
        for array in outputs.values():
            _check_output(array, len(next(iter(merged.values()))))
        ends = np.cumsum([task.rows for task in batch]).tolist()
        return [
            {alias: array[end - task.rows : end] for alias, array in outputs.items()}
            for task, end in zip(batch, ends, strict=True)
        ]

    def _merge(self, batch: Sequence[Task], alias: str, padding: int) -> NDArray:
        arrays = [task.arrays[alias] for task in batch]
        if self.scheduler.options.pad_inputs:
            sizes = _largest(arrays)
            arrays = [_padded(array, sizes) for array in arrays]
        elif any(array.shape[1:] != arrays[0].shape[1:] for array in arrays):
            raise ServingError(
                StatusCode.FAILED_PRECONDITION,
                f"Tensors with name '{self._names[alias]}' from different tasks have different shapes and padding is "
                "turned off. Set pad_variable_length_inputs to true, or ensure that all tensors with the same name "
                "have equal dimensions starting with the first dim.",
            )
        # The first row of the last request, which is a valid one, fills the batch up.
        filling = [arrays[-1][:1]] * padding
        return np.concatenate([*arrays, *filling]) if len(arrays) + len(filling) > 1 else arrays[0]


def _rows(arrays: Mapping[str, NDArray]) -> int:
    """The one number of rows of all inputs (ComputeTensorBatchSize of batching_util.h)."""
    if not arrays:
        raise invalid("Batching Run() must have at least one input tensor")
    if any(array.ndim == 0 for array in arrays.values()):
        raise invalid("Batching Run() input tensors must have at least one dimension")
    sizes = {len(array) for array in arrays.values()}
    if len(sizes) > 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


def _latest_deadline(batch: Sequence[Task], now: float) -> float | None:
    """The deadline of a batch: its members' latest; raises RESOURCE_EXHAUSTED where all are over already."""
    deadlines = [task.deadline for task in batch if task.deadline is not None]
    if len(deadlines) < len(batch):
        return None
    latest = max(deadlines)
    if latest <= now:
        raise ServingError(StatusCode.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue")
    return latest


def _check_output(array: NDArray, rows: int) -> None:
    if array.ndim == 0:
        raise ServingError(StatusCode.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
    if len(array) != rows:
        raise ServingError(
            StatusCode.FAILED_PRECONDITION,
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
            "tensors",
        )


def _largest(arrays: Sequence[NDArray]) -> tuple[int, ...]:
    """The largest size of each dimension after the first; raises INTERNAL where the ranks differ."""
    if len({array.ndim for array in arrays}) > 1:
        raise ServingError(
            StatusCode.INTERNAL, "Tensor concat operation failed: the tensors of one batch differ in rank"
        )
    return tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))


def _padded(array: NDArray, sizes: tuple[int, ...]) -> NDArray:
    """The array grown to these sizes after the first dimension, with its own first value (AddPadding)."""
    if array.ndim > MAX_PADDED_RANK:
        raise invalid("Only tensors with rank from 1 to 6 can be padded.")
    if array.shape[1:] == sizes:
        return array
    if not array.size:
        raise invalid("Got empty tensor in batch of non-empty tensors.")
    grown = np.full((len(array), *sizes), array.flat[0], array.dtype)
    grown[tuple(slice(size) for size in array.shape)] = array
    return grown
