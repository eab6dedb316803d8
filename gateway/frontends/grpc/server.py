"""The gRPC server of one worker, built but not started."""

from __future__ import annotations

from typing import Any

import grpc

from gateway.core.clock import Clock
from gateway.core.observer import Observer
from gateway.dataplane import DataPlane
from gateway.frontends.edge import Admission, Edge, Limits
from gateway.frontends.grpc.calls import UnknownMethods
from gateway.frontends.grpc.health import HealthServicer
from gateway.frontends.grpc.oip import PROTOCOL, OipServicer
from gateway.frontends.grpc.tfserving import TfServingServicer
from gateway.frontends.grpc.torchserve import TorchServeServicer

# Bit 0 is "identity". gRPC inflates a message before it checks its size, so compressed ones are refused unread.
ONLY_UNCOMPRESSED = 1
# How long after the longest deadline a call may still be on a connection that is moved on.
CONNECTION_GRACE_SECONDS = 5.0


def create_server(
    data_plane: DataPlane,
    *,
    limits: Limits,
    observer: Observer,
    clock: Clock,
    admission: Admission | None = None,
    max_concurrent_streams: int = 100,
    max_connection_age_s: float | None = None,
    reuse_port: bool = False,
) -> grpc.aio.Server:
    """A server with every protocol's inference services and `grpc.health.v1`; the caller adds ports, starts, stops it.

    Called inside the event loop that will run it. `admission` is shared with the REST front ends where there are
    any. `max_concurrent_streams` is per connection: more wait at their client. With several workers
    `max_connection_age_s` moves long-lived connections on, give or take a tenth (gRPC's proposal A9), and `reuse_port`
    shares the port between them. Calls on a connection that is moved may go on for as long as a deadline may be away.
    """
    edge = Edge(data_plane, limits=limits, observer=observer, clock=clock, admission=admission or Admission(limits))
    options: list[tuple[str, Any]] = [
        ("grpc.so_reuseport", int(reuse_port)),
        ("grpc.max_receive_message_length", limits.body_bytes),
        # What a model answers is bounded where it comes in; clients set their own limit.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", max_concurrent_streams),
        # Or gRPC refuses a stream that its own client opened in time, while the end of another is still on its way.
        ("grpc.http.overload_protection", 0),
        ("grpc.compression_enabled_algorithms_bitset", ONLY_UNCOMPRESSED),
    ]
    if max_connection_age_s is not None:
        options.append(("grpc.max_connection_age_ms", round(max_connection_age_s * 1e3)))
        grace_s = limits.max_timeout_s + CONNECTION_GRACE_SECONDS
        options.append(("grpc.max_connection_age_grace_ms", round(grace_s * 1e3)))
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers(
        (
            OipServicer(edge).handlers(),
            *TfServingServicer(edge).handlers(),
            TorchServeServicer(edge).handlers(),
            HealthServicer(data_plane).handlers(),
            UnknownMethods(edge, PROTOCOL),
        )
    )
    return server
