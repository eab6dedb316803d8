"""One Predict call, from a request's tensors to the model's, in TensorFlow Serving's order of checks.

Everything here blocks and runs off the event loop, in a thread of the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from grpc import StatusCode
from tensorflow_serving.apis import model_pb2, predict_pb2

from serving.tfserving.savedmodel_server import json_request, json_response, rapidjson, tensors
from serving.tfserving.savedmodel_server.errors import ServingError, invalid
from serving.tfserving.savedmodel_server.executor import DEFAULT_SIGNATURE, Signature
from serving.tfserving.savedmodel_server.json_response import Output
from serving.tfserving.savedmodel_server.runtime import Runtime
from serving.tfserving.savedmodel_server.tensors import NDArray
from serving.tfserving.savedmodel_server.versions import Versions


def predict(
    versions: Versions,
    request: predict_pb2.PredictRequest,
    deadline: float | None = None,
    runtime: Runtime | None = None,
) -> predict_pb2.PredictResponse:
    """The gRPC method, until `deadline`, a time.monotonic(); raises ServingError."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    runtime = runtime or Runtime()
    spec = request.model_spec
    with versions.using(spec) as (number, servable):
        signature = servable.signature(spec.signature_name)
        if signature is None:
            name = spec.signature_name or DEFAULT_SIGNATURE
            raise ServingError(StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        runtime.check_method_name(servable, signature)
        arrays = bind(signature, request.inputs, lambda alias: tensors.decode(request.inputs[alias], alias))
        wanted = choose(signature, request.output_filter)
        results = runtime.run(spec.name, "Predict", signature, arrays, wanted, deadline)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = number
        response.model_spec.signature_name = signature.name
        for alias in wanted:
            response.outputs[alias].CopyFrom(tensors.encode(results[alias], signature.outputs[alias].dtype))
        return response


def predict_json(
    versions: Versions,
    spec: model_pb2.ModelSpec,
    body: bytes,
    deadline: float | None = None,
    runtime: Runtime | None = None,
) -> bytes:
    """The REST call, until `deadline`, a time.monotonic(); raises ServingError."""
    runtime = runtime or Runtime()
    try:
        request = json_request.parse(body)
        with versions.using(spec) as (_, servable):
            signature = servable.signature(request.signature_name)
            if signature is None:
                name = request.signature_name or DEFAULT_SIGNATURE
                raise invalid(f'Serving signature name: "{name}" not found in signature def')
            given = request.tensors({alias: info.dtype for alias, info in signature.inputs.items()})
            runtime.check_method_name(servable, signature)
            arrays = bind(signature, given, given.__getitem__)
            results = runtime.run(spec.name, "Predict", signature, arrays, tuple(signature.outputs), deadline)
        outputs = {alias: Output(array, signature.outputs[alias].dtype) for alias, array in results.items()}
        return json_response.render(outputs, row=request.row)
    except RecursionError:
        raise rapidjson.too_deep() from None


def bind(signature: Signature, given: Collection[str], decode: Callable[[str], NDArray]) -> dict[str, NDArray]:
    """One array for each of the signature's inputs: the request's, or the signature's default.

    Raises INVALID_ARGUMENT where inputs are missing or too many (predict_util.cc, tensorflow/cc/saved_model/util.cc).
    """
    names, wanted = set(given), set(signature.inputs)
    if len(names) > len(wanted) or (len(names) < len(wanted) and not signature.defaults):
        raise invalid(
            f"input size does not match signature: {len(names)}!={len(wanted)} len({_set(names)}) != "
            f"len({_set(wanted)}). Sent extra: {_set(names - wanted)}. Missing but required: {_set(wanted - names)}."
        )
    arrays: dict[str, NDArray] = {}
    for alias, info in signature.inputs.items():
        if alias in names:
            arrays[alias] = decode(alias)
        elif alias in signature.defaults:
            arrays[alias] = tensors.decode(signature.defaults[alias], alias)
        else:
            raise invalid(
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {_set(names)}, or default input alias set: "
                f"{','.join(sorted(signature.defaults))}"
            )
    if names - wanted:
        raise invalid(
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(names & wanted))}, "
            f"request input: {','.join(sorted(names))}"
        )
    return arrays


def choose(signature: Signature, output_filter: Sequence[str]) -> tuple[str, ...]:
    """The outputs that a request wants, all without a filter; raises INVALID_ARGUMENT for unknown or repeated ones."""
    seen: dict[str, None] = {}
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_set(signature.outputs)}."
            )
        if alias in seen:
            raise invalid(f"duplicate output tensor alias: {alias}")
        seen[alias] = None
    return tuple(seen) or tuple(signature.outputs)


def _set(names: Collection[str] | Mapping[str, object]) -> str:
    return f"{{{','.join(sorted(names))}}}"
