"""grpc.health.v1, answered from the data plane when asked: there is no status that could go stale."""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2

from gateway.core.errors import GatewayError
from gateway.dataplane import DataPlane
from gateway.frontends.grpc.calls import Context, abort, metadata_of, parsed, request_id
from gateway.frontends.grpc.oip import SERVICE

HEALTH_SERVICE = "grpc.health.v1.Health"

# How soon a watcher hears of a change.
WATCH_INTERVAL_SECONDS = 0.5

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer:
    """`""` serves while the gateway takes requests, as `/readyz`; the inference service while all models are ready."""

    def __init__(self, data_plane: DataPlane, *, watch_interval_s: float = WATCH_INTERVAL_SECONDS) -> None:
        self._data_plane = data_plane
        self._watch_interval_s = watch_interval_s

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service, for a server to add."""
        return grpc.method_handlers_generic_handler(
            HEALTH_SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self.check),
                "Watch": grpc.unary_stream_rpc_method_handler(self.watch),
            },
        )

    async def check(self, data: bytes, context: Context) -> bytes:
        """The status now; NOT_FOUND for a service that is not here."""
        status = self._status(await self._service(data, context))
        if status == _SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return _response(status)

    async def watch(self, data: bytes, context: Context) -> None:
        """The status now and after every change, until the client leaves or the gateway drains."""
        service = await self._service(data, context)
        last: int | None = None
        was_accepting = False
        while True:
            status = self._status(service)
            if status != last:
                await context.write(_response(status))
                last = status
            if was_accepting and not self._data_plane.accepting:
                # A stream that stays open would hold up the server's end until its grace is over.
                return
            was_accepting = self._data_plane.accepting
            await asyncio.sleep(self._watch_interval_s)

    async def _service(self, data: bytes, context: Context) -> str:
        try:
            return str(parsed(health_pb2.HealthCheckRequest(), data).service)
        except GatewayError as exc:
            await abort(context, exc, (("x-request-id", request_id(metadata_of(context))),))

    def _status(self, service: str) -> int:
        if service == "":
            serving = self._data_plane.accepting
        elif service == SERVICE:
            serving = self._data_plane.ready()
        else:
            return int(_SERVICE_UNKNOWN)
        return int(_SERVING if serving else _NOT_SERVING)


def _response(status: int) -> bytes:
    return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())
