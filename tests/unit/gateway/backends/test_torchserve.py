"""Tests of gateway.backends.torchserve over both transports: handlers not ours, split batches, versions, keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.backends.registry import connect
from gateway.codecs.torchserve_payloads import payload_of
from gateway.core.backend import Backend
from gateway.core.errors import Cause
from gateway.core.messages import InferenceRequest, ModelSpec
from gateway.core.tensor import Tensor
from tests.builders import contract
from tests.fakes.fake_torchserve import FakeTorchServe
from tests.fakes.foreign_handlers import json_handler
from tests.fakes.script import Fail, Hang, Hold, QueueFull, Status, double
from tests.unit.gateway.backends.support import call, failure, request

MODEL = double(versions=(2, 5, 7))
Make = Callable[..., Backend]
CONTRACT = contract("double", inputs=MODEL.inputs, outputs=MODEL.outputs, batch_cap=64)


@pytest.fixture
async def fake() -> AsyncIterator[FakeTorchServe]:
    """A server with versions 2 (the default), 5 and 7 of `double`, spelled 2, 5.0 and 2024-05a."""
    async with FakeTorchServe(MODEL, handler=json_handler) as fake:
        fake.spellings = {5: "5.0", 7: "2024-05a"}
        yield fake


@pytest.fixture(params=["rest", "grpc"])
async def make(fake: FakeTorchServe, request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes backends for the fake, whose handler takes JSON."""
    made: list[Backend] = []

    def make(*, token_file: Path | None = None, versions: dict[str, int] | None = None, **fields: Any) -> Backend:
        payload = payload_of(CONTRACT, **{"payload": "json", **fields}, versions=versions)
        made.append(
            connect(
                stack="torchserve",
                transport=request.param,
                grpc=fake.grpc_address,
                rest=fake.rest_url,
                management=fake.management_url,
                handlers={("double", None): payload},
                versions={"double": versions or {}},
                token_file=token_file,
                slots=3,
            )
        )
        return made[-1]

    yield make
    for backend in made:
        await backend.close()


def rows(count: int) -> InferenceRequest:
    """`x` of `count` rows, each of its number."""
    x = np.repeat(np.arange(count, dtype=np.float32), 2).reshape(count, 2)
    return InferenceRequest(ModelSpec("double"), (Tensor("x", "FP32", x),), id="i")


async def test_the_body_travels_with_its_type_or_under_its_key(fake: FakeTorchServe, make: Make) -> None:
    """application/json over REST, `data` or `body` over gRPC."""
    await make().infer(request(), call())
    await make(grpc_key="body").infer(request(), call())
    body = b'{"inputs":{"x":[[1.0,2.0]]}}'
    assert fake.bodies in (
        [("application/json", body), ("application/json", body)],
        [("data", body), ("body", body)],
    )


async def test_the_default_version_is_named_so_that_the_answer_is(fake: FakeTorchServe, make: Make) -> None:
    """The answer does not tell its version; TorchServe's default is asked for by its name, and followed."""
    backend = make()
    assert [(await backend.infer(request(), call())).version for _ in range(3)] == [2, 2, 2]
    assert fake.calls["describe"] == 2
    fake.models["double"] = double(versions=(5, 2))
    assert (await backend.model_state("double")).versions == (5, 2)
    assert (await backend.infer(request(), call())).version == 5
    assert [path.rpartition("/")[2] for path in fake.paths] == ["2", "2", "2", "5.0"]


async def test_without_the_management_port_the_version_is_not_known(fake: FakeTorchServe, make: Make) -> None:
    """TorchServe's own default answers."""
    backend = make()
    await fake.management_relay.close()
    assert (await backend.infer(request(), call())).version is None
    assert fake.paths[-1].endswith("/double")


async def test_a_version_name_has_the_number_it_is_given(fake: FakeTorchServe, make: Make) -> None:
    """`2024-05a` is sent as it is spelled, and told as its number; without one it is no version here."""
    backend = make(versions={"2024-05a": 9})
    assert (await backend.model_state("double")).versions == (9, 5, 2)
    assert (await make().model_state("double")).versions == (5, 2)
    assert (await backend.infer(request(version=9), call())).version == 9
    assert fake.paths[-1].endswith("/double/2024-05a")
    await fake.management_relay.close()
    assert (await make(versions={"2024-05a": 9}).infer(request(version=9), call())).version == 9


