"""A TorchScript export on MLServer: the same weights behind a third-party Open Inference Protocol server.

It runs inside MLServer's own environment, whose packages clash with this project's, and imports nothing of ours:

    python3.11 -m venv /tmp/mlserver && /tmp/mlserver/bin/pip install mlserver==1.7.1 torch==2.13.0
    PYTHONPATH=serving/oip /tmp/mlserver/bin/mlserver start serving/oip

That serves `digits` (`make models` builds it) on the ports in settings.json: REST 9080, gRPC 9081, metrics 9082. An
endpoint for it: `{stack: oip, transport: rest, rest: "http://127.0.0.1:9080"}`. `make test-clients` does all of it.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor
from mlserver.utils import get_model_uri


class TorchScriptModel(MLModel):
    """A model with one output, from the .mar that TorchServe serves too; the contract in it describes the tensors."""

    async def load(self) -> bool:
        """Reads the .mar that `parameters.uri` names; raises what zipfile and torch raise for another file."""
        torch.set_num_threads(1)
        with zipfile.ZipFile(await get_model_uri(self._settings)) as archive:
            contract = json.loads(archive.read("contract.json"))
            self._module = torch.jit.load(io.BytesIO(archive.read("model.pt")), map_location="cpu").eval()
        self.inputs = _described(contract["inputs"])
        self.outputs = _described(contract["outputs"])
        self._names = [tensor["name"] for tensor in contract["inputs"]]
        (self._output,) = [tensor["name"] for tensor in contract["outputs"]]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The output for all rows at once; raises InferenceError (400) for other inputs or outputs than the model's."""
        arrays = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        unknown = {output.name for output in payload.outputs or []} - {self._output}
        if sorted(arrays) != sorted(self._names) or unknown:
            raise InferenceError(f"model {self.name} takes {self._names} and gives ['{self._output}']")
        with torch.inference_mode():
            # The decoded arrays may be read-only views, which torch does not take.
            output = self._module(*(torch.from_numpy(arrays[name].copy()) for name in self._names))
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[NumpyCodec.encode_output(self._output, output.numpy())],
        )


def _described(tensors: list[dict[str, Any]]) -> list[MetadataTensor]:
    return [
        MetadataTensor(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"]) for tensor in tensors
    ]
