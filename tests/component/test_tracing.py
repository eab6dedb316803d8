"""A gateway between clients and scripted servers, whose spans a real OTLP collector takes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from gateway._generated import oip_pb2
from gateway.core.errors import Cause
from gateway.server import Addresses, serve
from gateway.settings import Settings
from gateway.telemetry.tracing import MAX_WAITING_SPANS, tracing
from tests.builders import contract
from tests.fakes.fake_oip import FakeOip
from tests.fakes.fake_tfserving import FakeTfServing
from tests.fakes.fake_torchserve import FakeTorchServe
from tests.fakes.otlp_collector import OtlpCollector, attributes
from tests.fakes.script import Fail, Hold, Script, double

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{CLIENT}-01"
ENDPOINTS = ("ts-rest", "ts-grpc", "tf-rest", "tf-grpc", "oip-rest", "oip-grpc")


@dataclass
class World:
    """A running gateway in front of fake servers, its collector, and the ways to ask it."""

    addresses: Addresses
    servers: dict[str, Script]
    collector: OtlpCollector
    http: aiohttp.ClientSession
    channel: grpc.aio.Channel

    async def ask(self, door: str, endpoint: str, **headers: str) -> None:
        """One request, over /predict or ModelInfer."""
        if door == "predict":
            body = {"model": "double", "inputs": [[1.0, 2.0]], "endpoint": endpoint}
            url = f"http://127.0.0.1:{self.addresses.rest_port}/predict"
            async with self.http.post(url, json=body, headers=headers) as reply:
                await reply.read()
            return
        message = oip_pb2.ModelInferRequest(model_name="double")
        message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        message.raw_input_contents.append(np.asarray([1, 2], "<f4").tobytes())
        call = self.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        await call(message.SerializeToString(), metadata=[("x-endpoint", endpoint), *headers.items()], timeout=20)


def settings(servers: dict[str, Any], url: str, mirror: str | None) -> Settings:
    ts, tf, oip = servers["ts"], servers["tf"], servers["oip"]
    torchserve = {"stack": "torchserve", "rest": ts.rest_url, "management": ts.management_url, "grpc": ts.grpc_address}
    tfserving = {"stack": "tfserving", "rest": tf.rest_url, "grpc": tf.grpc_address}
    other = {"stack": "oip", "rest": oip.rest_url, "grpc": oip.grpc_address}
    of = {"ts": torchserve, "tf": tfserving, "oip": other}
    endpoints = {name: {**of[name.split("-")[0]], "transport": name.split("-")[1]} for name in ENDPOINTS}
    endpoints["ts-one"] = {**torchserve, "slots": 1}
    model: dict[str, Any] = {"contract": "unused", "targets": [{"endpoint": name} for name in endpoints]}
    if mirror is not None:
        model["mirror"] = {"endpoint": mirror, "share": 1.0}
    return Settings(
        server={"rest_port": 0, "grpc_port": 0, "admin_port": None, "drain_seconds": 5},
        endpoints=endpoints,
        models={"double": model},
        telemetry={"tracing": {"endpoint": url}},
    )


@asynccontextmanager
async def running(url: str | None = None, mirror: str | None = None) -> AsyncIterator[World]:
    """The gateway, its spans sent to the collector or to `url`, every request copied to the endpoint `mirror`; at the
    end of the block it has ended, all sent.
    """
    model = double()
    async with AsyncExitStack() as stack:
        servers: dict[str, Any] = {"ts": FakeTorchServe(model), "tf": FakeTfServing(model), "oip": FakeOip(model)}
        for server in servers.values():
            await stack.enter_async_context(server)
        collector = await stack.enter_async_context(OtlpCollector())
        stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
        contracts = {"double": contract("double", inputs=model.inputs, outputs=model.outputs, batch_cap=64)}
        serving = asyncio.create_task(
            serve(settings(servers, url or collector.url, mirror), contracts, stop, listening.set_result)
        )
        await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
        addresses = await listening
        try:
            async with (
                aiohttp.ClientSession() as http,
                grpc.aio.insecure_channel(f"127.0.0.1:{addresses.grpc_port}") as channel,
            ):
                world = World(addresses, servers, collector, http, channel)
                await _ready(world)
                yield world
        finally:
            stop.set()
            await asyncio.wait_for(serving, 15)


async def _ready(world: World) -> None:
    url = f"http://127.0.0.1:{world.addresses.rest_port}/v2/models/double/ready"
    async with asyncio.timeout(20):
        for name in (*ENDPOINTS, "ts-one"):
            while True:
                async with world.http.get(url, headers={"x-endpoint": name}) as reply:
                    if reply.status == 200:
                        break
                await asyncio.sleep(0.01)


def parent_of(span: Span) -> tuple[str, str]:
    """A span's trace, and the span that it hangs from."""
    return span.trace_id.hex(), span.parent_span_id.hex()


