"""Handlers not ours on the real TorchServe, as the matrix's backends: `payload: json` by templates, and `payload: raw`.

Both echo what they are sent, as `tests/fakes/torchserve_handlers` has them, and know nothing of twinserve.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gateway._generated import torchserve_pb2
from gateway.core.contract import ModelContract
from gateway.core.tensor import NUMPY_DTYPE, Tensor
from tests.contract import frontend_doors as doors
from tests.contract.frontend_doors import Outcome
from tests.contract.wire_forms import nested
from tests.integration.foreign_torchserve import archive
from tests.matrix.cases import Case

if TYPE_CHECKING:
    from tests.matrix.stack import Reached

MODELS: Mapping[str, str] = {"json": "echo_json", "raw": "echo_raw"}
# Endpoint -> how its handler is spoken to, over which transport, and how the page calls it.
ENDPOINTS: Mapping[str, tuple[str, str, str]] = {
    f"ts-{kind}-{transport}": (kind, transport, f"TorchServe {title}, `payload: {kind}`")
    for kind in MODELS
    for transport, title in (("rest", "REST"), ("grpc", "gRPC"))
}


def archives(store: Path) -> None:
    """Puts both handlers into TorchServe's model store."""
    for model in MODELS.values():
        archive(store / f"{model}.mar", model, "1.0", f"{model}.py", "")


def target(endpoint: str, contract: ModelContract) -> dict[str, Any]:
    """What a model's target there is configured with, beside the endpoint: BYTES are text, or base64 where so named."""
    kind, *_ = ENDPOINTS[endpoint]
    if kind == "raw":
        return {"model": MODELS[kind], "payload": "raw", "reply": "$body"}
    template: Any = "$inputs"
    reply: Any = "$outputs"
    if _coded(contract):
        template = {spec.name: f"$inputs.{spec.name}|b64" for spec in contract.inputs}
        reply = {spec.name: f"$outputs.{spec.name}|b64" for spec in contract.outputs}
    return {"model": MODELS[kind], "payload": "json", "template": {"data": template}, "reply": {"result": reply}}


def raw_can_carry(contract: ModelContract) -> bool:
    """Whether a body without any description can be the model's only tensor: else the gateway refuses the target."""
    spec, *others = contract.inputs
    if spec.datatype == "BYTES":
        return not others and all(size in (-1, 1) for size in spec.shape)
    return not others and list(spec.shape[1:]).count(-1) <= 1


CAN_CARRY: Mapping[str, Callable[[ModelContract], bool]] = {"json": lambda _: True, "raw": raw_can_carry}


async def ask(server: Reached, endpoint: str, case: Case) -> Outcome:
    """A case put to the handler itself."""
    kind, transport, _ = ENDPOINTS[endpoint]
    if kind == "json":
        reply = json.loads(await _sent(server, transport, kind, _document(case)))
        return _outcome({name: _decoded(value, case) for name, value in reply["result"].items()})
    (tensor,) = case.inputs
    whole = case.contract.batch_cap is None
    rows = [tensor.array] if whole else [tensor.array[row : row + 1] for row in range(tensor.shape[0])]
    replies = [await _sent(server, transport, kind, _bytes(row, tensor.datatype)) for row in rows]
    flat = [value for reply in replies for value in _values(reply, tensor.datatype)]
    return _outcome({case.outputs[0].name: nested(flat, list(tensor.shape))})


async def _sent(server: Reached, transport: str, kind: str, body: bytes) -> bytes:
    if transport == "grpc":
        message = torchserve_pb2.PredictionsRequest(model_name=MODELS[kind], input={"data": body})
        async with server.grpc() as channel:
            reply = await channel.unary_unary(doors.PREDICTIONS)(message.SerializeToString(), timeout=30)
        answer: bytes = torchserve_pb2.PredictionResponse.FromString(reply).prediction
        return answer
    content_type = "application/json" if kind == "json" else "application/octet-stream"
    async with server.rest() as http:
        reply = await http.post(f"/predictions/{MODELS[kind]}", content=body, headers={"content-type": content_type})
    return reply.content


def _document(case: Case) -> bytes:
    return json.dumps({"data": {tensor.name: _json(tensor, case) for tensor in case.inputs}}).encode()


def _json(tensor: Tensor, case: Case) -> Any:
    if tensor.datatype != "BYTES":
        return tensor.array.astype(np.float64).tolist() if tensor.datatype == "BF16" else tensor.array.tolist()
    texts = [base64.b64encode(item).decode() if _coded(case.contract) else item.decode() for item in tensor.array.flat]
    return nested(texts, list(tensor.shape))


def _decoded(value: Any, case: Case) -> Any:
    if not _coded(case.contract):
        return value
    return [_decoded(item, case) for item in value] if isinstance(value, list) else base64.b64decode(value)


def _coded(contract: ModelContract) -> bool:
    return all(spec.name.endswith("_bytes") for spec in contract.inputs)


def _bytes(array: np.ndarray[Any, Any], datatype: str) -> bytes:
    if datatype == "BYTES":
        return bytes(array.item())
    return array.tobytes()


def _values(reply: bytes, datatype: str) -> list[Any]:
    return [reply] if datatype == "BYTES" else list(np.frombuffer(reply, NUMPY_DTYPE[datatype]).tolist())


def _outcome(outputs: dict[str, Any]) -> Outcome:
    return Outcome(200, outputs, "", "", "", "")
