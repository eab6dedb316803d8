"""The one core that every front end calls: validation, routing, readiness. Front ends only translate."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Mapping
from dataclasses import replace

from gateway import __version__
from gateway.core.backend import Cancel, Done, Middleware, Outcome, compose, nothing
from gateway.core.clock import Clock
from gateway.core.context import CallContext
from gateway.core.contract import ModelContract
from gateway.core.deadlines import Deadlines
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import (
    ANYWHERE,
    IndexEntry,
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ModelSpec,
    Selection,
)
from gateway.routing.router import Router


class Flying:
    """One request that was started: it ends by its answer, at its deadline, or when it is told to."""

    __slots__ = ("_cancel", "_deadlines", "_done", "_left", "_why", "ended")

    def __init__(self, deadlines: Deadlines, done: Done, left: float) -> None:
        self._deadlines = deadlines
        self._done = done
        self._left = left
        self._cancel: Cancel = nothing
        self._why: GatewayError | None = None
        self.ended = False

    def started(self, cancel: Cancel) -> None:
        """It is under way, for the time that it has left."""
        self._cancel = cancel
        if not self.ended:
            self._deadlines.add_in(self, self._left)

    def end(self, why: GatewayError) -> None:
        """Ends it, as failed for this reason, unless it has ended by itself."""
        if self._why is None and not self.ended:
            self._why = why
            self._cancel()

    def expire(self) -> None:
        """Its time is over."""
        self.end(GatewayError(Cause.DEADLINE, f"no answer within the {self._left * 1e3:.0f} ms left"))

    def landed(self, outcome: Outcome) -> None:
        """Hears how it ended."""
        self.ended = True
        self._deadlines.remove(self)
        self._done(self._why if self._why is not None and isinstance(outcome, CancelledError) else outcome)


class DataPlane:
    """Answers for all models. `middleware` is the request stack around the router, outermost first.

    With a `clock` that stack is the deadline alone, and requests may also be started without it.
    """

    def __init__(self, router: Router, *middleware: Middleware, clock: Clock | None = None) -> None:
        self._router = router
        self._clock = clock
        self._deadlines: Deadlines | None = None
        self._handler = compose(router.dispatch, *middleware)
        self._accepting = False
        self._others_ready = True

    @property
    def version(self) -> str:
        """The gateway's own version."""
        return __version__

    @property
    def accepting(self) -> bool:
        """Whether the gateway is configured and not draining: what `/readyz` says."""
        return self._accepting

    def start(self) -> None:
        """From now on requests are taken."""
        self._accepting = True

    def drain(self) -> None:
        """From now on readiness is false, so that a load balancer sends new work elsewhere."""
        self._accepting = False

    def hear_of_others(self, ready: bool) -> None:
        """Whether the gateway's other workers are ready, where there are any: the gateway is only if all are."""
        self._others_ready = ready

    @property
    def kept_headers(self) -> frozenset[str]:
        """The names, in lower case, of the clients' headers that some route holds on to."""
        return self._router.kept_headers

    def contract(self, model: str, signature: str | None = None, /) -> ModelContract:
        """The contract of a model under a signature, None for the default.

        Raises MODEL_NOT_FOUND, SIGNATURE_NOT_FOUND, and NOT_READY for a model that is known but cannot be routed.
        """
        return self._router.route(model).contract(signature)

    def check_room(self, model: str, caller: str) -> None:
        """Raises OVERLOADED or NOT_READY where no request of `caller` for a model could be sent anywhere now.

        For front ends that know the model before they have read the request. Says nothing of a model without a route.
        """
        refusal = self._router.refusal(model, caller)
        if refusal is not None:
            raise refusal

    def contracts(self) -> tuple[ModelContract, ...]:
        """Of every model that has a route the contract that stands for it."""
        return tuple(route.main for route in self._router.table.routes.values())

    def has(self, model: str) -> bool:
        """Whether there is a route for a model."""
        return model in self._router.table.routes

    def declared_version(self, model: str) -> int:
        """The version of a model's contract: what is told where no version can answer; raises MODEL_NOT_FOUND."""
        return self._router.route(model).main.version

    def version_names(self, model: str) -> Mapping[str, int]:
        """The numbers of a model's version names that are none, such as `2024-05a`; raises MODEL_NOT_FOUND."""
        return self._router.route(model).versions

    async def infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """One inference, checked against the contract on the way in and on the way out.

        Raises GatewayError with the cause of whatever went wrong.
        """
        return await self._handler(self._checked(request), context)

    def begin(self, request: InferenceRequest, context: CallContext, done: Done) -> Flying | None:
        """`infer` without a coroutine: `done` is called once, with its answer or what it raises.

        None where only `infer` can do it: nothing has happened then. Raises what is wrong with the request itself.
        """
        clock = self._clock
        if clock is None or context.trace is not None:
            return None
        checked = self._checked(request)
        left = context.deadline - clock.now()
        if left <= 0:
            raise GatewayError(Cause.DEADLINE, "the deadline had passed before the request could be sent")
        if self._deadlines is None:
            self._deadlines = Deadlines()
        flying = Flying(self._deadlines, done, left)
        cancel = self._router.start(checked, context, flying.landed)
        if cancel is None:
            return None
        flying.started(cancel)
        return flying

    def _checked(self, request: InferenceRequest) -> InferenceRequest:
        route = self._router.route(request.model.name)
        resolved = route.resolve(request.model)
        return route.contract(resolved.signature_name).check_request(_with_spec(request, resolved))

    def models(self) -> tuple[str, ...]:
        """The names of the models that have a route."""
        return tuple(self._router.table.routes)

    def resolve(self, spec: ModelSpec) -> ModelSpec:
        """`spec` with its label as a version, and no signature where it is the default one.

        Raises MODEL_NOT_FOUND, LABEL_NOT_FOUND, SIGNATURE_NOT_FOUND, and NOT_READY as `contract` does.
        """
        return self._router.resolve(spec)

    def model_metadata(self, spec: ModelSpec) -> ModelMetadata:
        """Tensors and versions of a model, under the signature asked for; raises as `resolve`, VERSION_NOT_FOUND."""
        resolved = self.resolve(spec)
        return self.contract(resolved.name, resolved.signature_name).metadata(self._checked_versions(resolved))

    def versions(self, spec: ModelSpec) -> tuple[int, ...]:
        """The versions that can answer, newest first; raises as `model_metadata` does."""
        return self._checked_versions(self.resolve(spec))

    def signatures(self, spec: ModelSpec) -> dict[str, ModelMetadata]:
        """Tensors and versions of a model under each of its signatures; raises as `model_metadata` does."""
        versions = self._checked_versions(self.resolve(replace(spec, signature_name=None)))
        return {name: item.metadata(versions) for name, item in self._router.route(spec.name).contracts.items()}

    def index(self, *, ready: bool = False) -> tuple[IndexEntry, ...]:
        """Every model: each version that can answer, newest first, or why none can; only the former if `ready`."""
        entries: list[IndexEntry] = []
        for name in self._router.table.routes:
            versions = self._router.versions(name)
            entries.extend(IndexEntry(name, version) for version in versions)
            if not versions and not ready:
                entries.append(IndexEntry(name, None, self._router.unfit(name)))
        unrouted = {} if ready else self._router.table.unrouted
        return (*entries, *(IndexEntry(name, None, reason) for name, reason in unrouted.items()))

    def model_ready(self, spec: ModelSpec, selection: Selection = ANYWHERE) -> bool:
        """Whether a request with this selection could be answered; raises MODEL_NOT_FOUND, VERSION_NOT_FOUND.

        A model that is known but has no route, or is being looked for, is not ready.
        """
        try:
            resolved = self._router.resolve(spec)
        except GatewayError as exc:
            if exc.cause is not Cause.NOT_READY:
                raise
            return False
        if self._router.model_ready(resolved, selection):
            return True
        versions = self._router.versions(spec.name)
        if resolved.version is not None and versions and resolved.version not in versions:
            raise _no_version(resolved, versions)
        return False

    def ready(self) -> bool:
        """The Open Inference Protocol's server readiness: accepting, every endpoint heard, and every model ready.

        A model that waits for a contract is no reason to be unready: it was never offered. Where the gateway has
        several workers, the others' word counts as well, as it was heard last.
        """
        return self._others_ready and self.ready_here()

    def ready_here(self) -> bool:
        """Whether this worker by itself is ready."""
        table = self._router.table
        ready = self._accepting and not table.awaited
        return ready and all(self._router.model_ready(ModelSpec(name), ANYWHERE) for name in table.routes)

    def _checked_versions(self, resolved: ModelSpec) -> tuple[int, ...]:
        versions = self._router.versions(resolved.name)
        if resolved.version is not None and resolved.version not in versions:
            raise _no_version(resolved, versions)
        return versions


def _with_spec(request: InferenceRequest, spec: ModelSpec) -> InferenceRequest:
    if spec is request.model:
        return request
    return InferenceRequest(spec, request.inputs, request.wanted, request.parameters, request.id, request.selection)


def _no_version(spec: ModelSpec, versions: tuple[int, ...]) -> GatewayError:
    found = ", ".join(map(str, versions)) or "none"
    return GatewayError(
        Cause.VERSION_NOT_FOUND, f"model '{spec.name}' has no version {spec.version}; its versions: {found}"
    )
