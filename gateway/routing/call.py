"""The innermost handler of a target: the server's own names go out, the contract's come back, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gateway.core.backend import Handler
from gateway.core.context import CallContext
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec
from gateway.core.tensor import Tensor
from gateway.routing.endpoint import Coalescing, Endpoint, Target
from gateway.routing.table import Route


def upstream_call(endpoint: Endpoint, target: Target, route: Route) -> Handler:
    """The handler that asks `endpoint` for a target of `route`."""
    theirs = dict(target.names)
    ours = {their: own for own, their in theirs.items()}

    def renamed(tensors: tuple[Tensor, ...], names: Mapping[str, str]) -> tuple[Tensor, ...]:
        if not names:
            return tensors
        return tuple(Tensor(names.get(item.name, item.name), item.datatype, item.array) for item in tensors)

    async def call(request: InferenceRequest, context: CallContext) -> InferenceResponse:
        version = request.model.version if request.model.version is not None else target.version
        # Made by hand, since dataclasses.replace costs twice as much, for every request.
        sent = InferenceRequest(
            ModelSpec(target.model, version, request.model.label, request.model.signature_name),
            renamed(request.inputs, theirs),
            tuple([theirs.get(name, name) for name in request.wanted]),
            request.parameters,
            request.id,
            request.selection,
        )
        response = await endpoint.backend.infer(sent, context)
        if ours:
            response = replace(response, outputs=renamed(response.outputs, ours))
        return route.contract(request.model.signature_name).check_response(request, response)

    return call


def coalescing(route: Route) -> Coalescing:
    """How much a request of `route` may travel with: as configured, capped by the contract of its signature."""
    batching = route.traffic.batching

    def limits_of(request: InferenceRequest) -> tuple[int, int] | None:
        cap = route.contract(request.model.signature_name).batch_cap
        if batching is None or cap is None:
            return None
        return min(batching.max_rows, cap), batching.max_bytes

    return limits_of
