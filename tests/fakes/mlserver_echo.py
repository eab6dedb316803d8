"""A runtime for the real MLServer that answers what it was sent; it runs in MLServer's own environment."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Echo(MLModel):
    """Takes inputs of any datatype and shape, called `x...`; describes no tensors and has no version."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Each input `x...` as output `y...`."""
        outputs = [
            ResponseOutput(name=f"y{tensor.name[1:]}", shape=tensor.shape, datatype=tensor.datatype, data=tensor.data)
            for tensor in payload.inputs
        ]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
