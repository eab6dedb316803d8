"""Clients of both doors whose every request has a number of its own, and what a gateway's metrics say of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import aiohttp
import grpc
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from gateway._generated import oip_pb2
from gateway.core.errors import Cause
from gateway.frontends.grpc.errors import OIP

INFER = "/inference.GRPCInferenceService/ModelInfer"
OK = "ok"
# No answer of the gateway came: the connection was refused, or ended first.
UNANSWERED = "unanswered"

Door = Literal["rest", "grpc"]
DOORS: tuple[Door, ...] = ("rest", "grpc")


class Samples:
    """One rendering of `/metrics`."""

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(self, name: str, **labels: str) -> int:
        """The sum of all time series of a name that have these labels."""
        return int(sum(self.by("", name, **labels).values()))

    def by(self, label: str, name: str, **labels: str) -> Counter[str]:
        """The sums of the time series of a name that have these labels, by another of their labels."""
        found: Counter[str] = Counter()
        for sample in self._samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                found[sample.labels.get(label, "")] += int(sample.value)
        return found

    def ended(self, model: str) -> Counter[str]:
        """The requests for a model that have ended, by outcome."""
        return self.by("outcome", "gateway_request_duration_seconds_count", model=model)

    def attempts(self, **labels: str) -> int:
        """The calls to model servers that have ended."""
        return self.total("gateway_attempt_duration_seconds_count", **labels)


@dataclass
class Clients:
    """A client of each door. `ended` counts requests by model and outcome: `ok`, a cause, a gRPC code, `unanswered`.

    `answered` holds the numbers whose answers came. A wrong answer is an error of the test's.
    """

    rest_url: str
    http: aiohttp.ClientSession
    infer: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    asked: int = 0
    ended: dict[str, Counter[str]] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    numbers: count[int] = field(default_factory=lambda: count(1))

    async def ask(
        self,
        model: str,
        door: Door = "rest",
        timeout_ms: int | None = None,
        *,
        number: int | None = None,
        endpoint: str | None = None,
    ) -> str:
        """One request, with the gateway's own deadline unless it names one; returns how it ended."""
        number = next(self.numbers) if number is None else number
        self.asked += 1
        send = self._over_rest if door == "rest" else self._over_grpc
        outcome = await send(model, timeout_ms, number, {} if endpoint is None else {"x-endpoint": endpoint})
        self.ended.setdefault(model, Counter())[outcome] += 1
        if outcome == OK:
            self.answered.add(number)
        return outcome

    async def metrics(self) -> Samples:
        """What the gateway has counted until now."""
        async with self.http.get(f"{self.rest_url}/metrics") as reply:
            return Samples(await reply.text())

    async def status(self, path: str, headers: Mapping[str, str] | None = None) -> int:
        """The status of a GET."""
        async with self.http.get(f"{self.rest_url}{path}", headers=headers) as reply:
            return reply.status

    async def _over_rest(self, model: str, timeout_ms: int | None, number: int, headers: Mapping[str, str]) -> str:
        body = {"model": model, "inputs": [[number, 0.5]]}
        if timeout_ms is not None:
            headers = {**headers, "x-request-timeout-ms": str(timeout_ms)}
        try:
            async with self.http.post(f"{self.rest_url}/predict", json=body, headers=headers) as reply:
                told = json.loads(await reply.read())
        except (aiohttp.ClientError, ConnectionError) as exc:
            return f"{UNANSWERED}: {type(exc).__name__}"
        if reply.status != 200:
            if reply.status == 503:
                assert int(reply.headers["retry-after"]) >= 1
            return str(told["cause"])
        assert told["outputs"]["y"] == [[2.0 * number, 1.0]], f"request {number} was answered {told}"
        return OK

    async def _over_grpc(self, model: str, timeout_ms: int | None, number: int, headers: Mapping[str, str]) -> str:
        request = oip_pb2.ModelInferRequest(model_name=model)
        request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        request.raw_input_contents.append(np.asarray([number, 0.5], "<f4").tobytes())
        try:
            timeout = None if timeout_ms is None else timeout_ms / 1e3
            message = await self.infer(request.SerializeToString(), timeout=timeout, metadata=tuple(headers.items()))
        except grpc.aio.AioRpcError as exc:
            # What the client's own library makes up has no id of the gateway's; a deadline passes at both ends.
            ours = "x-request-id" in dict(exc.trailing_metadata() or ())
            late = exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return exc.code().name if ours or late else f"{UNANSWERED}: {exc.code().name}: {exc.details()}"
        reply = oip_pb2.ModelInferResponse.FromString(message)
        raw = dict(zip([output.name for output in reply.outputs], reply.raw_output_contents, strict=True))
        assert np.frombuffer(raw["y"], "<f4").tolist() == [2.0 * number, 1.0], f"request {number} got another's answer"
        return OK


@asynccontextmanager
async def clients_of(rest_url: str, grpc_address: str) -> AsyncIterator[Clients]:
    """Clients of a gateway, with connections of their own."""
    connector = aiohttp.TCPConnector(limit=0)
    # Whatever is sent twice here would be counted as the gateway's doing.
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with (
        aiohttp.ClientSession(connector=connector) as http,
        grpc.aio.insecure_channel(grpc_address, options=options) as channel,
    ):
        yield Clients(rest_url, http, channel.unary_unary(INFER))


async def crowd(callers: int, each: int, ask: Callable[[int], Awaitable[object]]) -> None:
    """So many callers at once, each of whom asks so often, one request after the other; `ask` gets the caller."""

    async def call(caller: int) -> None:
        for _ in range(each):
            await ask(caller)

    async with asyncio.TaskGroup() as group:
        for caller in range(callers):
            group.create_task(call(caller))


def outcomes(causes: frozenset[Cause]) -> set[str]:
    """How requests may end at either door where these causes may arise, or none."""
    return {OK} | {cause.value for cause in causes} | {OIP[cause].name for cause in causes}


def merged(ended: Mapping[str, Counter[str]]) -> Counter[str]:
    """All models' outcomes together."""
    return sum(ended.values(), Counter())
