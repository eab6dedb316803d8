"""What every front end does around a request, whatever its protocol.

A `Call` gets an id and a deadline, is admitted or refused, and is reported exactly once, however it ends.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import getrandbits
from types import TracebackType
from typing import Any, Self

from gateway.codecs import oip_binary
from gateway.codecs.selection import merge_selection
from gateway.core.backend import Done
from gateway.core.clock import Clock
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ServedBy
from gateway.core.observer import Observer
from gateway.core.trace import Tracer
from gateway.dataplane import DataPlane, Flying
from gateway.frontends.landing import Landing
from gateway.telemetry.logging import log_access

logger = logging.getLogger(__name__)

# A client's own id goes into logs and headers: anything unusual is replaced, not repaired.
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
MILLISECONDS = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?([eE]\+?[0-9]{1,2})?")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")

# What the gateway calls itself in server metadata, and the protocol's extensions that it speaks in full.
SERVER_NAME = "twinserve"
EXTENSIONS = (oip_binary.EXTENSION,)

# Header and metadata name -> what it chooses.
SELECTION_HEADERS = {"x-stack": "stack", "x-endpoint": "endpoint", "x-variant": "variant", "x-label": "label"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, or all of them together, may ask of the gateway. Sizes in bytes, times in seconds."""

    body_bytes: int = 67_108_864
    json_bytes: int = 8_388_608
    in_flight: int = 1024
    in_flight_bytes: int = 536_870_912
    timeout_s: float = 30.0
    max_timeout_s: float = 120.0
    body_timeout_s: float = 20.0


# A request that is still arriving costs little but its bytes, which are counted: slow ones must not keep out others.
ARRIVING_PER_IN_FLIGHT = 4


