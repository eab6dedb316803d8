"""The part of the configuration that says how the gateway itself runs: where it listens, its limits, what it tells."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from gateway.traffic_settings import Frozen

Port = Annotated[int, Field(ge=0, le=65535)]


class ServerSettings(Frozen):
    """Where the gateway listens."""

    host: str = "127.0.0.1"
    """The address to listen on; the default is reachable from this machine only."""
    rest_port: Port = 8000
    """The port of the REST front ends, `/metrics` and `/docs`; 0 takes any free one."""
    grpc_port: Port = 8001
    """The port of the gRPC front ends; 0 takes any free one."""
    admin_port: Port | None = 8009
    """The operator's port, on the loopback address only; 0 takes any free one, as the default does where it is taken.

    null turns it off.
    """
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """How many processes serve, on the same ports; above 1 (Linux only) the limits, slots and queues are divided."""
    drain_seconds: PositiveFloat = 20
    """How long requests in flight may take to finish after SIGTERM."""


class LimitSettings(Frozen):
    """What one client, or all of them together, may ask of the gateway."""

    body_bytes: PositiveInt = 67108864
    """The largest request, over REST and gRPC."""
    json_bytes: PositiveInt = 8388608
    """The largest JSON body; parsing holds the event loop, so larger tensors belong to the gRPC door."""
    in_flight: PositiveInt = 1024
    """How many whole requests may be in the gateway at once; four times as many may still be arriving."""
    in_flight_bytes: PositiveInt = 536870912
    """How many bytes the bodies of all requests in flight may take together."""
    timeout_ms: PositiveInt = 30000
    """The deadline of a request that names none."""
    max_timeout_ms: PositiveInt = 120000
    """The longest deadline that a client may ask for."""
    body_timeout_ms: PositiveInt = 20000
    """How long a request's body may take to arrive; less than `timeout_ms`, or that ends it first."""


class TracingSettings(Frozen):
    """Where spans of requests are sent, in OpenTelemetry's protocol."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^/\s@]+/?$")] | None = None
    """The collector's OTLP port for gRPC, such as http://127.0.0.1:4317; without it nothing is traced."""
    sample: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The share of the traces begun here that is recorded; where a client began one, its own decision holds."""
    service_name: Annotated[str, Field(min_length=1)] = "twinserve-gateway"
    """What the gateway is called among the services of a trace."""


class TelemetrySettings(Frozen):
    """What the gateway tells of its requests beside metrics and logs."""

    tracing: TracingSettings = TracingSettings()
    """Where spans are sent; nowhere unless it names an endpoint."""
