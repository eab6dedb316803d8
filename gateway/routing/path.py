"""One target of a route with the way to it, which a request can go in two forms.

As a handler, in a coroutine, and as a `Flight`, in straight functions, where a route leaves nothing to decide: one
target, no mirror, nothing compared. Both count and tell the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from gateway.core.backend import Asked, Cancel, Done, Handler, Outcome, Start, nothing
from gateway.core.clock import Clock
from gateway.core.context import CallContext
from gateway.core.errors import GatewayError, RefusedError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec, ServedBy
from gateway.routing.endpoint import Endpoint, Target, Verdict
from gateway.routing.health import HealthMonitor
from gateway.routing.load import Load
from gateway.routing.under_way import UnderWay

# There are few of them, and what is made of one is found again by it.
_served_by = lru_cache(maxsize=1024)(ServedBy)


@dataclass(frozen=True, slots=True)
class Path:
    """One target of a route, with the way to it."""

    target: Target
    endpoint: Endpoint
    call: Asked
    load: Load
    health: HealthMonitor
    """What said how the target is when the path was made: a request that started by it asks nobody else."""
    variant: str | None
    handler: Handler
    """The call, counted as load."""

    @classmethod
    def of(
        cls, target: Target, endpoint: Endpoint, call: Asked, load: Load, health: HealthMonitor, variant: str | None
    ) -> Path:
        """The path to a target by `call`."""
        return cls(target, endpoint, call, load, health, variant, load(call.handler))

    def verdict(self, model: str) -> Verdict:
        """What the last check said of the target."""
        return self.health.verdict(model, self.target)

    def fits(self, spec: ModelSpec) -> bool:
        """Whether the target can answer for `spec`."""
        return self.verdict(spec.name).answers(spec)

    async def ask(self, verdict: Verdict, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """The target's answer, with what gave it; `context` knows of it also where it fails."""
        context.served_by = self.asked
        return self.answered(verdict, request, context, await self.handler(request, context))

    @property
    def asked(self) -> ServedBy:
        """Who is asked; which version answers is not known yet."""
        return _served_by(self.endpoint.name, self.endpoint.stack, self.endpoint.server, None, self.variant)

    def answered(
        self, verdict: Verdict, request: InferenceRequest, context: CallContext, response: InferenceResponse
    ) -> InferenceResponse:
        """The server's answer as the client's, with what gave it."""
        endpoint, spec = self.endpoint, request.model
        version = response.version if response.version is not None else spec.version
        if version is None:
            # TensorFlow Serving's REST answers do not name their version: it is then the newest one, by its own policy.
            version = verdict.versions[0]
        served_by = _served_by(endpoint.name, endpoint.stack, endpoint.server, version, self.variant)
        context.served_by = served_by
        # Made by hand, since dataclasses.replace costs twice as much, for every request.
        return InferenceResponse(
            spec.name, version, response.outputs, response.parameters, request.id, served_by, response.comparison
        )


class Flight:
    """One request on its way to the only target of its route, from the router down and back."""

    __slots__ = ("_begin", "_clock", "_context", "_done", "_failed", "_path", "_request", "_under_way", "_verdict")

    def __init__(
        self,
        path: Path,
        verdict: Verdict,
        request: InferenceRequest,
        context: CallContext,
        done: Done,
        clock: Clock,
        under_way: UnderWay,
        failed: Callable[[GatewayError], None],
    ) -> None:
        self._path = path
        self._verdict = verdict
        self._request = request
        self._context = context
        self._done = done
        self._clock = clock
        self._under_way = under_way
        self._failed = failed

    def start(self, start: Start) -> Cancel | None:
        """Sends it; None, and nothing has happened, where it cannot be sent at once."""
        path, context = self._path, self._context
        context.served_by = path.asked
        self._begin = self._clock.now()
        path.load.outstanding += 1
        self._under_way.count += 1
        try:
            cancel = start(self._request, context, self.ended)
        except Exception as exc:
            self.ended(exc)
            return nothing
        if cancel is None:
            context.served_by = None
            path.load.outstanding -= 1
            self._under_way.leave()
        return cancel

    def ended(self, outcome: Outcome) -> None:
        """Hears how it ended."""
        path = self._path
        path.load.outstanding -= 1
        if isinstance(outcome, InferenceResponse):
            path.load.answered(self._clock.now() - self._begin)
            outcome = path.answered(self._verdict, self._request, self._context, outcome)
        elif isinstance(outcome, RefusedError):
            # This endpoint has not seen the request.
            self._context.served_by = None
        elif isinstance(outcome, GatewayError):
            self._failed(outcome)
        self._under_way.leave()
        self._done(outcome)