class Admission:
    """How many requests are in the gateway, with how many bytes of body, over all front ends that share it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.arriving = 0
        self.in_flight = 0
        self.in_flight_bytes = 0

    def receive(self) -> Ticket:
        """For a `with` block, the stay of one request from its first byte, in flight from `Ticket.whole` on.

        Entering the block raises OVERLOADED.
        """
        return Ticket(self)

    def whole(self, size: int) -> Ticket:
        """The stay of one request of `size` bytes that is whole, until `Ticket.leave`; raises OVERLOADED."""
        self.check()
        ticket = Ticket(self)
        ticket.take_whole(size)
        return ticket

    def arrive(self) -> None:
        """Counts one request as arriving; raises OVERLOADED where the gateway is full."""
        self.check()
        self.arriving += 1

    def check(self) -> None:
        """Raises OVERLOADED where the gateway is full; counts nothing."""
        self._check_in_flight()
        if self.arriving >= ARRIVING_PER_IN_FLIGHT * self._limits.in_flight:
            raise self._full(f"{self.arriving} requests are still arriving")

    def take_whole(self, size: int) -> None:
        """Counts one request as in flight that is there with a body of `size` bytes, and for which `check` has just
        found a place; raises OVERLOADED where they do not fit."""
        self.take(size)
        self.in_flight += 1

    def leave(self, ticket: Ticket) -> None:
        """Ends the stay of one request."""
        if ticket.in_flight:
            self.in_flight -= 1
        else:
            self.arriving -= 1
        self.in_flight_bytes -= ticket.taken

    def enter(self) -> None:
        """Counts one request as in flight that was arriving; raises OVERLOADED where the gateway is full."""
        self._check_in_flight()
        self.arriving -= 1
        self.in_flight += 1

    def take(self, size: int) -> None:
        """Counts `size` more bytes in; raises OVERLOADED where they do not fit."""
        self.check_room(size)
        self.in_flight_bytes += size

    def check_room(self, size: int) -> None:
        """Raises OVERLOADED where `size` more bytes would not fit now; keeps no room for them."""
        if self.in_flight_bytes + size > self._limits.in_flight_bytes:
            raise self._full(f"the requests in flight hold {self._limits.in_flight_bytes} bytes at most")

    def _check_in_flight(self) -> None:
        if self.in_flight >= self._limits.in_flight:
            raise self._full(f"{self._limits.in_flight} requests are in flight")

    def _full(self, reason: str) -> GatewayError:
        return GatewayError(Cause.OVERLOADED, f"the gateway is full: {reason}", retry_after_s=1.0)


class Ticket:
    """One admitted request's share of the bytes in flight, given back when its stay ends."""

    __slots__ = ("_admission", "entered", "in_flight", "taken")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.entered = False
        self.in_flight = False
        self.taken = 0

    def __enter__(self) -> Self:
        self._admission.arrive()
        self.entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Ends the stay of a request, if it was let in."""
        if self.entered:
            self.entered = False
            self._admission.leave(self)

    def whole(self) -> None:
        """Counts the request as in flight, now that all of it has arrived; raises OVERLOADED where it does not fit."""
        self._admission.enter()
        self.in_flight = True

    def check(self) -> None:
        """Raises OVERLOADED where the gateway is full, for a request that is not in it yet."""
        self._admission.check()

    def take_whole(self, size: int) -> None:
        """Lets a request in right after `check`, with `size` bytes of body; raises OVERLOADED where they do not fit."""
        self._admission.take_whole(size)
        self.entered = self.in_flight = True
        self.taken = size

    def check_room(self, size: int) -> None:
        """Raises OVERLOADED where a body of `size` bytes would not fit now; keeps no room for it."""
        self._admission.check_room(size)

    def take(self, size: int) -> None:
        """Counts `size` more bytes of body; raises OVERLOADED where they do not fit."""
        self._admission.take(size)
        self.taken += size


@dataclass(slots=True)
class Call:
    """One request of a client, as far as it is known yet. `model` is the name asked for, known or not."""

    context: CallContext
    started: float
    model: str = ""


class Edge:
    """Opens, bounds and reports calls for the front ends, in the terms they share."""

    def __init__(
        self,
        data_plane: DataPlane,
        *,
        limits: Limits,
        observer: Observer,
        clock: Clock,
        admission: Admission,
        tracer: Tracer | None = None,
    ) -> None:
        self.data_plane = data_plane
        self.limits = limits
        self.admission = admission
        self._observer = observer
        self._clock = clock
        self._tracer = tracer

    def open(self, protocol: str, request_id: str, caller: str = "", headers: Iterable[tuple[str, str]] = ()) -> Call:
        """A call of `caller`, its peer's address, that starts now, with the default deadline.

        Of its headers, with names in lower case, those are kept that a route holds on to: the first of each.
        """
        now = self._clock.now()
        context = CallContext(request_id, protocol, now + self.limits.timeout_s, caller)
        if self._tracer is not None:
            headers = list(headers)
            context.trace = self._tracer.request(protocol=protocol, request_id=request_id, headers=headers)
        kept = self.data_plane.kept_headers
        if kept:
            found: dict[str, str] = {}
            for name, value in headers:
                if name in kept:
                    found.setdefault(name, value)
            context.headers = found
        return Call(context, now)

    def allow(self, call: Call, seconds: float) -> None:
        """Sets the client's own deadline, counted from the call's start and capped."""
        call.context.deadline = call.started + min(seconds, self.limits.max_timeout_s)

    def infer(
        self, call: Call, request: InferenceRequest, selection: Mapping[str, str]
    ) -> Coroutine[Any, Any, InferenceResponse]:
        """To be awaited, the data plane's answer, for the place that body and headers agree on.

        Raises INVALID_INPUT at once where they do not.
        """
        call.model = request.model.name
        if selection:
            request = merge_selection(request, **selection)
        return self.data_plane.infer(request, call.context)

    def start(self, call: Call, request: InferenceRequest, selection: Mapping[str, str], done: Done) -> Flying | None:
        """`infer` without a coroutine, as `DataPlane.begin` has it."""
        call.model = request.model.name
        return None if selection else self.data_plane.begin(request, call.context, done)

    def ask(
        self, call: Call, request: InferenceRequest, selection: Mapping[str, str]
    ) -> InferenceResponse | Coroutine[Any, Any, InferenceResponse]:
        """`infer` without a coroutine where that is possible: the answer, where it is there at once, else what is to be
        awaited for it.

        Raises what has gone wrong by now.
        """
        landing = Landing()
        flying = self.start(call, request, selection, landing.hear)
        if flying is None:
            return self.infer(call, request, selection)
        return landing.answer() if flying.ended else landing.wait(flying)

    def seconds_left(self, call: Call) -> float:
        """The time until the call's deadline; raises DEADLINE where there is none left."""
        left = call.context.deadline - self._clock.now()
        if left <= 0:
            raise GatewayError(Cause.DEADLINE, "the deadline had passed before the request could be sent")
        return left

    def abandoned(self, call: Call) -> Cause:
        """Why a call was cancelled from outside: its client's deadline, or else its client."""
        return call.context.cancelled_for(self._clock.now())

    def finish(self, call: Call, cause: Cause | None) -> None:
        """Reports the call to metrics and log. Front ends call it once, in a `finally`."""
        context = call.context
        seconds = self._clock.now() - call.started
        served_by = context.served_by
        if served_by is None:
            model, version, stack, endpoint = self._label(call.model), None, "", ""
        else:
            # What was asked at an endpoint is known.
            model, version, stack, endpoint = call.model, served_by.version, served_by.stack, served_by.endpoint
        observer = self._observer
        observer.request_finished(
            model=model, version=version, stack=stack, protocol=context.protocol, cause=cause, seconds=seconds
        )
        observer.phases_finished(protocol=context.protocol, seconds=context.timings.seconds)
        trace = context.trace
        if trace is not None:
            trace.finish(model=model, version=version, stack=stack, endpoint=endpoint, cause=cause)
        log_access(
            request_id=context.request_id,
            protocol=context.protocol,
            model=call.model[:128],
            stack=stack,
            endpoint=endpoint,
            cause=cause,
            seconds=seconds,
            trace=None if trace is None else (trace.trace_id, trace.span_id),
        )

    def refuse(self, protocol: str, request_id: str, cause: Cause) -> None:
        """Reports a request that reached no route; it has no trace."""
        now = self._clock.now()
        self.finish(Call(CallContext(request_id, protocol, now + self.limits.timeout_s), now), cause)

    def _label(self, model: str) -> str:
        # Unknown models share the label "": a name chosen by a client must not become a time series.
        return model if self.data_plane.has(model) else ""


