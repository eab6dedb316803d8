"""The model servers asked without the gateway, each by a client of its own protocol."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from gateway._generated import torchserve_pb2
from gateway.core.tensor import Tensor
from tests.contract import frontend_doors as doors
from tests.contract.frontend_doors import Outcome
from tests.contract.wire_forms import flattened, nested, packed, unpacked
from tests.matrix import artifacts, handlers
from tests.matrix.cases import Case
from tests.matrix.doors import OipFlat, OipGrpcRaw, TfServingColumns, TfServingOfficial, question
from tests.matrix.stack import Reached
from tests.unit.serving import toys

_CLIENTS: dict[str, doors.Door] = {
    "tf-rest": TfServingColumns(),
    "tf-grpc": TfServingOfficial(),
    "oip-rest-json": OipFlat(),
    "oip-grpc-typed": OipGrpcRaw(),
    "mls-rest": OipFlat(),
    "mls-grpc": OipGrpcRaw(),
}


async def ask(server: Reached, backend: str, case: Case) -> Outcome:
    """A case put to the model server behind `backend`."""
    if backend in _CLIENTS:
        asked = question(case)
        # One runtime on MLServer answers for all identities.
        alone = backend.startswith("mls-") and case.golden is None
        return await _CLIENTS[backend].send(server, replace(asked, model="echo") if alone else asked)
    if backend in handlers.ENDPOINTS:
        return await handlers.ask(server, backend, case)
    names = artifacts.torchserve_names(case.contract) if case.golden is None else {}
    model = artifacts.ARCHIVE if names else case.contract.name
    frame = _frame(case, names)
    if backend == "ts-grpc":
        message = torchserve_pb2.PredictionsRequest(model_name=model, input={"frame": frame})
        async with server.grpc() as channel:
            reply = await channel.unary_unary(doors.PREDICTIONS)(message.SerializeToString(), timeout=30)
        body = torchserve_pb2.PredictionResponse.FromString(reply).prediction
    else:
        async with server.rest() as http:
            answer = await http.post(
                f"/predictions/{model}", content=frame, headers={"content-type": "application/octet-stream"}
            )
        body = answer.content
    header, buffers = toys.unpacked(body)
    outputs: dict[str, Any] = {}
    ours = {theirs: own for own, theirs in names.items()}
    for item in header.get("outputs", ()):
        size = item["parameters"]["binary_data_size"]
        values = unpacked(buffers[:size], item["datatype"])
        outputs[ours.get(item["name"], item["name"])] = nested(values, item["shape"])
        buffers = buffers[size:]
    return Outcome(200, outputs, "", "", "", json.dumps(header) if "error" in header else "")


def _frame(case: Case, names: dict[str, str]) -> bytes:
    raws = [packed(flattened(tensor.array.tolist()), tensor.datatype) for tensor in case.inputs]
    inputs = [
        _described(tensor, names.get(tensor.name, tensor.name), len(raw))
        for tensor, raw in zip(case.inputs, raws, strict=True)
    ]
    wanted = {"outputs": [{"name": names.get(name, name)} for name in case.wanted]} if case.wanted else {}
    return toys.packed({"inputs": inputs, **wanted}, b"".join(raws))


def _described(tensor: Tensor, name: str, size: int) -> dict[str, Any]:
    shape = list(tensor.shape)
    return {"name": name, "shape": shape, "datatype": tensor.datatype, "parameters": {"binary_data_size": size}}
