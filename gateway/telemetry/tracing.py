"""OpenTelemetry: spans of requests and of calls to model servers, sent to a collector by OTLP over gRPC.

The only module that imports OpenTelemetry's SDK, and imported only where tracing is switched on. A span is put in a
bounded queue as it ends, and a thread of its own sends them: a collector that is slow or gone costs spans, no request.
Contexts come and go as W3C Trace Context has them (https://www.w3.org/TR/trace-context/).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, format_span_id, format_trace_id, set_span_in_context
from opentelemetry.trace import Tracer as SdkTracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway import __version__
from gateway.core.errors import Cause
from gateway.core.trace import Attempt, Copy, Trace

logger = logging.getLogger(__name__)

# How many ended spans wait for the collector, in about 2 MB; the oldest are dropped for new ones.
MAX_WAITING_SPANS = 2048
SEND_EVERY_MS = 1000
SEND_TIMEOUT_S = 5.0
# How long the end of the gateway waits for the last spans to be sent, after the last request has ended.
FLUSH_SECONDS = 2.0
# A longer one would not fit beside what servers take of all headers; the standard asks to pass on as much as this.
MAX_TRACESTATE = 512

# What the gateway or a server failed; the rest is the client's own, and no error of the server's span.
FAULTS = frozenset(
    {
        Cause.OVERLOADED,
        Cause.NOT_READY,
        Cause.UPSTREAM_UNREACHABLE,
        Cause.UPSTREAM_LOST,
        Cause.UPSTREAM_BAD_REPLY,
        Cause.UPSTREAM_FAILED,
        Cause.DEADLINE,
        Cause.INTERNAL,
    }
)

_PROPAGATOR = TraceContextTextMapPropagator()


class OtelTracer:
    """Begins a span for each request, as a child of the client's where it sent one."""

    def __init__(self, tracer: SdkTracer) -> None:
        self._tracer = tracer

    def request(self, *, protocol: str, request_id: str, headers: Iterable[tuple[str, str]]) -> Trace:
        """The span of a request that begins now."""
        span = self._tracer.start_span(
            protocol,
            _client_context(headers),
            SpanKind.SERVER,
            {"twinserve.protocol": protocol, "twinserve.request_id": request_id},
        )
        return _Request(self._tracer, span)


class _Request:
    """The span of a client's request, and what hangs from it."""

    def __init__(self, tracer: SdkTracer, span: Span) -> None:
        self._tracer = tracer
        self.span = span

    @property
    def trace_id(self) -> str:
        return format_trace_id(self.span.get_span_context().trace_id)

    @property
    def span_id(self) -> str:
        return format_span_id(self.span.get_span_context().span_id)

    def queued(self, *, endpoint: str, seconds: float) -> None:
        if not self.span.is_recording():
            return
        now = time.time_ns()
        span = self._tracer.start_span(
            "queue",
            set_span_in_context(self.span, Context()),
            attributes={"twinserve.endpoint": endpoint},
            start_time=now - round(seconds * 1e9),
        )
        span.end(now)

    def attempt(self, company: Sequence[Trace], *, model: str, endpoint: str, stack: str) -> Attempt:
        members = [item.span for item in company if isinstance(item, _Request)] or [self.span]
        # The call belongs to one trace; the others of its batch are linked with it, in both directions.
        parent = next((span for span in members if span.is_recording()), self.span)
        span = self._tracer.start_span(
            f"infer {model}",
            set_span_in_context(parent, Context()),
            SpanKind.CLIENT,
            {
                "twinserve.model": model,
                "twinserve.endpoint": endpoint,
                "twinserve.stack": stack,
                "twinserve.batch.requests": len(members),
            },
            [Link(member.get_span_context()) for member in members] if len(members) > 1 else None,
        )
        for member in members:
            if member is not parent:
                member.add_link(span.get_span_context())
        return _Call(span)

    def copied(self, *, model: str, endpoint: str) -> Copy:
        span = self._tracer.start_span(
            "mirror",
            set_span_in_context(self.span, Context()),
            attributes={"twinserve.model": model, "twinserve.endpoint": endpoint},
        )
        return _Copy(self._tracer, span)

    def finish(self, *, model: str, version: int | None, stack: str, endpoint: str, cause: Cause | None) -> None:
        span = self.span
        if span.is_recording():
            told = {"model": model, "stack": stack, "endpoint": endpoint}
            span.set_attributes({f"twinserve.{name}": value for name, value in told.items() if value})
            if version is not None:
                span.set_attribute("twinserve.version", version)
            _tell_outcome(span, cause, failed=cause in FAULTS)
        span.end()


