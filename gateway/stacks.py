"""What stands around every call to one endpoint, in one place and in order.

For a request: `Gate > Batcher > BreakerRecord > AttemptMetrics > Backend`. Above the batcher things are counted per
request, below it once per upstream call.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Collection
from functools import cache

from gateway.batching.batcher import Batcher
from gateway.batching.fair_queue import BatchLimits
from gateway.core.backend import Asked, Cancel, Done, Middleware, Outcome, Start, compose, nothing
from gateway.core.clock import Clock
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest
from gateway.core.observer import NullObserver, Observer
from gateway.resilience.circuit_breaker import BreakerLimits, BreakerState, CircuitBreaker
from gateway.resilience.gate import gate, record, shut, tell
from gateway.routing.endpoint import Coalescing
from gateway.telemetry.middleware import attempt_metrics


class EndpointStack:
    """The slots and the batcher of an endpoint, and a circuit breaker for each model on it.

    `cancels` says whether the server stops working on a call that is cancelled; TorchServe does not.
    """

    def __init__(
        self,
        name: str,
        stack: str,
        *,
        slots: int,
        queue: int,
        clock: Clock,
        observer: Observer,
        cancels: bool = True,
        breaker: BreakerLimits | None = None,
    ) -> None:
        self._name = name
        self._stack = stack
        self._clock = clock
        self._observer = observer
        self._limits = breaker or BreakerLimits()
        self.batcher = Batcher(name, slots=slots, queue=queue, clock=clock, observer=observer, cancels=cancels)
        self._counted = attempt_metrics(observer, clock, endpoint=name, stack=stack)
        # Of copies, which are counted elsewhere, only the traces are told.
        self._traced = attempt_metrics(NullObserver(), clock, endpoint=name, stack=stack)
        self._breakers: dict[str, CircuitBreaker] = {}

    @property
    def idle(self) -> bool:
        """Whether a slot is free, so that a call would go out at once."""
        return self.batcher.idle

    def refusal(self, model: str, caller: str) -> GatewayError | None:
        """What the gates would refuse a request with now: an open breaker, a full queue."""
        breaker = self._breakers.get(model)
        if breaker is not None and not breaker.closed and not breaker.allows:
            return shut(breaker, endpoint=self._name, model=model)
        return self.batcher.refusal(caller)

    def around(self, model: str, limits_of: Coalescing, call: Asked) -> Asked:
        """For one target of a model's route; all of a model's targets here share one breaker."""
        breaker = self._breakers.get(model) or self._new_breaker(model)
        made = cache(BatchLimits)

        def batch_limits(request: InferenceRequest) -> BatchLimits | None:
            limits = limits_of(request)
            return None if limits is None else made(*limits)

        batcher = self.batcher
        inner = compose(call.handler, record(breaker, self._clock), self._counted)
        line = batcher.line(inner, batch_limits, None if call.start is None else self._sending(breaker, call.start))

        def start(request: InferenceRequest, context: CallContext, done: Done) -> Cancel | None:
            # A closed breaker lets everything through, and need not be told of what leaves.
            return batcher.start(line, request, context, done) if breaker.closed else None

        return Asked(compose(batcher.handler(line), gate(breaker, endpoint=self._name)), start)

    def _sending(self, breaker: CircuitBreaker, start: Start) -> Start:
        """What `record` and `attempt_metrics` are around a handler, around one that needs no coroutine."""
        now, observer, endpoint, stack = self._clock.now, self._observer, self._name, self._stack

        def send(request: InferenceRequest, context: CallContext, done: Done) -> Cancel | None:
            if context.trace is not None:
                # Of a batch, some of whose members are traced.
                return None
            begin = now()

            def ended(outcome: Outcome) -> None:
                at = now()
                seconds = at - begin
                cause: Cause | None = None
                if isinstance(outcome, BaseException):
                    cause = context.cause_of(outcome, at)
                    if isinstance(outcome, (GatewayError, CancelledError)):
                        tell(breaker, cause, seconds)
                else:
                    breaker.record(None)
                context.timings.add("upstream", seconds)
                observer.attempt_finished(
                    model=request.model.name, endpoint=endpoint, stack=stack, cause=cause, seconds=seconds
                )
                done(outcome)

            try:
                return start(request, context, ended)
            except Exception as exc:
                ended(exc)
                return nothing

        return send

    def around_mirror(self, model: str) -> tuple[Middleware, ...]:
        """For copies: a slot, but no gate, no say in what the breaker does, and metrics of their own."""
        return (self.batcher, self._traced)

    def keep(self, models: Collection[str]) -> None:
        """Forgets the breakers of all other models; calls that still end by one of them tell nobody."""
        for model in [model for model in self._breakers if model not in models]:
            del self._breakers[model]
            self._observer.breaker_gone(endpoint=self._name, model=model)

    def breaker(self, model: str) -> BreakerState:
        """The state of a model's breaker now."""
        breaker = self._breakers.get(model)
        return BreakerState.CLOSED if breaker is None else breaker.state

    def show_breakers(self) -> None:
        """Tells the observer of each breaker that is open no more because its time is over: perhaps nobody asked."""
        for breaker in self._breakers.values():
            _ = breaker.state

    async def close(self) -> None:
        """Ends the calls that run on their own."""
        await self.batcher.close()

    def _new_breaker(self, model: str) -> CircuitBreaker:
        def changed(state: BreakerState) -> None:
            # One that is forgotten may still hear of calls that were under way.
            if self._breakers.get(model) is breaker:
                self._observer.breaker_changed(endpoint=self._name, model=model, state=state.value)

        breaker = self._breakers[model] = CircuitBreaker(self._clock, self._limits, changed)
        # Shown from the start: a dashboard has to tell a closed breaker from none.
        changed(BreakerState.CLOSED)
        return breaker
