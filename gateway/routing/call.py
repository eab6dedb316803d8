"""The innermost handler of a target: the server's own names go out, the contract's come back, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gateway.core.backend import Asked, Cancel, Done, Outcome, Start
from gateway.core.context import CallContext
from gateway.core.contract import ModelContract
from gateway.core.messages import DEFAULT_SIGNATURE, InferenceRequest, InferenceResponse, ModelSpec
from gateway.core.tensor import Tensor
from gateway.routing.endpoint import Coalescing, Endpoint, Target
from gateway.routing.table import Route


def upstream_call(endpoint: Endpoint, target: Target, route: Route) -> Asked:
    """What asks `endpoint` for a target of `route`."""
    theirs = dict(target.names)
    ours = {their: own for own, their in theirs.items()}

    def renamed(tensors: tuple[Tensor, ...], names: Mapping[str, str]) -> tuple[Tensor, ...]:
        if not names:
            return tensors
        return tuple(Tensor(names.get(item.name, item.name), item.datatype, item.array) for item in tensors)

    def translated(request: InferenceRequest) -> InferenceRequest:
        spec = request.model
        version = spec.version if spec.version is not None else target.version
        if not theirs and version == spec.version and target.model == spec.name:
            return request
        # Made by hand, since dataclasses.replace costs twice as much, for every request.
        return InferenceRequest(
            ModelSpec(target.model, version, spec.label, spec.signature_name),
            renamed(request.inputs, theirs),
            tuple([theirs.get(name, name) for name in request.wanted]),
            request.parameters,
            request.id,
            request.selection,
        )

    def checked(request: InferenceRequest, response: InferenceResponse) -> InferenceResponse:
        if ours:
            response = replace(response, outputs=renamed(response.outputs, ours))
        return route.contract(request.model.signature_name).check_response(request, response)

    async def call(request: InferenceRequest, context: CallContext) -> InferenceResponse:
        return checked(request, await endpoint.backend.infer(translated(request), context))

    begin: Start | None = getattr(endpoint.backend, "start", None)
    if begin is None:
        return Asked(call)

    def start(request: InferenceRequest, context: CallContext, done: Done) -> Cancel | None:
        def ended(outcome: Outcome) -> None:
            if isinstance(outcome, InferenceResponse):
                try:
                    outcome = checked(request, outcome)
                except Exception as exc:
                    outcome = exc
            done(outcome)

        return begin(translated(request), context, ended)

    return Asked(call, start)


def coalescing(route: Route, target: Target) -> Coalescing:
    """How much a request to a target of `route` may travel with: as configured, capped by its signature's contract."""
    batching = route.traffic.batching if target.batching else None

    def limits_of(contract: ModelContract) -> tuple[int, int] | None:
        if batching is None or contract.batch_cap is None:
            return None
        return min(batching.max_rows, contract.batch_cap), batching.max_bytes

    limits = {signature: limits_of(contract) for signature, contract in route.contracts.items()}
    return lambda request: limits[request.model.signature_name or DEFAULT_SIGNATURE]
