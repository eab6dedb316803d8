"""From a model to an endpoint: the policy orders the targets, and the first that takes the request answers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from gateway.core.backend import Cancel, Done, Handler, Start
from gateway.core.clock import Clock, SystemClock
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError, RefusedError
from gateway.core.messages import ANYWHERE, InferenceRequest, InferenceResponse, ModelSpec, Selection
from gateway.core.observer import NullObserver, Observer
from gateway.routing.call import coalescing, upstream_call
from gateway.routing.compare import Way, compared
from gateway.routing.endpoint import Endpoint, Status, Target
from gateway.routing.health import HealthMonitor
from gateway.routing.load import Load
from gateway.routing.mirror import Mirror, MirrorReport, mirror_of
from gateway.routing.path import Flight, Path
from gateway.routing.policies import Candidate, Policy, policy, sticky_key
from gateway.routing.retry import RetryBudget, retryable, spendable
from gateway.routing.selection import eligible, variant_of
from gateway.routing.table import Route, RouteTable, Traffic
from gateway.routing.under_way import UnderWay

# Policies whose order is the listed one: a request's stack is the first target's, fit or not.
LISTED_ORDER = frozenset({"failover", "pinned", "compare"})
# Only these requests can show several answers.
COMPARING_PROTOCOL = "predict"


@dataclass(frozen=True, slots=True)
class _Prepared:
    """One route, ready to be used. What it counts goes on where the next table has the same traffic rules.

    `paths` are for requests that name no target; `every` has those that answer only by name too. `straight` is how the
    only one of `paths` is asked where nothing else is to be decided; `failed` is told how that failed.
    """

    route: Route
    every: tuple[Path, ...]
    paths: tuple[Path, ...]
    policy: Policy
    budget: RetryBudget
    mirror: Mirror | None
    straight: Start | None
    failed: Callable[[GatewayError], None]


class Router:
    """Sends each request to one endpoint, or to all that are compared. The table of routes is replaced whole."""

    def __init__(
        self,
        table: RouteTable,
        endpoints: Mapping[str, Endpoint],
        health: HealthMonitor,
        *,
        clock: Clock | None = None,
        observer: Observer | None = None,
        random: Random | None = None,
    ) -> None:
        self._endpoints = dict(endpoints)
        self._health = health
        self._clock = clock or SystemClock()
        self._observer = observer or NullObserver()
        # Chance spreads load here and guards nothing.
        self._random = random or Random()  # noqa: S311
        self._table = RouteTable({})
        self._prepared: dict[str, _Prepared] = {}
        self._under_way = UnderWay()
        self._retired: list[Mirror] = []
        self.kept_headers: frozenset[str] = frozenset()
        """The headers, in lower case, that some route holds on to; front ends keep them in the call's context."""
        self.replace(table)

    def replace(
        self,
        table: RouteTable,
        endpoints: Mapping[str, Endpoint] | None = None,
        health: HealthMonitor | None = None,
    ) -> None:
        """From now on requests are routed by this table, and health follows it; those under way end by the old one.

        With `endpoints`, to these, by what `health` says of them; `under_way` then counts anew.
        """
        if endpoints is not None:
            self._endpoints = dict(endpoints)
            self._under_way = UnderWay()
        if health is not None:
            self._health = health
        before = self._prepared
        self._prepared = {name: self._prepare(name, route, before.get(name)) for name, route in table.routes.items()}
        kept = {id(prepared.mirror) for prepared in self._prepared.values()}
        self._retired = [mirror for mirror in self._retired if mirror.busy]
        self._retired += [item.mirror for item in before.values() if item.mirror and id(item.mirror) not in kept]
        self._table = table
        headers = (route.traffic.sticky_header for route in table.routes.values())
        self.kept_headers = frozenset(header for header in headers if header is not None)
        for name, endpoint in self._endpoints.items():
            endpoint.surroundings.keep(table.circuits_at(name))
        self._health.follow(table)
        left = {name: spendable(item.budget, item.route) for name, item in self._prepared.items()}
        self._observer.routes_changed(budgets=left)

    @property
    def under_way(self) -> UnderWay:
        """The requests that were started on the endpoints of now."""
        return self._under_way

    @property
    def health(self) -> HealthMonitor:
        """What says which endpoints are fit."""
        return self._health

    @property
    def table(self) -> RouteTable:
        """The routes now."""
        return self._table

    def route(self, model: str) -> Route:
        """The route of a model; raises MODEL_NOT_FOUND, and NOT_READY where it is known or looked for."""
        found = self._table.routes.get(model)
        if found is not None:
            return found
        try:
            return self._table.route(model)
        except GatewayError as exc:
            if exc.cause is not Cause.MODEL_NOT_FOUND or not self._health.seek(model):
                raise
        raise GatewayError(
            Cause.NOT_READY, f"model '{model}' is being looked for; ask again in a second", retry_after_s=1.0
        )

    def resolve(self, spec: ModelSpec) -> ModelSpec:
        """What `RouteTable.resolve` makes of `spec`; raises what it and `route` raise."""
        self.route(spec.name)
        return self.table.resolve(spec)

    def mirrors(self) -> dict[str, MirrorReport]:
        """What the mirror of each mirrored model has seen."""
        return {name: item.mirror.report() for name, item in self._prepared.items() if item.mirror is not None}

    async def close(self) -> None:
        """Ends the copies of requests that are under way."""
        for mirror in [*self._retired, *(item.mirror for item in self._prepared.values() if item.mirror is not None)]:
            await mirror.close()

    def versions(self, model: str) -> tuple[int, ...]:
        """The versions that some fit endpoint can answer with, newest first."""
        verdicts = (self._health.verdict(model, target) for target in self.route(model).unnamed)
        found = {version for verdict in verdicts if verdict.status is Status.READY for version in verdict.versions}
        return tuple(sorted(found, reverse=True))

    def unfit(self, model: str) -> str:
        """Why no endpoint can answer for `model`, endpoint by endpoint; raises MODEL_NOT_FOUND."""
        return self._reasons(model, self.route(model).unnamed)

    def model_ready(self, spec: ModelSpec, selection: Selection) -> bool:
        """Whether a request for `spec` with this selection would find a fit endpoint; raises MODEL_NOT_FOUND."""
        route = self.route(spec.name)
        paths: Sequence[Path] = self._chosen(self._prepared[spec.name], selection)
        if route.traffic.policy in LISTED_ORDER:
            paths = self._allowed(route.traffic, paths)
        return any(path.fits(spec) for path in paths)

    def refusal(self, model: str, caller: str) -> GatewayError | None:
        """What any request of `caller` for a model would be refused with now, whatever it is: no target can take one.

        None where one can, and for a model that has no route. Nothing is sent, and nothing taken.
        """
        prepared = self._prepared.get(model)
        if prepared is None:
            return None
        refusal: GatewayError | None = None
        for path in prepared.every:
            if path.verdict(model).status is Status.READY:
                found = path.endpoint.surroundings.refusal(path.target.circuit(model), caller)
                if found is None:
                    return None
                refusal = refusal or found
        return refusal or self._none_fit(ModelSpec(model), prepared.route.targets)

    async def dispatch(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """Sends the request along the order that its route's policy gives, until a target takes it.

        A gate's refusal costs nothing; a failure of a request that was certainly not processed is tried once more at an
        endpoint that has not seen it, in the route's budget. Everything else is told to the client.
        """
        model = request.model.name
        route = self.route(model)
        prepared = self._prepared[model]
        traffic = route.traffic
        under_way = self._under_way
        under_way.count += 1
        try:
            if traffic.policy == "compare" and context.protocol == COMPARING_PROTOCOL and request.selection == ANYWHERE:
                return await compared(route, request, context, self._ways(prepared, request), self._clock)
            response, answered = await self._first_to_answer(prepared, request, context)
            rules, mirror = traffic.mirror, prepared.mirror
            if mirror is not None and rules is not None and _fits(self._health, ModelSpec(model), rules.target):
                mirror.offer(request, response, context.protocol, answered, context.trace)
            return response
        finally:
            under_way.leave()

    def start(self, request: InferenceRequest, context: CallContext, done: Done) -> Cancel | None:
        """`dispatch` without a coroutine, for a request that can go only one way; None where it is not that simple."""
        spec = request.model
        prepared = self._prepared[spec.name]
        start = prepared.straight
        if start is None or request.selection is not ANYWHERE or spec.version is not None or context.trace is not None:
            return None
        path = prepared.paths[0]
        verdict = path.verdict(spec.name)
        if not verdict.answers(spec):
            return None
        flight = Flight(path, verdict, request, context, done, self._clock, self._under_way, prepared.failed)
        cancel = flight.start(start)
        if cancel is not None:
            prepared.budget.deposit()
        return cancel

    def explain(self, request: InferenceRequest, context: CallContext) -> list[tuple[Target, str]]:
        """Where a request would go now: the targets in the order of this one draw, each with why it is (not) fit."""
        self.route(request.model.name)
        prepared = self._prepared[request.model.name]
        order = self._order(prepared, request, context)
        allowed = self._allowed(prepared.route.traffic, order)
        return [(path.target, self._standing(request.model, path, path in allowed)) for path in order]

    async def _first_to_answer(
        self, prepared: _Prepared, request: InferenceRequest, context: CallContext
    ) -> tuple[InferenceResponse, Target]:
        model, budget = request.model.name, prepared.budget
        budget.deposit()
        tried: set[str] = set()
        failure: GatewayError | None = None
        refusal: GatewayError | None = None
        order = self._allowed(prepared.route.traffic, self._order(prepared, request, context))
        for path in order:
            verdict = path.verdict(model)
            if path.endpoint.name in tried or not verdict.answers(request.model):
                continue
            if failure is not None and not budget.withdraw():
                self._observer.retried(model=model, outcome="budget")
                raise failure
            before = context.served_by
            try:
                return await path.ask(verdict, request, context), path.target
            except RefusedError as exc:
                # This endpoint has not seen the request.
                refusal, context.served_by = refusal or exc, before
                if failure is not None:
                    budget.refund()
            except GatewayError as exc:
                tried.add(path.endpoint.name)
                if failure is not None:
                    self._observer.retried(model=model, outcome="sent")
                if not retryable(exc) or len(tried) >= prepared.route.traffic.max_attempts:
                    raise
                failure = exc
        if failure is not None:
            self._observer.retried(model=model, outcome="candidates")
            raise failure
        raise refusal if refusal is not None else self._none_fit(request.model, [path.target for path in order])

    def _chosen(self, prepared: _Prepared, selection: Selection) -> list[Path]:
        """The paths that a client's selection leaves, in listed order; raises as `eligible` does."""
        if selection == ANYWHERE:
            return list(prepared.paths)
        route = prepared.route
        chosen = {target.key for target in eligible(route, self._endpoints, selection)}
        return [path for path in prepared.every if path.target.key in chosen]

    def _order(self, prepared: _Prepared, request: InferenceRequest, context: CallContext) -> Sequence[Path]:
        """The paths that the client's selection leaves, in the order of the route's policy."""
        traffic, spec = prepared.route.traffic, request.model
        if len(prepared.paths) == 1 and request.selection is ANYWHERE and spec.version is None:
            return prepared.paths
        paths = self._chosen(prepared, request.selection)
        if spec.version is not None:
            paths = [path for path in paths if path.target.version in (None, spec.version)]
            if not paths:
                raise self._no_version(spec)
        if len(paths) == 1:
            return paths
        candidates = [Candidate(path.target, path.load, path.fits(spec)) for path in paths]
        ordered = prepared.policy(candidates, lambda: sticky_key(traffic.sticky_header, request, context))
        by_key = {path.target.key: path for path in paths}
        return [by_key[candidate.target.key] for candidate in ordered]

    def _allowed(self, traffic: Traffic, order: Sequence[Path]) -> Sequence[Path]:
        """Of paths in a policy's order those that may be tried: all, or those of the first one's stack, or one."""
        if len(order) == 1 or traffic.policy == "pinned":
            return order[:1]
        if traffic.cross_stack:
            return order
        return [path for path in order if path.endpoint.stack == order[0].endpoint.stack]

    def _ways(self, prepared: _Prepared, request: InferenceRequest) -> list[Way]:
        """All fit targets, each as a way to ask it alone, the primary's first."""

        def asking(path: Path) -> Handler:
            async def ask(asked: InferenceRequest, context: CallContext) -> InferenceResponse:
                return await path.ask(path.verdict(asked.model.name), asked, context)

            return ask

        ways = [
            Way(path.endpoint.name, path.endpoint.stack, asking(path))
            for path in prepared.paths
            if path.fits(request.model)
        ]
        if not ways:
            raise self._none_fit(request.model, prepared.route.unnamed)
        return ways

    def _standing(self, spec: ModelSpec, path: Path, allowed: bool) -> str:
        """Why a request would, or would not, be sent along `path`."""
        verdict = self._health.verdict(spec.name, path.target)
        if not allowed:
            return "not tried: the route stays with the stack, or the target, that comes first"
        if verdict.status is not Status.READY:
            return f"not fit: {verdict.status.value}: {verdict.reason}"
        return "fit" if path.fits(spec) else f"not fit: it has no version {spec.version}"

    def _none_fit(self, spec: ModelSpec, targets: Sequence[Target]) -> GatewayError:
        if any(_fits(self._health, ModelSpec(spec.name), target) for target in targets):
            return self._no_version(spec)
        reasons = self._reasons(spec.name, targets)
        return GatewayError(
            Cause.NOT_READY, f"no endpoint can answer for model '{spec.name}' now: {reasons}", retry_after_s=1.0
        )

    def _no_version(self, spec: ModelSpec) -> GatewayError:
        found = ", ".join(map(str, self.versions(spec.name))) or "none"
        return GatewayError(
            Cause.VERSION_NOT_FOUND, f"model '{spec.name}' has no version {spec.version}; its versions: {found}"
        )

    def _reasons(self, model: str, targets: Sequence[Target]) -> str:
        return "; ".join(
            f"endpoint '{target.endpoint}' is {verdict.status.value}: {verdict.reason}"
            for target, verdict in ((target, self._health.verdict(model, target)) for target in targets)
        )

    def _prepare(self, name: str, route: Route, before: _Prepared | None) -> _Prepared:
        same = before if before is not None and before.route.traffic == route.traffic else None
        loads = {} if before is None else {path.target.key: path.load for path in before.every}
        paths = []
        for target in route.targets:
            endpoint = self._endpoints[target.endpoint]
            load = loads.get(target.key) or Load(self._clock)
            bare = upstream_call(endpoint, target, route)
            call = endpoint.surroundings.around(target.circuit(name), coalescing(route, target), bare)
            variant = variant_of(target, endpoint.stack, route.main)
            paths.append(Path.of(target, endpoint, call, load, self._health, variant))
        mirror = mirror_of(
            name,
            route,
            self._endpoints,
            None if same is None else same.mirror,
            clock=self._clock,
            observer=self._observer,
            random=self._random,
        )
        unnamed = tuple(path for path in paths if not path.target.by_name)
        simple = len(unnamed) == 1 and mirror is None and route.traffic.policy != "compare"

        def failed(error: GatewayError) -> None:
            # There is nobody else to ask.
            if retryable(error) and route.traffic.max_attempts > 1:
                self._observer.retried(model=name, outcome="candidates")

        return _Prepared(
            route,
            tuple(paths),
            unnamed,
            policy(route.traffic.policy, self._random) if same is None else same.policy,
            RetryBudget(route.traffic.retry_budget) if same is None else same.budget,
            mirror,
            unnamed[0].call.start if simple else None,
            failed,
        )


def _fits(health: HealthMonitor, spec: ModelSpec, target: Target) -> bool:
    return health.verdict(spec.name, target).answers(spec)
