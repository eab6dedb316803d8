"""The standard health service, `--enable_grpc_healthcheck_service`: by TensorFlow Serving's short names (server.cc)."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio

from serving.tfserving.savedmodel_server.grpc_service import Context, send_mark

SERVICES = ("", "ModelService", "PredictionService")


class Health(aio.HealthServicer):
    """Everything is SERVING from the start, since ports open once every model is there."""

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:  # noqa: N802
        """The status of a service; NOT_FOUND for one that is not known (default_health_check_service.cc of gRPC)."""
        await send_mark(context)
        if request.service not in SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "service name unknown")
        return await super().Check(request, context)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802
        """The status of a service, and each change of it."""
        await send_mark(context)
        await super().Watch(request, context)


async def add_health(server: grpc.aio.Server) -> Health:
    """Puts the service on a server; `enter_graceful_shutdown` of it ends the watches."""
    health = Health()
    for name in SERVICES:
        await health.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    return health
