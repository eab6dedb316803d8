"""The data plane with its router, over fake model servers."""

from __future__ import annotations

import pytest

from gateway.core.backend import ModelState
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import IndexEntry, InferenceRequest, InferenceResponse, ModelSpec, TensorSpec
from gateway.core.observer import NullObserver
from gateway.dataplane import DataPlane
from gateway.routing.endpoint import Endpoint, Target
from gateway.routing.health import HealthMonitor
from gateway.routing.router import Router
from gateway.routing.table import Route, RouteTable
from gateway.stacks import EndpointStack
from tests.builders import FakeBackend, FakeClock, context, contract, doubled, request, selected, tensor


class World:
    """A data plane over two stacks: `ts` and `ts2` of one, `tf` of the other."""

    def __init__(self, model: ModelContract | None = None, targets: tuple[Target, ...] | None = None) -> None:
        self.backends = {name: FakeBackend(name=f"{name} 1.0") for name in ("ts", "ts2", "tf")}
        self.endpoints = {
            name: Endpoint(
                name,
                "tfserving" if name == "tf" else "torchserve",
                backend,
                EndpointStack(name, "s", slots=1, queue=0, clock=FakeClock(), observer=NullObserver()),
            )
            for name, backend in self.backends.items()
        }
        model = model or contract()
        route = Route.of(
            model, targets or tuple(Target(name, "doubler") for name in ("ts", "tf", "ts2")), {"stable": 1}
        )
        self.health = HealthMonitor(self.endpoints.values(), observer=NullObserver())
        self.router = Router(RouteTable({"doubler": route}), self.endpoints, self.health)
        self.plane = DataPlane(self.router)
        self.plane.start()

    async def verified(self) -> World:
        for endpoint in self.endpoints.values():
            await self.health.check(endpoint)
        return self

    async def refusal(self, asked: InferenceRequest) -> GatewayError:
        with pytest.raises(GatewayError) as caught:
            await self.plane.infer(asked, context())
        return caught.value


async def test_an_answer_names_what_gave_it() -> None:
    """Stack, endpoint, server and version come with every result."""
    world = await World().verified()
    response = await world.plane.infer(request(id="mine", selection=selected(stack="tfserving")), context())
    assert response.outputs[0].array.tolist() == [[2.0, 4.0]]
    assert response.id == "mine"
    assert response.served_by is not None
    assert response.served_by.header() == 'endpoint=tf; stack=tfserving; server="tf 1.0"; version=1; variant=savedmodel'


async def test_the_next_endpoint_of_the_stack_answers_where_the_first_is_not_fit() -> None:
    """An endpoint that is not ready, or full, is passed over at no cost; the other stack is not asked."""
    world = World()
    world.backends["ts"].reachable = False
    await world.verified()
    response = await world.plane.infer(request(), context())
    assert response.served_by is not None
    assert response.served_by.endpoint == "ts2"
    assert world.backends["tf"].requests == []


async def test_nothing_fit_names_every_endpoint_and_its_reason() -> None:
    """The client learns which endpoint lacks what."""
    world = World()
    for name in ("ts", "ts2"):
        world.backends[name].reachable = False
    await world.verified()
    refusal = await world.refusal(request())
    assert refusal.cause is Cause.NOT_READY
    assert "endpoint 'ts' is unverified: does not answer" in refusal.detail
    assert "endpoint 'ts2'" in refusal.detail
    assert refusal.retry_after_s


@pytest.mark.parametrize(
    ("asked", "cause"),
    [
        (request(model="nope"), Cause.MODEL_NOT_FOUND),
        (request(version=7), Cause.VERSION_NOT_FOUND),
        (request(label="nightly"), Cause.LABEL_NOT_FOUND),
        (request(label="stable", version=2), Cause.INVALID_INPUT),
        (request(selection=selected(stack="oip")), Cause.MODEL_NOT_FOUND),
        (request([[1.0]]), Cause.INVALID_INPUT),
    ],
)
async def test_requests_that_cannot_be_routed_reach_no_server(asked: InferenceRequest, cause: Cause) -> None:
    """They are refused before anything is sent."""
    world = await World().verified()
    assert (await world.refusal(asked)).cause is cause
    assert all(backend.requests == [] for backend in world.backends.values())


async def test_a_label_is_a_version() -> None:
    """The server is asked for the version behind the label."""
    world = await World().verified()
    await world.plane.infer(request(label="stable"), context())
    assert world.backends["ts"].requests[0].model.version == 1


