"""A collector of spans: OpenTelemetry's protocol over gRPC, as its own messages have it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.trace.v1.trace_pb2 import Span

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class OtlpCollector(grpc.GenericRpcHandler):
    """Keeps every span that it is sent; use as an async context manager. `answers` is cleared to have it hang."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = asyncio.Event()
        self.url = ""
        self._server = grpc.aio.server()

    async def __aenter__(self) -> Self:
        self._server.add_generic_rpc_handlers((self,))
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop(0)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a full method name."""
        if handler_call_details.method != EXPORT:
            return None
        return grpc.unary_unary_rpc_method_handler(self._export)

    def named(self, name: str) -> list[Span]:
        """The spans of this name, as they came."""
        return [span for span in self.spans if span.name == name]

    async def _export(self, message: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        self.asked.set()
        await self.answers.wait()
        for group in pb.ExportTraceServiceRequest.FromString(message).resource_spans:
            self.resources.append(attributes(group.resource))
            for scope in group.scope_spans:
                self.spans.extend(scope.spans)
        return pb.ExportTraceServiceResponse().SerializeToString()


def attributes(item: Any) -> dict[str, Any]:
    """What a span or a resource says of itself."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in item.attributes}
