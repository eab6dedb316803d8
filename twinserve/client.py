"""A small client of the gateway, over both its transports: what `twinserve predict` and the demo ask with."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from gateway._generated import oip_pb2
from gateway.core.tensor import NUMPY_DTYPE, Tensor, from_raw, to_raw

Array = npt.NDArray[Any]
SERVICE = "/inference.GRPCInferenceService"


class PredictError(Exception):
    """Raised where the gateway refused or could not be reached; the text is for people."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Outputs by name, and what gave them (the gateway's `x-served-by`)."""

    outputs: dict[str, Array]
    served_by: str
    timing: str


@dataclass(frozen=True, slots=True)
class Question:
    """One request. `inputs` maps names to arrays, or to nested lists as JSON gives them."""

    model: str
    inputs: Mapping[str, Any]
    stack: str | None = None
    endpoint: str | None = None
    variant: str | None = None
    version: int | None = None
    label: str | None = None

    def metadata(self) -> list[tuple[str, str]]:
        """The selection as headers or gRPC metadata."""
        chosen = (
            ("x-stack", self.stack),
            ("x-endpoint", self.endpoint),
            ("x-variant", self.variant),
            ("x-label", self.label),
        )
        return [(name, value) for name, value in chosen if value is not None]


def predict_rest(base_url: str, question: Question, *, timeout_s: float = 30.0) -> Answer:
    """One `POST /predict`; raises PredictError."""
    inputs = {name: plain(values) for name, values in question.inputs.items()}
    body: dict[str, Any] = {"model": question.model, "inputs": inputs}
    if question.version is not None:
        body["version"] = question.version
    headers = {"Content-Type": "application/json", **dict(question.metadata())}
    if not base_url.startswith(("http://", "https://")):
        raise PredictError(f"'{base_url}' is no URL of a gateway; expected http://HOST:PORT")
    request = urllib.request.Request(f"{base_url}/predict", json.dumps(body).encode(), headers)  # noqa: S310 - above
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:  # noqa: S310 - above
            document = json.loads(reply.read())
            served_by, timing = reply.headers.get("x-served-by", ""), reply.headers.get("server-timing", "")
    except urllib.error.HTTPError as exc:
        raise PredictError(_problem(exc)) from exc
    except OSError as exc:
        raise PredictError(f"no gateway answers at {base_url} ({exc}); `twinserve up` starts one") from exc
    return Answer({name: np.asarray(values) for name, values in document["outputs"].items()}, served_by, timing)


def predict_grpc(address: str, question: Question, *, timeout_s: float = 30.0) -> Answer:
    """One `ModelInfer` with raw contents; datatypes come from `ModelMetadata`. Raises PredictError."""
    with grpc.insecure_channel(address) as channel:
        try:
            datatypes = _datatypes(channel, question.model, timeout_s)
            call = channel.unary_unary(
                f"{SERVICE}/ModelInfer",
                oip_pb2.ModelInferRequest.SerializeToString,
                oip_pb2.ModelInferResponse.FromString,
            )
            reply, state = call.with_call(
                _message(question, datatypes), timeout=timeout_s, metadata=question.metadata()
            )
        except grpc.RpcError as exc:
            raise PredictError(f"{exc.code().name}: {exc.details()} (gateway at {address})") from exc
    trailing = dict(state.trailing_metadata())
    outputs = {
        output.name: from_raw(output.name, output.datatype, output.shape, raw).array
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }
    return Answer(outputs, trailing.get("x-served-by", ""), trailing.get("server-timing", ""))


def plain(values: Any) -> Any:  # noqa: ANN401 - nested lists of any depth
    """Nested lists as JSON has them: bytes become text. Raises PredictError where they are none."""
    array = np.asarray(values)
    if array.dtype != object:
        return array.tolist()
    try:
        texts = [item.decode() if isinstance(item, bytes) else item for item in array.flat]
    except UnicodeDecodeError as exc:
        raise PredictError("an input holds bytes that are no UTF-8, which JSON cannot carry; ask over grpc") from exc
    plain = np.empty(array.shape, object)
    plain.flat = texts
    return plain.tolist()


def _datatypes(channel: grpc.Channel, model: str, timeout_s: float) -> dict[str, str]:
    call = channel.unary_unary(
        f"{SERVICE}/ModelMetadata",
        oip_pb2.ModelMetadataRequest.SerializeToString,
        oip_pb2.ModelMetadataResponse.FromString,
    )
    return {
        item.name: item.datatype for item in call(oip_pb2.ModelMetadataRequest(name=model), timeout=timeout_s).inputs
    }


def _message(question: Question, datatypes: Mapping[str, str]) -> oip_pb2.ModelInferRequest:
    version = "" if question.version is None else str(question.version)
    message = oip_pb2.ModelInferRequest(model_name=question.model, model_version=version)
    for name, values in question.inputs.items():
        # An input the model does not have is sent as it is: the gateway's answer lists those it has.
        datatype = datatypes.get(name, "FP32")
        try:
            array = np.asarray(values, dtype=NUMPY_DTYPE[datatype])
        except (TypeError, ValueError) as exc:
            raise PredictError(f"input '{name}' is not an array of {datatype}: {exc}") from exc
        message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        message.raw_input_contents.append(bytes(to_raw(Tensor(name, datatype, array))))
    return message


def _problem(exc: urllib.error.HTTPError) -> str:
    text = exc.read().decode(errors="replace")
    try:
        return f"{exc.code}: {json.loads(text)['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{exc.code}: {text[:200]}"