def failure(request_id: str, exc: Exception) -> GatewayError:
    """`exc` as what a client is told: of our own bug it is told the id, and the log gets the exception."""
    if isinstance(exc, GatewayError):
        # Whoever keeps it stands in its traceback: the request in there would be left to the garbage collector.
        exc.__traceback__ = exc.__context__ = exc.__cause__ = None
        return exc
    logger.error("internal error in request %s", request_id, exc_info=exc)
    return GatewayError(Cause.INTERNAL, f"internal error; the gateway's log has it under request id {request_id}")


def request_id_from(sent: str | None) -> str:
    """The client's own id if it is a sane one, else a fresh one."""
    # No secret: an id need only be another one.
    return sent if sent is not None and _SANE_ID.fullmatch(sent) else getrandbits(128).to_bytes(16, "big").hex()


def seconds_from_milliseconds(text: str) -> float:
    """A timeout as a client writes it; raises UNPARSEABLE for anything but a number of milliseconds >= 0."""
    if not MILLISECONDS.fullmatch(text):
        raise GatewayError(Cause.UNPARSEABLE, "x-request-timeout-ms: expected a number of milliseconds, 0 or more")
    return float(text) / 1e3


def choose(selection: dict[str, str], name: str, value: str) -> None:
    """Adds what header `name` chooses; raises INVALID_INPUT where it is sent twice with different values."""
    field_name = SELECTION_HEADERS[name]
    if selection.setdefault(field_name, value) != value:
        raise GatewayError(Cause.INVALID_INPUT, f"{name} is sent twice with different values")


def served_by_header(served_by: ServedBy) -> str:
    """The value of `x-served-by`, as headers and gRPC metadata may carry it."""
    return _served_by(served_by.endpoint, served_by.stack, served_by.server, served_by.version, served_by.variant)


# There are few of them. Words are found faster than what is made of them, whose hash and equality are Python's.
@lru_cache(maxsize=1024)
def _served_by(endpoint: str, stack: str, server: str, version: int | None, variant: str | None) -> str:
    return header_text(ServedBy(endpoint, stack, server, version, variant).header())


def header_text(text: str) -> str:
    """`text` as a header and gRPC metadata may carry it: printable ASCII."""
    return _UNPRINTABLE.sub("?", text)