class _Copy(_Request):
    """The span of a request's copy, which may begin and end after the request's own has ended."""

    def compared(self, outcome: str) -> None:
        span = self.span
        span.set_attribute("twinserve.outcome", outcome)
        if outcome in FAULTS:
            span.set_attribute("error.type", outcome)
            span.set_status(StatusCode.ERROR, outcome)
        span.end()


class _Call:
    """The span of one call to a model server."""

    def __init__(self, span: Span) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(span, Context()))
        self.headers: Mapping[str, str] = carrier

    def finish(self, cause: Cause | None) -> None:
        _tell_outcome(self._span, cause, failed=cause is not None and cause is not Cause.CLIENT_GONE)
        self._span.end()


class _Telling(SpanExporter):
    """Sends spans, and says once when that begins to fail and when it works again."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._working = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        working = result is SpanExportResult.SUCCESS
        if working is not self._working:
            self._working = working
            if working:
                logger.info("spans reach the collector at %s again", self._endpoint)
            else:
                logger.warning(
                    "spans do not reach the collector at %s and are dropped; requests are answered all the same",
                    self._endpoint,
                )
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


@asynccontextmanager
async def tracing(endpoint: str, *, sample: float, service_name: str) -> AsyncIterator[OtelTracer]:
    """A tracer that sends its spans to the collector at `endpoint` (http://HOST:PORT, or https:// for TLS).

    A share `sample` of the traces begun here is recorded; where a client began one, its own decision holds. At the end
    of the block what waits is sent, for at most FLUSH_SECONDS.
    """
    # It reports each failed try, and quotes what clients send; what is worth knowing is said here.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    exporter = _Telling(OTLPSpanExporter(endpoint, timeout=SEND_TIMEOUT_S), endpoint)
    # In a thread, since it asks the machine what it is.
    provider = await asyncio.to_thread(_provider, exporter, sample, service_name)
    try:
        yield OtelTracer(provider.get_tracer("twinserve.gateway", __version__))
    finally:
        # Its own thread, a daemon: it may be waiting for a collector that never answers.
        flush = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
        flush.start()
        await asyncio.to_thread(flush.join, FLUSH_SECONDS)
        if flush.is_alive():
            # Ends the call under way and all later ones, and so the thread.
            await asyncio.to_thread(exporter.shutdown)


def _provider(exporter: SpanExporter, sample: float, service_name: str) -> TracerProvider:
    about = {"service.name": service_name, "service.version": __version__, "service.instance.id": str(uuid.uuid4())}
    provider = TracerProvider(ParentBased(TraceIdRatioBased(sample)), Resource.create(about), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, MAX_WAITING_SPANS, SEND_EVERY_MS))
    return provider


def _client_context(headers: Iterable[tuple[str, str]]) -> Context:
    """Where the client's trace is, empty where it sent none, or one that cannot be read."""
    parents = []
    states = []
    for name, value in headers:
        if name == "traceparent":
            parents.append(value)
        elif name == "tracestate":
            states.append(value)
    if len(parents) != 1:
        return Context()
    carrier = {"traceparent": parents}
    if states and sum(map(len, states)) <= MAX_TRACESTATE:
        carrier["tracestate"] = states
    return _PROPAGATOR.extract(carrier, Context())


def _tell_outcome(span: Span, cause: Cause | None, *, failed: bool) -> None:
    span.set_attribute("twinserve.outcome", "ok" if cause is None else cause.value)
    if cause is not None and failed:
        span.set_attribute("error.type", cause.value)
        span.set_status(StatusCode.ERROR, cause.value)
