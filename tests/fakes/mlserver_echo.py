"""A runtime for the real MLServer that answers what it was sent, as `y`; it runs in MLServer's own environment."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Echo(MLModel):
    """Takes one input of any datatype and shape; describes no tensors and has no version."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The input under the output's name."""
        (tensor,) = payload.inputs
        output = ResponseOutput(name="y", shape=tensor.shape, datatype=tensor.datatype, data=tensor.data)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