async def test_names_of_the_server_never_reach_the_client() -> None:
    """Model and tensor names are translated both ways."""
    target = Target("ts", "doubler_v2", names={"x": "image", "y": "scores"})
    world = await World(targets=(target,)).verified()
    world.backends["ts"].answer = lambda sent: InferenceResponse(
        "doubler_v2", 1, (tensor("scores", sent.inputs[0].array),)
    )
    response = await world.plane.infer(request(wanted=("y",)), context())
    sent = world.backends["ts"].requests[0]
    assert (sent.model.name, sent.inputs[0].name, sent.wanted) == ("doubler_v2", "image", ("scores",))
    assert (response.model, response.outputs[0].name) == ("doubler", "y")


async def test_a_bad_reply_is_not_passed_on() -> None:
    """A reply of another shape than the contract's is an error of the server."""
    world = await World().verified()
    world.backends["ts"].answer = lambda sent: InferenceResponse("doubler", 1, (tensor("y", [[1.0]]),))
    assert (await world.refusal(request())).cause is Cause.UPSTREAM_BAD_REPLY


async def test_a_version_that_the_server_does_not_name_is_its_newest() -> None:
    """TensorFlow Serving's REST answers carry no version."""
    world = World()
    world.backends["ts"].state = ModelState((5, 4))
    world.backends["ts"].answer = lambda sent: InferenceResponse("doubler", None, doubled(sent).outputs)
    await world.verified()
    response = await world.plane.infer(request(), context())
    assert response.version == 5


async def test_readiness_is_three_things() -> None:
    """A model is ready with one fit endpoint, the server with all models, and neither while draining."""
    world = World()
    assert not world.plane.ready()
    assert not world.plane.model_ready(ModelSpec("doubler"))
    await world.verified()
    assert world.plane.ready()
    assert world.plane.model_ready(ModelSpec("doubler", version=1))
    with pytest.raises(GatewayError, match="no version 9; its versions: 1"):
        world.plane.model_ready(ModelSpec("doubler", version=9))
    world.plane.drain()
    assert not world.plane.accepting
    assert not world.plane.ready()


async def test_a_model_is_ready_where_a_request_would_be_answered() -> None:
    """With the first stack down an unpinned request finds nothing, whatever the other stack could do."""
    world = World()
    for name in ("ts", "ts2"):
        world.backends[name].reachable = False
    await world.verified()
    assert not world.plane.ready()
    assert not world.plane.model_ready(ModelSpec("doubler"))
    assert world.plane.model_ready(ModelSpec("doubler"), selected(stack="tfserving"))
    with pytest.raises(GatewayError, match="not to be had by stack 'oip'"):
        world.plane.model_ready(ModelSpec("doubler"), selected(stack="oip"))


async def test_a_failed_request_names_the_endpoint_that_failed() -> None:
    """An error of a server is told with its name; a refusal at the gate has met no server."""

    def lost(_: InferenceRequest) -> InferenceResponse:
        raise GatewayError(Cause.UPSTREAM_LOST, "the connection broke")

    world = await World().verified()
    world.backends["ts"].answer = lost
    call = context()
    with pytest.raises(GatewayError):
        await world.plane.infer(request(), call)
    assert call.served_by is not None
    assert (call.served_by.endpoint, call.served_by.version) == ("ts", None)


async def test_metadata_is_the_contracts() -> None:
    """Clients see the contract's tensors and the versions that can answer."""
    world = await World().verified()
    metadata = world.plane.model_metadata(ModelSpec("doubler"))
    assert metadata.inputs == (TensorSpec("x", "FP32", (-1, 2)),)
    assert metadata.versions == (1,)
    with pytest.raises(GatewayError, match="unknown model 'nope'"):
        world.plane.model_metadata(ModelSpec("nope"))


async def test_the_index_has_every_version_that_can_answer() -> None:
    """Those of all endpoints, newest first; a model without one has the reasons of all its endpoints."""
    world = World()
    world.backends["ts2"].state = ModelState((2, 1))
    await world.verified()
    assert world.plane.index() == (IndexEntry("doubler", 2), IndexEntry("doubler", 1)) == world.plane.index(ready=True)
    for name, backend in world.backends.items():
        backend.reachable = False
        await world.health.check(world.endpoints[name])
    (entry,) = world.plane.index()
    assert (entry.version, entry.state) == (None, "UNAVAILABLE")
    assert all(f"endpoint '{name}'" in entry.reason for name in world.backends)
    assert world.plane.index(ready=True) == ()
