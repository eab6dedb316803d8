"""The calls over tf.Examples: Classify, Regress and MultiInference, in TensorFlow Serving's order of checks.

Everything here blocks and runs off the event loop, in a thread of the pool. `deadline` is a time.monotonic().
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from grpc import StatusCode
from tensorflow_serving.apis import classification_pb2, inference_pb2, model_pb2, regression_pb2

from serving.tfserving.savedmodel_server import classify as rules
from serving.tfserving.savedmodel_server import rapidjson
from serving.tfserving.savedmodel_server.classify import CLASSIFY, REGRESS, Classification, Regression
from serving.tfserving.savedmodel_server.errors import ServingError, invalid
from serving.tfserving.savedmodel_server.examples import ExamplesRequest, fill, serialized
from serving.tfserving.savedmodel_server.executor import DEFAULT_SIGNATURE, Servable, Signature
from serving.tfserving.savedmodel_server.runtime import Runtime
from serving.tfserving.savedmodel_server.tensors import NDArray
from serving.tfserving.savedmodel_server.versions import Versions

Result: TypeAlias = Classification | Regression


@dataclass(frozen=True, slots=True)
class _Kind:
    """What tells classification from regression: the API's name, the signature's checks, the tensors' meaning."""

    api: str
    check: Callable[..., tuple[str, ...]]
    result: Callable[[dict[str, NDArray], int], Result]


_CLASSIFY = _Kind("Classify", rules.check_classification, rules.classification)
_REGRESS = _Kind("Regress", rules.check_regression, rules.regression)
_KINDS = {CLASSIFY: _CLASSIFY, REGRESS: _REGRESS}


def classify(
    versions: Versions,
    request: classification_pb2.ClassificationRequest,
    deadline: float | None = None,
    runtime: Runtime | None = None,
) -> classification_pb2.ClassificationResponse:
    """The gRPC method; raises ServingError."""
    answer = classification_pb2.ClassificationResponse()
    result = _one(_CLASSIFY, versions, request, deadline, runtime, answer.model_spec)
    answer.result.CopyFrom(result.message())
    return answer


def regress(
    versions: Versions,
    request: regression_pb2.RegressionRequest,
    deadline: float | None = None,
    runtime: Runtime | None = None,
) -> regression_pb2.RegressionResponse:
    """The gRPC method; raises ServingError."""
    answer = regression_pb2.RegressionResponse()
    result = _one(_REGRESS, versions, request, deadline, runtime, answer.model_spec)
    answer.result.CopyFrom(result.message())
    return answer


def classify_json(
    versions: Versions,
    spec: model_pb2.ModelSpec,
    body: bytes,
    deadline: float | None = None,
    runtime: Runtime | None = None,
) -> bytes:
    """The REST call; raises ServingError."""
    request = classification_pb2.ClassificationRequest(model_spec=spec)
    return _one_json(_CLASSIFY, versions, request, body, deadline, runtime).json()


def regress_json(
    versions: Versions,
    spec: model_pb2.ModelSpec,
    body: bytes,
    deadline: float | None = None,
    runtime: Runtime | None = None,
) -> bytes:
    """The REST call; raises ServingError."""
    request = regression_pb2.RegressionRequest(model_spec=spec)
    return _one_json(_REGRESS, versions, request, body, deadline, runtime).json()


def multi_inference(
    versions: Versions,
    request: inference_pb2.MultiInferenceRequest,
    deadline: float | None = None,
    runtime: Runtime | None = None,
) -> inference_pb2.MultiInferenceResponse:
    """The gRPC method: several signatures of one model, over the same examples; raises ServingError.

    The first task says which version (multi_inference_helper.cc). TensorFlow Serving runs the graph once for all of
    the signatures; here each runs by itself, with the same answer.
    """
    runtime = runtime or Runtime()
    first = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
    response = inference_pb2.MultiInferenceResponse()
    with versions.using(first) as (number, servable):
        tasks = _tasks(request, servable, runtime)
        strings = serialized(request.input)
        for spec, kind, signature, wanted in tasks:
            arrays = signature.run({rules.INPUTS: strings}, wanted, deadline)
            answer = response.results.add()
            _fill_spec(answer.model_spec, spec, number)
            match kind.result(arrays, len(strings)):
                case Classification() as found:
                    answer.classification_result.CopyFrom(found.message())
                case Regression() as found:
                    answer.regression_result.CopyFrom(found.message())
    runtime.metrics.examples(first.name, len(strings))
    return response


def _one_json(
    kind: _Kind,
    versions: Versions,
    request: ExamplesRequest,
    body: bytes,
    deadline: float | None,
    runtime: Runtime | None,
) -> Result:
    try:
        fill(request, body)
        return _one(kind, versions, request, deadline, runtime, model_pb2.ModelSpec())
    except RecursionError:
        raise rapidjson.too_deep() from None


def _one(
    kind: _Kind,
    versions: Versions,
    request: ExamplesRequest,
    deadline: float | None,
    runtime: Runtime | None,
    answered_by: model_pb2.ModelSpec,
) -> Result:
    """The result of one signature; fills `answered_by`."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    runtime = runtime or Runtime()
    spec = request.model_spec
    with versions.using(spec) as (number, servable):
        name = spec.signature_name or DEFAULT_SIGNATURE
        definition = servable.signature_defs.get(name)
        if definition is None:
            raise invalid(f"No signature was found with the name: {name}")
        wanted = kind.check(definition, method_name=runtime.check_method_names)
        signature = _loaded(servable, name)
        strings = serialized(request.input)
        arrays = runtime.run(spec.name, kind.api, signature, {rules.INPUTS: strings}, wanted, deadline)
    runtime.metrics.examples(spec.name, len(strings))
    _fill_spec(answered_by, spec, number)
    return kind.result(arrays, len(strings))


def _tasks(
    request: inference_pb2.MultiInferenceRequest, servable: Servable, runtime: Runtime
) -> list[tuple[model_pb2.ModelSpec, _Kind, Signature, tuple[str, ...]]]:
    """Every task checked against its signature and the other tasks, as multi_inference.cc does."""
    tasks = []
    seen: dict[str, str] = {}
    for task in request.tasks:
        spec = task.model_spec
        if not spec.name:
            raise invalid("Found ModelSpec with an empty model name.")
        if spec.name != request.tasks[0].model_spec.name:
            raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        name = spec.signature_name or DEFAULT_SIGNATURE
        if name in seen:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        definition = servable.signature_defs.get(name)
        if definition is None:
            raise invalid(f"Requested signature not found in model graph: {name}")
        kind = _KINDS.get(task.method_name)
        if kind is None:
            raise ServingError(StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
        wanted = kind.check(definition, method_name=runtime.check_method_names)
        seen[name] = definition.inputs[rules.INPUTS].name
        if len(set(seen.values())) > 1:
            raise invalid("Input tensor must be the same for all Signatures.")
        tasks.append((spec, kind, _loaded(servable, name), wanted))
    return tasks


def _loaded(servable: Servable, name: str) -> Signature:
    signature = servable.signature(name)
    if signature is None:
        raise invalid(f"No signature was found with the name: {name}")
    return signature


def _fill_spec(answered_by: model_pb2.ModelSpec, asked: model_pb2.ModelSpec, number: int) -> None:
    answered_by.name = asked.name
    answered_by.version.value = number
    answered_by.signature_name = asked.signature_name or DEFAULT_SIGNATURE
