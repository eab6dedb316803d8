"""Requests executed together: what is merged, padded, cut apart again, and refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving.tfserving.savedmodel_server.batch_queue import BatchingOptions, Task
from serving.tfserving.savedmodel_server.batching import BatchedSignature, BatchScheduler
from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.executor import SavedModel
from serving.tfserving.savedmodel_server.tensors import NDArray

SIGNATURE = meta_graph_pb2.SignatureDef()
for _alias in ("a", "b"):
    SIGNATURE.inputs[_alias].CopyFrom(meta_graph_pb2.TensorInfo(name=f"{_alias}:0", dtype=types_pb2.DT_FLOAT))
for _alias in ("sum", "first"):
    SIGNATURE.outputs[_alias].CopyFrom(meta_graph_pb2.TensorInfo(name=f"{_alias}:0", dtype=types_pb2.DT_FLOAT))


class FakeExecute:
    """Adds both inputs; remembers the rows and the deadline of each call. `spoil` may change its outputs."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, float | None]] = []
        self.inputs: list[dict[str, NDArray]] = []
        self.spoil: dict[str, NDArray] = {}

    def __call__(
        self, arrays: Mapping[str, NDArray], wanted: Sequence[str], deadline: float | None
    ) -> dict[str, NDArray]:
        """The outputs asked for."""
        self.calls.append((len(arrays["a"]), deadline))
        self.inputs.append(dict(arrays))
        outputs = {"sum": arrays["a"] + arrays["b"], "first": arrays["a"]} | self.spoil
        return {alias: outputs[alias] for alias in wanted}


def batched(**changes: object) -> tuple[BatchedSignature, FakeExecute]:
    """A signature whose batches a test processes by itself: its scheduler has no threads."""
    execute = FakeExecute()
    options = BatchingOptions(**{"threads": 0, **changes})  # type: ignore[arg-type]
    return BatchedSignature(SIGNATURE, execute, BatchScheduler(options)), execute


def task(*values: float, deadline: float | None = None, shape: tuple[int, ...] | None = None) -> Task:
    """A request for a + 1."""
    a = np.array(values, np.float32).reshape(shape or (len(values), 1))
    return Task(len(a), {"a": a, "b": np.ones_like(a)}, deadline)


def sums(*tasks: Task) -> list[list[float]]:
    """The answers, flat."""
    return [entry.answer.result(0)["sum"].reshape(-1).tolist() for entry in tasks]


def test_a_batch_is_one_execution_and_everybody_gets_their_own_rows() -> None:
    """In the order of the requests."""
    signature, execute = batched()
    tasks = [task(1), task(2, 3), task(), task(4)]
    signature.process(tasks)
    assert [rows for rows, _ in execute.calls] == [4]
    assert sums(*tasks) == [[2], [3, 4], [], [5]]


def test_a_batch_is_padded_with_the_first_row_of_the_last_request() -> None:
    """What is computed for it is thrown away."""
    signature, execute = batched(allowed_sizes=(1, 4, 8))
    tasks = [task(1), task(7, 8)]
    signature.process(tasks)
    assert execute.inputs[0]["a"].reshape(-1).tolist() == [1, 7, 8, 7]
    assert sums(*tasks) == [[2], [8, 9]]


def test_shapes_must_agree_or_are_padded() -> None:
    """With each request's own first value, after every dimension but the first."""
    narrow, wide = task(1, 2, shape=(2, 1)), task(3, 4, 5, 6, 7, 8, shape=(2, 3))
    signature, _ = batched()
    signature.process([narrow, wide])
    with pytest.raises(
        ServingError, match="FAILED_PRECONDITION: Tensors with name 'a:0' from different tasks have dif"
    ):
        narrow.answer.result(0)
    signature, execute = batched(pad_inputs=True)
    signature.process([task(1, 2, shape=(2, 1)), task(3, 4, 5, 6, 7, 8, shape=(2, 3))])
    assert execute.inputs[0]["a"].tolist() == [[1, 1, 1], [2, 1, 1], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (task(shape=(2, 0)), task(1, shape=(1, 1)), "Got empty tensor in batch of non-empty tensors."),
        (task(1, shape=(1,) * 7), task(1, 2, shape=(1,) * 6 + (2,)), "Only tensors with rank from 1 to 6 can be pad"),
        (task(1, shape=(1,)), task(1, shape=(1, 1)), "differ in rank"),
    ],
)
def test_what_cannot_be_padded_is_refused(one: Task, other: Task, text: str) -> None:
    """The error is the whole batch's."""
    signature, _ = batched(pad_inputs=True)
    signature.process([one, other])
    for entry in (one, other):
        with pytest.raises(ServingError, match=text):
            entry.answer.result(0)


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (np.float32(1), "Batched output tensor has 0 dimensions"),
        (np.ones(3, np.float32), "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension"),
    ],
)
def test_outputs_must_have_the_batchs_rows(output: NDArray, text: str) -> None:
    """Otherwise nobody could tell whose they are."""
    signature, execute = batched()
    execute.spoil = {"first": np.asarray(output)}
    refused = task(1, 2)
    signature.process([refused])
    with pytest.raises(ServingError, match=f"FAILED_PRECONDITION: {text}"):
        refused.answer.result(0)


