"""One model on three real servers behind one gateway: the same answers for the whole golden set."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest

from tests.integration.clients.world import ENDPOINTS, World
from twinserve.client import Answer, Question, predict_grpc, predict_rest

pytestmark = pytest.mark.clients

Array = npt.NDArray[np.float64]


def through_rest(world: World, question: Question) -> Answer:
    """/predict."""
    return predict_rest(f"http://{world.gateways['every'].rest}", question)


def through_grpc(world: World, question: Question) -> Answer:
    """ModelInfer."""
    return predict_grpc(world.gateways["every"].grpc, question)


def whole_set(world: World, endpoint: str, ask: Callable[[World, Question], Answer]) -> Array:
    """The answers for all golden rows, asked in requests as large as the contract allows."""
    (name, rows), output = next(iter(world.golden.inputs.items())), world.golden.contract.outputs[0].name
    answers = [
        ask(world, Question(world.golden.contract.name, {name: rows[first : first + world.rows]}, endpoint=endpoint))
        for first in range(0, world.golden.rows, world.rows)
    ]
    assert {answer.served_by.partition("stack=")[2].partition(";")[0] for answer in answers} == {ENDPOINTS[endpoint]}
    return np.concatenate([np.asarray(answer.outputs[output], np.float64) for answer in answers])


@pytest.mark.parametrize("ask", [through_rest, through_grpc])
def test_three_servers_agree_on_the_whole_golden_set(world: World, ask: Callable[[World, Question], Answer]) -> None:
    """TorchServe, TensorFlow Serving's protocol and MLServer, each over both transports, pairwise and with the golden.

    Every element is within the contract's tolerance, and every row has the same class.
    """
    output = world.golden.contract.outputs[0].name
    limit = world.golden.contract.tolerance
    found = {endpoint: whole_set(world, endpoint, ask) for endpoint in ENDPOINTS}
    found["golden"] = np.asarray(world.golden.outputs[output], np.float64)
    for (one, a), (other, b) in combinations(found.items(), 2):
        assert a.shape == b.shape == (world.golden.rows, 10)
        assert (np.abs(a - b) <= limit.atol + limit.rtol * np.abs(b)).all(), (one, other, np.abs(a - b).max())
        assert (a.argmax(axis=1) == b.argmax(axis=1)).all(), (one, other)