async def test_a_model_of_unnumbered_versions_says_what_to_write(fake: FakeTorchServe, make: Make) -> None:
    """It cannot be asked for before somebody gives them numbers."""
    fake.models["double"] = double(versions=(7,))
    error = await failure(make().model_state("double"))
    assert error.cause is Cause.NOT_READY
    assert 'write versions: {"2024-05a": 1}' in error.detail


async def test_a_batch_by_rows_is_answered_in_order(fake: FakeTorchServe, make: Make) -> None:
    """One request a row, at most as many at once as the endpoint has slots."""
    backend = make(batch="rows")
    holds = [Hold() for _ in range(3)]
    fake.then(*holds)
    answering = asyncio.create_task(backend.infer(rows(7), call()))
    for hold in holds:
        await hold.reached.wait()
    assert fake.in_flight.value == 3
    for hold in reversed(holds):
        hold.release.set()
    response = await answering
    assert (response.id, response.version, fake.calls["predict"]) == ("i", 2, 7)
    assert [output.array.tolist() for output in response.outputs] == [
        [[2 * row, 2 * row] for row in range(7)],
        [2 * row for row in range(7)],
    ]


async def test_a_row_that_fails_ends_its_batch(fake: FakeTorchServe, make: Make) -> None:
    """The batch fails as its row did, and the server's work for the others is given up."""
    backend = make(batch="rows")
    fake.then(Hang(), Fail(), Hang())
    assert (await failure(backend.infer(rows(5), call()))).cause is Cause.UPSTREAM_FAILED
    await fake.in_flight.reaches(0)
    assert len((await backend.infer(rows(2), call())).outputs) == 2


@pytest.mark.parametrize(("workers", "cause"), [(["READY"], Cause.OVERLOADED), ([], Cause.NOT_READY)])
async def test_a_full_queue_and_no_worker_are_told_apart(
    fake: FakeTorchServe, make: Make, workers: list[str], cause: Cause
) -> None:
    """By the describe call, for one request and for rows."""
    fake.workers = workers
    for backend in (make(), make(batch="rows")):
        fake.then(QueueFull(), QueueFull())
        assert (await failure(backend.infer(rows(2), call()))).cause is cause


async def test_keys_go_with_every_call(fake: FakeTorchServe, make: Make, tmp_path: Path) -> None:
    """The inference key with inference and /ping, the management key with describe calls; new ones as they come."""
    path = tmp_path / "key_file.json"
    fake.write_keys(path)
    backend = make(token_file=path)
    assert await backend.server() == "TorchServe 0.12.0"
    assert fake.calls["ping"] == 1
    assert (await backend.model_state("double")).ready
    assert (await backend.infer(request(), call())).version == 2
    fake.write_keys(path, inference="inf-key-2", management="man-key-2")
    assert (await backend.infer(request(), call())).version == 2
    assert (await backend.model_state("double")).ready


async def test_a_missing_or_refused_key_is_the_configurations_fault(
    fake: FakeTorchServe, make: Make, tmp_path: Path
) -> None:
    """Nothing is processed, and the words say what to do."""
    path = tmp_path / "key_file.json"
    fake.write_keys(path)
    for ask in (lambda backend: backend.infer(request(), call()), lambda backend: backend.model_state("double")):
        error = await failure(ask(make()))
        assert error.cause is Cause.UPSTREAM_BAD_REPLY
        assert "write token_file" in error.detail
    fake.keys["inference"] = "another"
    backend = make(token_file=path)
    for ask in (lambda backend: backend.infer(request(), call()), lambda backend: backend.server()):
        error = await failure(ask(backend))
        assert error.cause is Cause.UPSTREAM_BAD_REPLY
        assert "refuses the inference key" in error.detail
    assert fake.calls["predict"] == 0


async def test_a_handlers_own_503_is_not_a_server_that_is_away(fake: FakeTorchServe) -> None:
    """It has the id that TorchServe gives each request; the model ran, so that nobody tries again."""
    backend = connect(stack="torchserve", transport="rest", rest=fake.rest_url, management=fake.management_url)
    fake.then(Status(503, json.dumps({"error": "I am tired"}), ""))
    error = await failure(backend.infer(request(), call()))
    assert (error.cause, error.detail) == (Cause.UPSTREAM_FAILED, "I am tired")
    await backend.close()
