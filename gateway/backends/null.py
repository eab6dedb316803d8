"""The null backend: answers at once from the contract, so that a benchmark sees what the gateway itself costs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gateway.backends.channel import time_left
from gateway.core.backend import Cancel, Done, ModelState, nothing
from gateway.core.clock import Clock, SystemClock
from gateway.core.context import CallContext
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, TensorSpec
from gateway.core.tensor import FEW_BYTES, NUMPY_DTYPE, Tensor

# So many small answers are kept.
MOST_KEPT = 1024


class Null:
    """A model server that is not there; `contracts` maps the models it claims to have to their contracts."""

    def __init__(self, contracts: Mapping[str, ModelContract], *, clock: Clock | None = None) -> None:
        self._contracts = dict(contracts)
        self._clock = clock or SystemClock()
        # Small answers, by model and rows: to make one costs a busy gateway 20 µs.
        self._few: dict[tuple[str, int], tuple[Tensor, ...]] = {}

    async def infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """Zeros (empty strings for BYTES) in the contract's shapes, with as many rows as the request has."""
        return self._answer(request, context)

    def start(self, request: InferenceRequest, context: CallContext, done: Done) -> Cancel:
        """The same without a coroutine, ended when this returns; raises what `infer` does."""
        done(self._answer(request, context))
        return nothing

    def _answer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        time_left(context, self._clock)
        model = request.model
        contract = self._contract(model.name)
        if model.version not in (None, contract.version):
            raise GatewayError(Cause.VERSION_NOT_FOUND, f"model '{model.name}' has no version {model.version}")
        if model.label is not None:
            raise GatewayError(Cause.LABEL_NOT_FOUND, f"model '{model.name}' has no labels")
        shape = request.inputs[0].shape if request.inputs else ()
        rows = shape[0] if shape else 1
        outputs = None if request.wanted else self._few.get((model.name, rows))
        if outputs is None:
            outputs = self._outputs(request, contract, rows)
        return InferenceResponse(model.name, contract.version, outputs, id=request.id)

    async def server(self) -> str:
        """The same words always."""
        return "null backend"

    async def model_state(self, model: str) -> ModelState:
        """The contract's version, always ready."""
        contract = self._contract(model)
        return ModelState((contract.version,), contract.metadata((contract.version,)))

    async def models(self) -> tuple[str, ...]:
        """Those that it has contracts of."""
        return tuple(self._contracts)

    async def close(self) -> None:
        """Nothing is open."""

    def _outputs(self, request: InferenceRequest, contract: ModelContract, rows: int) -> tuple[Tensor, ...]:
        wanted = request.wanted
        outputs = tuple([_zeros(spec, rows) for spec in contract.outputs if not wanted or spec.name in wanted])
        if not wanted and len(self._few) < MOST_KEPT and sum([tensor.nbytes for tensor in outputs]) <= FEW_BYTES:
            for tensor in outputs:
                tensor.array.flags.writeable = False
            self._few[request.model.name, rows] = outputs
        return outputs

    def _contract(self, model: str) -> ModelContract:
        contract = self._contracts.get(model)
        if contract is None:
            raise GatewayError(
                Cause.MODEL_NOT_FOUND,
                f"model '{model}' is not known to the null backend, which answers by contracts only",
            )
        return contract


def _zeros(spec: TensorSpec, rows: int) -> Tensor:
    # A variable dimension other than the first has no size that the request would tell; one is as good as any.
    shape = tuple(dim if dim != -1 else rows if axis == 0 else 1 for axis, dim in enumerate(spec.shape))
    dtype = NUMPY_DTYPE[spec.datatype]
    return Tensor(spec.name, spec.datatype, np.full(shape, b"", dtype) if dtype.hasobject else np.zeros(shape, dtype))
