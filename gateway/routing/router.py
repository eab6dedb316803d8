"""From a model to an endpoint: the policy picks among the targets that are fit, and the endpoint's stack is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.core.backend import Handler, compose
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec, Selection, ServedBy
from gateway.core.tensor import Tensor
from gateway.routing.endpoint import Endpoint, Status, Target, Verdict
from gateway.routing.health import HealthMonitor
from gateway.routing.policies import eligible
from gateway.routing.table import Route, RouteTable

# A refusal by an endpoint's own gate: nothing was sent, so the next candidate is asked at no cost.
REFUSED_AT_THE_GATE = frozenset({Cause.OVERLOADED, Cause.NOT_READY})


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A table with the handlers of its targets, in their order: replaced whole, so that no request sees half of two."""

    table: RouteTable
    handlers: Mapping[str, tuple[Handler, ...]]


class Router:
    """Sends each request to one endpoint. Holds no state of its own beside the table and its prepared handlers."""

    def __init__(self, table: RouteTable, endpoints: Mapping[str, Endpoint], health: HealthMonitor) -> None:
        self._endpoints = dict(endpoints)
        self._health = health
        self.replace(table)

    def replace(self, table: RouteTable) -> None:
        """From now on requests are routed by this table, and health follows it; those under way end by the old one."""
        handlers = {
            name: tuple(
                compose(
                    _call(self._endpoints[target.endpoint], target, route), *self._endpoints[target.endpoint].middleware
                )
                for target in route.targets
            )
            for name, route in table.routes.items()
        }
        self._current = _Prepared(table, handlers)
        self._health.follow(table)

    @property
    def table(self) -> RouteTable:
        """The routes now."""
        return self._current.table

    def route(self, model: str) -> Route:
        """The route of a model; raises MODEL_NOT_FOUND, and NOT_READY where it is known or looked for."""
        try:
            return self.table.route(model)
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

    def versions(self, model: str) -> tuple[int, ...]:
        """The versions that some fit endpoint can answer with, newest first."""
        verdicts = (self._health.verdict(model, target) for target in self.route(model).targets)
        found = {version for verdict in verdicts if verdict.status is Status.READY for version in verdict.versions}
        return tuple(sorted(found, reverse=True))

    def unfit(self, model: str) -> str:
        """Why no endpoint can answer for `model`, endpoint by endpoint; raises MODEL_NOT_FOUND."""
        return self._reasons(model, self.route(model).targets)

    def model_ready(self, spec: ModelSpec, selection: Selection) -> bool:
        """Whether a request for `spec` with this selection would find a fit endpoint; raises MODEL_NOT_FOUND."""
        route = self.route(spec.name)
        return any(
            verdict.status is Status.READY and spec.version in (None, *verdict.versions)
            for verdict in (
                self._health.verdict(spec.name, target)
                for target in eligible(route.main, route.targets, self._endpoints, selection)
            )
        )

    async def dispatch(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """Sends the request to the first fit target that its policy and its selection allow."""
        current = self._current
        route = current.table.route(request.model.name)
        targets = eligible(route.main, route.targets, self._endpoints, request.selection)
        fit = self._fit(request.model, targets)
        refusal: GatewayError | None = None
        for target, verdict in fit:
            endpoint = self._endpoints[target.endpoint]
            context.served_by = ServedBy(endpoint.name, endpoint.stack, endpoint.server, None)
            handler = current.handlers[request.model.name][route.targets.index(target)]
            try:
                response = await handler(request, context)
            except GatewayError as exc:
                if exc.cause not in REFUSED_AT_THE_GATE:
                    raise
                # Refused at the gate: this endpoint has not seen the request.
                refusal, context.served_by = exc, None
                continue
            # TensorFlow Serving's REST answers do not name their version: it is then the newest one, by its own policy.
            stated = (response.version, request.model.version, *verdict.versions)
            version = next(number for number in stated if number is not None)
            context.served_by = replace(context.served_by, version=version)
            return replace(
                response, model=request.model.name, version=version, id=request.id, served_by=context.served_by
            )
        raise refusal if refusal is not None else self._none_fit(request.model, targets)

    def _fit(self, spec: ModelSpec, targets: list[Target]) -> list[tuple[Target, Verdict]]:
        verdicts = [(target, self._health.verdict(spec.name, target)) for target in targets]
        ready = [(target, verdict) for target, verdict in verdicts if verdict.status is Status.READY]
        if spec.version is None:
            return ready
        having = [(target, verdict) for target, verdict in ready if spec.version in verdict.versions]
        if ready and not having:
            found = ", ".join(map(str, ready[0][1].versions))
            raise GatewayError(
                Cause.VERSION_NOT_FOUND, f"model '{spec.name}' has no version {spec.version}; its versions: {found}"
            )
        return having

    def _none_fit(self, spec: ModelSpec, targets: list[Target]) -> GatewayError:
        reasons = self._reasons(spec.name, targets)
        return GatewayError(
            Cause.NOT_READY, f"no endpoint can answer for model '{spec.name}' now: {reasons}", retry_after_s=1.0
        )

    def _reasons(self, model: str, targets: Sequence[Target]) -> str:
        return "; ".join(
            f"endpoint '{target.endpoint}' is {verdict.status.value}: {verdict.reason}"
            for target, verdict in ((target, self._health.verdict(model, target)) for target in targets)
        )


def _call(endpoint: Endpoint, target: Target, route: Route) -> Handler:
    """The innermost handler: the server's own names go out, the contract's come back, checked."""
    theirs = dict(target.names)
    ours = {their: own for own, their in theirs.items()}

    def renamed(tensors: tuple[Tensor, ...], names: Mapping[str, str]) -> tuple[Tensor, ...]:
        if not names:
            return tensors
        return tuple(Tensor(names.get(item.name, item.name), item.datatype, item.array) for item in tensors)

    async def call(request: InferenceRequest, context: CallContext) -> InferenceResponse:
        version = request.model.version if request.model.version is not None else target.version
        spec = replace(request.model, name=target.model, version=version)
        sent = replace(
            request,
            model=spec,
            inputs=renamed(request.inputs, theirs),
            wanted=tuple(theirs.get(name, name) for name in request.wanted),
        )
        response = await endpoint.backend.infer(sent, context)
        contract = route.contract(request.model.signature_name)
        return contract.check_response(request, replace(response, outputs=renamed(response.outputs, ours)))

    return call
