"""A share of live traffic, sent to another endpoint as well, and what it answered there against what clients got.

The copy is sent after the client's answer is known and never touches it: it is a task of its own with its own deadline,
goes only where a slot is idle, and its failures count nowhere but here.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random

from gateway.core.backend import Handler, compose
from gateway.core.clock import Clock
from gateway.core.context import CallContext
from gateway.core.contract import ModelContract
from gateway.core.digest import digest
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, Selection
from gateway.core.observer import Observer
from gateway.core.trace import Trace
from gateway.routing.call import upstream_call
from gateway.routing.difference import Difference, difference
from gateway.routing.endpoint import Endpoint, Target
from gateway.routing.table import Route

logger = logging.getLogger(__name__)

# Copies under way at once; what comes while there are as many is not copied.
MOST = 8
# The largest differences that are kept.
WORST = 8


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One answer that was apart: by which request (its digest), how far, and at what time of the clock.

    `inputs` and the two answers are kept only where the operator asked for payloads.
    """

    digest: str
    difference: Difference
    at: float
    request: InferenceRequest | None = None
    answered: InferenceResponse | None = None
    mirrored: InferenceResponse | None = None


@dataclass(slots=True)
class MirrorReport:
    """What a mirror has seen: counts by outcome, and the worst differences, worst first."""

    outcomes: dict[str, int] = field(default_factory=dict)
    worst: list[Mismatch] = field(default_factory=list)


class Mirror:
    """Copies a `share` (0 to 1) of one route's requests to `handler`, the way to `target`.

    A target without a version gets whatever the client asked for. `idle` says whether its endpoint has a free slot.
    `close` ends what is under way.
    """

    def __init__(
        self,
        contract: ModelContract,
        target: Target,
        handler: Handler,
        *,
        share: float,
        idle: Callable[[], bool],
        clock: Clock,
        observer: Observer,
        random: Random,
        timeout_s: float = 30.0,
        keep_payloads: bool = False,
    ) -> None:
        self._contract = contract
        self._target = target
        self._handler = handler
        self._share = share
        self._idle = idle
        self._clock = clock
        self._observer = observer
        self._random = random
        self._timeout_s = timeout_s
        self._keep_payloads = keep_payloads
        self._tasks: set[asyncio.Task[None]] = set()
        self._outcomes: dict[str, int] = {}
        self._worst: list[tuple[float, int, Mismatch]] = []
        self._numbers = count()

    def offer(
        self,
        request: InferenceRequest,
        response: InferenceResponse,
        protocol: str,
        answered: Target | None = None,
        trace: Trace | None = None,
    ) -> None:
        """A request of this route, by `protocol`, has got its answer from `answered`: perhaps a copy of it is sent.

        The copy is a part of the request's trace, where it has one.
        """
        if self._random.random() >= self._share:
            return
        if answered is not None and self._is_the_same(answered, request, response):
            self._finish("same_endpoint")
        elif len(self._tasks) >= MOST or not self._idle():
            self._finish("skipped")
        else:
            task = asyncio.create_task(self._compare(request, response, protocol, trace), name="mirror")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def point(self, contract: ModelContract, handler: Handler, idle: Callable[[], bool]) -> None:
        """From now on copies go this way, by this contract; what was seen is kept."""
        self._contract, self._handler, self._idle = contract, handler, idle

    @property
    def busy(self) -> bool:
        """Whether copies are under way."""
        return bool(self._tasks)

    def report(self) -> MirrorReport:
        """What was seen since the mirror was made."""
        worst = sorted(self._worst, key=lambda item: item[:2], reverse=True)
        return MirrorReport(dict(self._outcomes), [mismatch for _, _, mismatch in worst])

    async def close(self) -> None:
        """Ends the copies that are under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _is_the_same(self, answered: Target, request: InferenceRequest, response: InferenceResponse) -> bool:
        """Whether a copy would be answered by what has answered: another version, or model, of an endpoint is not."""
        if (answered.endpoint, answered.model) != (self._target.endpoint, self._target.model):
            return False
        wanted = request.model.version
        copied = wanted if self._target.version is None else self._target.version
        return copied in (response.version, answered.version if wanted is None else wanted)

    async def _compare(
        self, request: InferenceRequest, response: InferenceResponse, protocol: str, trace: Trace | None
    ) -> None:
        if not self._idle():
            # Since it was offered, clients' requests, or copies that were offered with it, have taken the slots.
            self._finish("skipped")
            return
        begin = self._clock.now()
        copied = None if trace is None else trace.copied(model=self._contract.name, endpoint=self._target.endpoint)
        context = CallContext("mirror", protocol, begin + self._timeout_s, trace=copied)
        # The mirror's own version, where it has one, rather than the one that the client chose for its answer.
        version = self._target.version
        spec = request.model if version is None else replace(request.model, version=version)
        copy = replace(request, model=spec, selection=Selection())
        found: Difference | None = None
        # What remains of a copy that the mirror's end cut short.
        outcome = "closed"
        try:
            async with asyncio.timeout(self._timeout_s):
                mirrored = await self._handler(copy, context)
            found = difference(self._contract, mirrored.outputs, response.outputs)
            outcome = "ok" if found.agrees else "mismatch"
            if not found.agrees:
                self._keep(request, response, mirrored, found)
        except GatewayError as exc:
            outcome = exc.cause.value
        except TimeoutError:
            outcome = Cause.DEADLINE.value
        except Exception:
            outcome = Cause.INTERNAL.value
            logger.exception("mirroring model %s to endpoint %s failed", self._contract.name, self._target.endpoint)
        finally:
            if copied is not None:
                copied.compared(outcome)
        self._finish(outcome, self._clock.now() - begin, found)

    def _finish(self, outcome: str, seconds: float | None = None, found: Difference | None = None) -> None:
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        self._observer.mirror_finished(
            model=self._contract.name,
            endpoint=self._target.endpoint,
            outcome=outcome,
            seconds=seconds,
            difference=None if found is None else found.max_scaled,
        )

    def _keep(
        self, request: InferenceRequest, response: InferenceResponse, mirrored: InferenceResponse, found: Difference
    ) -> None:
        payloads = (request, response, mirrored) if self._keep_payloads else (None, None, None)
        mismatch = Mismatch(digest(request).hex(), found, self._clock.now(), *payloads)
        heapq.heappush(self._worst, (found.max_scaled, -next(self._numbers), mismatch))
        if len(self._worst) > WORST:
            heapq.heappop(self._worst)


def mirror_of(
    model: str,
    route: Route,
    endpoints: Mapping[str, Endpoint],
    before: Mirror | None,
    *,
    clock: Clock,
    observer: Observer,
    random: Random,
) -> Mirror | None:
    """The mirror of a model's route, None where it has none: the one from `before`, which goes on, or a new one."""
    rules = route.traffic.mirror
    if rules is None:
        return None
    endpoint = endpoints[rules.target.endpoint]
    surroundings = endpoint.surroundings
    handler = compose(upstream_call(endpoint, rules.target, route).handler, *surroundings.around_mirror(model))
    if before is not None:
        before.point(route.main, handler, lambda: surroundings.idle)
        return before
    return Mirror(
        route.main,
        rules.target,
        handler,
        share=rules.share,
        idle=lambda: surroundings.idle,
        clock=clock,
        observer=observer,
        random=random,
        keep_payloads=rules.keep_payloads,
    )
