"""The one core that every front end calls: validation, routing, readiness. Front ends only translate."""

from __future__ import annotations

from collections.abc import Mapping

from gateway import __version__
from gateway.core.backend import Middleware, compose
from gateway.core.context import CallContext
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import (
    IndexEntry,
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ModelSpec,
    Selection,
)
from gateway.routing.router import Router

# No selection: the policy of the model's route decides.
ANYWHERE = Selection()


class DataPlane:
    """Answers for all models. `middleware` is the request stack around the router, outermost first."""

    def __init__(self, router: Router, *middleware: Middleware) -> None:
        self._router = router
        self._handler = compose(router.dispatch, *middleware)
        self._accepting = False

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

    def contract(self, model: str) -> ModelContract:
        """The contract of a model; raises MODEL_NOT_FOUND."""
        return self._router.route(model).contract

    def version_names(self, model: str) -> Mapping[str, int]:
        """The numbers of a model's version names that are none, such as `2024-05a`; raises MODEL_NOT_FOUND."""
        return self._router.route(model).versions

    async def infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """One inference, checked against the contract on the way in and on the way out.

        Raises GatewayError with the cause of whatever went wrong.
        """
        contract = self.contract(request.model.name)
        checked = contract.check_request(_with_spec(request, self._router.resolve(request.model)))
        return await self._handler(checked, context)

    def models(self) -> tuple[str, ...]:
        """The names of the models that have a route."""
        return self._router.models()

    def resolve(self, spec: ModelSpec) -> ModelSpec:
        """`spec` with its label as a version; raises MODEL_NOT_FOUND, LABEL_NOT_FOUND, SIGNATURE_NOT_FOUND."""
        return self._router.resolve(spec)

    def model_metadata(self, spec: ModelSpec) -> ModelMetadata:
        """Tensors and versions of a model; raises MODEL_NOT_FOUND, VERSION_NOT_FOUND."""
        resolved = self._router.resolve(spec)
        versions = self._router.versions(spec.name)
        if resolved.version is not None and resolved.version not in versions:
            raise _no_version(resolved, versions)
        return self.contract(spec.name).metadata(versions)

    def index(self, *, ready: bool = False) -> tuple[IndexEntry, ...]:
        """Every model: each version that can answer, newest first, or why none can; only the former if `ready`."""
        entries: list[IndexEntry] = []
        for name in self.models():
            versions = self._router.versions(name)
            entries.extend(IndexEntry(name, version) for version in versions)
            if not versions and not ready:
                entries.append(IndexEntry(name, None, self._router.unfit(name)))
        return tuple(entries)

    def model_ready(self, spec: ModelSpec, selection: Selection = ANYWHERE) -> bool:
        """Whether a request with this selection could be answered; raises MODEL_NOT_FOUND, VERSION_NOT_FOUND."""
        resolved = self._router.resolve(spec)
        if self._router.model_ready(resolved, selection):
            return True
        versions = self._router.versions(spec.name)
        if resolved.version is not None and versions and resolved.version not in versions:
            raise _no_version(resolved, versions)
        return False

    def ready(self) -> bool:
        """The Open Inference Protocol's server readiness: accepting, and every model ready."""
        return self._accepting and all(self._router.model_ready(ModelSpec(name), ANYWHERE) for name in self.models())


def _with_spec(request: InferenceRequest, spec: ModelSpec) -> InferenceRequest:
    if spec is request.model:
        return request
    return InferenceRequest(spec, request.inputs, request.wanted, request.parameters, request.id, request.selection)


def _no_version(spec: ModelSpec, versions: tuple[int, ...]) -> GatewayError:
    found = ", ".join(map(str, versions)) or "none"
    return GatewayError(
        Cause.VERSION_NOT_FOUND, f"model '{spec.name}' has no version {spec.version}; its versions: {found}"
    )