def test_a_batch_has_the_latest_deadline_of_its_requests() -> None:
    """None where one has none; a batch that is out of time is not executed."""
    signature, execute = batched()
    now = time.monotonic()
    signature.process([task(1, deadline=now + 50), task(1, deadline=now + 90), task(1, deadline=now - 1)])
    signature.process([task(1, deadline=now + 50), task(1)])
    assert [deadline for _, deadline in execute.calls] == [now + 90, None]
    late = task(1, deadline=now - 1)
    signature.process([late])
    with pytest.raises(
        ServingError, match="RESOURCE_EXHAUSTED: Run.. timeout exceeded while waiting in batching queue"
    ):
        late.answer.result(0)


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({}, "Batching Run() must have at least one input tensor"),
        ({"a": np.float32(1)}, "Batching Run() input tensors must have at least one dimension"),
        ({"a": np.ones(1), "b": np.ones(2)}, "Batching Run() input tensors must have equal 0th-dimension size"),
    ],
)
def test_inputs_must_have_rows(arrays: dict[str, NDArray], text: str) -> None:
    """INVALID_ARGUMENT, before anything waits."""
    signature, _ = batched()
    with pytest.raises(ServingError) as caught:
        signature({alias: np.asarray(array) for alias, array in arrays.items()}, ("sum", "first"), None)
    assert str(caught.value) == f"INVALID_ARGUMENT: {text}"


def test_a_call_for_some_of_the_outputs_is_not_batched() -> None:
    """As TensorFlow Serving batches only what matches a signature exactly; a tensor without rows passes there."""
    signature, execute = batched()
    result = signature({"a": np.ones(1), "b": np.ones(1)}, ("sum",), None)
    assert result["sum"].tolist() == [2]
    assert len(execute.calls) == 1


@contextmanager
def scheduling(model: SavedModel, **changes: object) -> Iterator[BatchedSignature]:
    """The affine model's default signature in batches, on threads."""
    scheduler = BatchScheduler(BatchingOptions(**{"threads": 2, **changes}))  # type: ignore[arg-type]
    signature = model.signature("")
    assert signature is not None
    yield BatchedSignature(model.signature_defs["serving_default"], signature.run, scheduler)
    scheduler.close()
    assert not any(thread.name.startswith("batch_threads") for thread in threading.enumerate())


def test_concurrent_requests_get_their_own_answers(affine: SavedModel) -> None:
    """Whatever batches the threads make of them; large ones come in one piece again."""
    rows = [1, 3, 17, 2, 9, 40, 1, 1]
    inputs = [np.full((count, 2), place, np.float32) for place, count in enumerate(rows)]
    changes = {"splitting": True, "max_execution_size": 8, "timeout_s": 0.002}
    with scheduling(affine, **changes) as signature, ThreadPoolExecutor(len(rows)) as pool:
        answers = list(pool.map(lambda x: signature({"x": x}, ("y",), None)["y"], inputs))
    for place, (count, answer) in enumerate(zip(rows, answers, strict=True)):
        np.testing.assert_array_equal(answer, np.full((count, 2), 2 * place + 1, np.float32))


@pytest.mark.parametrize("end", [BatchScheduler.hurry, BatchScheduler.close])
def test_in_a_hurry_nobody_waits_for_more(affine: SavedModel, end: Callable[[BatchScheduler], None]) -> None:
    """What is queued goes at once, however long it was to wait."""
    with scheduling(affine, timeout_s=3600) as signature, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(signature, {"x": np.ones((1, 2), np.float32)}, ("y",), None)
        while signature.queue.due() is None:
            time.sleep(0)
        end(signature.scheduler)
        assert waiting.result()["y"].tolist() == [[3, 3]]


def test_an_error_is_everybodys_and_the_threads_go_on(affine: SavedModel) -> None:
    """A batch that fails ends no thread."""
    with scheduling(affine) as signature:
        for _ in range(4):
            with pytest.raises(ServingError):
                signature({"x": np.ones((1, 2), np.float64)}, ("y",), None)
        assert signature({"x": np.ones((1, 2), np.float32)}, ("y",), None)["y"].tolist() == [[3, 3]]