@pytest.mark.parametrize("door", ["predict", "oip-grpc"])
async def test_one_trace_leads_from_the_client_through_the_gateway_to_each_server(
    door: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Over REST and gRPC in and out: the request's span hangs from the client's, the call's from the request's, and the
    server is told of the call's; the client's vendor entries travel along, and the access log has both ids.
    """
    caplog.set_level("INFO", "gateway.access")
    async with running() as world:
        for endpoint in ENDPOINTS:
            await world.ask(
                door, endpoint, traceparent=PARENT, tracestate="vendor=its-own", **{"x-request-id": endpoint}
            )
    requests, calls = world.collector.named(door), world.collector.named("infer double")
    assert len(requests) == len(calls) == len(ENDPOINTS)
    for endpoint, request, call in zip(ENDPOINTS, requests, calls, strict=True):
        assert parent_of(request) == (TRACE, CLIENT)
        assert parent_of(call) == (TRACE, request.span_id.hex())
        assert (request.kind, call.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
        told = attributes(request)
        assert (told["twinserve.protocol"], told["twinserve.model"], told["twinserve.version"]) == (door, "double", 1)
        assert told["twinserve.outcome"] == attributes(call)["twinserve.outcome"] == "ok"
        assert told["twinserve.endpoint"] == attributes(call)["twinserve.endpoint"] == endpoint
        sent = f"00-{TRACE}-{call.span_id.hex()}-01"
        heard = world.servers[endpoint.split("-")[0]].heard
        assert [headers["tracestate"] for headers in heard if headers.get("traceparent") == sent] == ["vendor=its-own"]
        (line,) = [item.fields for item in caplog.records if item.fields["request_id"] == endpoint]
        assert (line["trace_id"], line["span_id"]) == (TRACE, request.span_id.hex())
    assert {item["service.name"] for item in world.collector.resources} == {"twinserve-gateway"}


@pytest.mark.parametrize(
    "sent",
    [{}, {"traceparent": "00-zz"}, {"traceparent": "00-" + "0" * 32 + "-" + "1" * 16 + "-01"}, {"tracestate": "a=b"}],
)
async def test_a_trace_begins_here_where_the_client_sends_none_that_can_be_read(sent: dict[str, str]) -> None:
    """The request's span has no parent, and the server is sent its trace and nothing of the client's."""
    async with running() as world:
        await world.ask("predict", "tf-grpc", **sent)
    (request,), (call,) = world.collector.named("predict"), world.collector.named("infer double")
    assert request.parent_span_id == b""
    heard = world.servers["tf"].heard[-1]
    # Its last digits are flags: recorded, and since level 2 of the standard that the id is a random one.
    assert heard["traceparent"].startswith(f"00-{request.trace_id.hex()}-{call.span_id.hex()}-0")
    assert "tracestate" not in heard


async def test_a_client_that_does_not_record_its_trace_is_not_recorded_here_either() -> None:
    """Nothing is sent to the collector; the server still learns of the trace, and that it is not recorded."""
    async with running() as world:
        await world.ask("oip-grpc", "ts-rest", traceparent=f"00-{TRACE}-{CLIENT}-00")
    assert world.collector.spans == []
    (heard,) = [item["traceparent"] for item in world.servers["ts"].heard if "traceparent" in item]
    assert heard.startswith(f"00-{TRACE}-")
    assert heard.endswith("-00")


async def test_a_batch_is_one_call_linked_to_all_its_requests() -> None:
    """What waited for the one slot went out together: one span of the call, in one request's trace and linked to all of
    them; each request has a span of its waiting, and a link to the call where that is in another's trace.
    """
    async with running() as world:
        hold = Hold()
        world.servers["ts"].then(hold)
        first = asyncio.create_task(world.ask("predict", "ts-one"))
        await hold.reached.wait()
        waiting = [asyncio.create_task(world.ask("predict", "ts-one")) for _ in range(3)]
        while await queued(world) < 3:
            await asyncio.sleep(0.01)
        hold.release.set()
        await asyncio.gather(first, *waiting)
    requests = {span.span_id: span for span in world.collector.named("predict")}
    (batch,) = [
        span for span in world.collector.named("infer double") if attributes(span)["twinserve.batch.requests"] == 3
    ]
    members = {link.span_id for link in batch.links}
    assert len(members) == 3
    assert batch.parent_span_id in members < requests.keys()
    assert members <= {span.parent_span_id for span in world.collector.named("queue")}
    for member in members - {batch.parent_span_id}:
        assert [link.span_id for link in requests[member].links] == [batch.span_id]


async def queued(world: World) -> float:
    """How many requests wait for the one slot."""
    page = await metrics(world)
    return float(page.split('gateway_endpoint_slots_queued{endpoint="ts-one"} ')[1].split("\n")[0])


async def metrics(world: World) -> str:
    async with world.http.get(f"http://127.0.0.1:{world.addresses.rest_port}/metrics") as reply:
        return await reply.text()


@pytest.mark.parametrize("failure", [None, "upstream_failed"])
async def test_a_copy_to_a_mirror_hangs_from_the_request_and_its_call_from_the_copy(failure: str | None) -> None:
    """Its server is told of its own call, in the client's trace; what fails there is no error of the request's."""
    outcome = failure or "ok"
    async with running(mirror="tf-grpc") as world:
        if failure is not None:
            world.servers["tf"].then(Fail())
        await world.ask("predict", "ts-rest", traceparent=PARENT)
        while (
            f'gateway_mirror_duration_seconds_count{{model="double",endpoint="tf-grpc",outcome="{outcome}"}} 1'
            not in (await metrics(world))
        ):
            await asyncio.sleep(0.01)
    (request,), (copy,) = world.collector.named("predict"), world.collector.named("mirror")
    (call,) = [
        span for span in world.collector.named("infer double") if attributes(span)["twinserve.endpoint"] == "tf-grpc"
    ]
    assert parent_of(copy) == (TRACE, request.span_id.hex())
    assert parent_of(call) == (TRACE, copy.span_id.hex())
    assert (attributes(request)["twinserve.outcome"], request.status.code) == ("ok", 0)
    for span in (copy, call):
        assert attributes(span)["twinserve.outcome"] == outcome
        assert span.status.code == (0 if failure is None else 2)
    sent = f"00-{TRACE}-{call.span_id.hex()}-01"
    assert [item for item in world.servers["tf"].heard if item.get("traceparent") == sent] != []


async def test_what_failed_is_an_error_of_the_spans_and_what_the_client_did_wrong_is_none() -> None:
    """A server's failure marks the call and the request; an unknown model is told, and no error of the gateway's."""
    async with running() as world:
        world.servers["tf"].then(Fail())
        await world.ask("predict", "tf-grpc")
        url = f"http://127.0.0.1:{world.addresses.rest_port}/predict/nothing"
        async with world.http.post(url, json={"inputs": [[1.0, 2.0]]}) as reply:
            assert reply.status == 404
    failed, unknown = world.collector.named("predict")
    for span in (failed, *world.collector.named("infer double")):
        assert span.status.code == 2
        assert attributes(span)["error.type"] == "upstream_failed"
    assert unknown.status.code == 0
    assert attributes(unknown)["twinserve.outcome"] == "model_not_found"
    assert "twinserve.model" not in attributes(unknown)


async def test_a_collector_that_is_not_there_costs_no_request_and_no_end(caplog: pytest.LogCaptureFixture) -> None:
    """Requests are answered, the log says it once, and the gateway ends; with a collector that hangs as well."""
    async with running("http://127.0.0.1:1") as world:
        for _ in range(20):
            await world.ask("predict", "tf-grpc")
    assert world.servers["tf"].calls["predict"] == 20
    told = [item.getMessage() for item in caplog.records if "collector" in item.getMessage()]
    assert told == [
        "spans do not reach the collector at http://127.0.0.1:1 and are dropped; requests are answered all the same"
    ]
    async with running() as world:
        world.collector.answers.clear()
        await world.ask("predict", "tf-grpc")
        await world.collector.asked.wait()
        await world.ask("predict", "tf-grpc")
    assert world.servers["tf"].calls["predict"] == 2


async def test_spans_that_the_collector_does_not_take_are_dropped_not_kept() -> None:
    """Of many thousand spans no more wait than the queue holds, beside those under way."""
    async with OtlpCollector() as collector:
        collector.answers.clear()
        async with tracing(collector.url, sample=1.0, service_name="test") as tracer:
            for _ in range(3 * MAX_WAITING_SPANS):
                trace = tracer.request(protocol="predict", request_id="id", headers=())
                trace.finish(model="double", version=1, stack="", endpoint="", cause=Cause.NOT_READY)
            await collector.asked.wait()
            collector.answers.set()
        assert MAX_WAITING_SPANS <= len(collector.spans) < 2 * MAX_WAITING_SPANS


def test_without_an_endpoint_nothing_of_it_is_imported_and_with_one_its_absence_is_told() -> None:
    """A gateway that traces nothing needs no OpenTelemetry SDK; one that shall and has none says what to install."""
    program = (
        "import sys; sys.modules['opentelemetry.sdk'] = sys.modules['opentelemetry.exporter'] = None\n"
        "import asyncio, gateway.__main__, gateway.worker\n"
        "from gateway.server import traced\n"
        "from gateway.process_settings import TracingSettings\n"
        "async def ask(endpoint):\n"
        "    async with traced(TracingSettings(endpoint=endpoint)) as tracer:\n"
        "        print(tracer)\n"
        "asyncio.run(ask(None))\n"
        "asyncio.run(ask('http://127.0.0.1:4317'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "None\n"
    assert "SettingsError: telemetry.tracing needs OpenTelemetry" in done.stderr
