"""Every client library, as its users write it, gets the right answers from a model on every stack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.clients.world import STACKS, World

pytestmark = pytest.mark.clients

# The checks of each program that answer all golden rows of one request, in one array or in several.
GOLDEN = {
    "triton_http": ("golden", "golden_json", "mixed", "concurrent", "asynchronous", "tuned"),
    "triton_grpc": ("golden", "concurrent", "asynchronous", "tuned"),
    "tensorflow_serving": ("grpc_golden", "grpc_typed", "rest_rows", "rest_columns"),
    "ovms": ("grpc_golden", "grpc_versioned", "rest_golden", "rest_versioned"),
    "kserve": ("rest_golden", "rest_golden_json", "rest_v1", "grpc_golden", "grpc_typed"),
    "torchserve": ("rest_golden", "rest_forms", "rest_bodies", "grpc_golden"),
}
# What is asked of a gateway that has every stack: ovmsclient has no way to send the header that chooses one.
CHOOSING = {program: checks for program, checks in GOLDEN.items() if program != "ovms"}
CHOOSING["tensorflow_serving"] += ("grpc_spec",)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("program", GOLDEN)
def test_an_unchanged_client_reaches_a_model_on_any_stack(world: World, program: str, stack: str) -> None:
    """Nothing in the client says where the model is: the gateway's configuration has one stack only."""
    told = world.tell(program, stack)
    for check in GOLDEN[program]:
        answers = list(arrays(told[check]))
        assert answers, told[check]
        for answer in answers:
            world.agrees(answer)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("program", CHOOSING)
def test_a_client_that_sends_a_header_chooses_the_stack(world: World, program: str, stack: str) -> None:
    """With x-stack, through a gateway that has all of them."""
    told = world.tell(program, "every", stack, CHOOSING[program])
    for check in GOLDEN[program]:
        for answer in arrays(told[check]):
            world.agrees(answer)


@pytest.mark.parametrize("stack", STACKS)
def test_the_answer_names_the_server_that_gave_it(world: World, stack: str) -> None:
    """The stack chosen by the client's metadata, and the server that really runs there."""
    told = world.tell("tensorflow_serving", "every", stack, CHOOSING["tensorflow_serving"])["grpc_spec"]
    assert f'stack={stack}; server="{world.servers[stack]}"; version=1' in told["served_by"], told


def test_the_servers_are_what_they_say(world: World) -> None:
    """TorchServe and MLServer are real; the third is TensorFlow Serving only where that really runs."""
    assert world.servers["torchserve"] == "TorchServe 0.12.0"
    assert world.servers["oip"] == "mlserver 1.7.1"
    name = world.servers["tfserving"]
    assert name.startswith("TensorFlow Serving") or name.endswith("(stand-in)")


def arrays(told: Any) -> Iterator[dict[str, Any]]:
    """The arrays in what a check told, whether it is one, or a list, or has them by name; fails for anything else."""
    if isinstance(told, dict) and "dtype" in told:
        yield told
    elif isinstance(told, list) or (isinstance(told, dict) and "failed" not in told):
        for item in told.values() if isinstance(told, dict) else told:
            yield from arrays(item)
    else:
        pytest.fail(f"no array: {told['failed'] if isinstance(told, dict) else told}")
