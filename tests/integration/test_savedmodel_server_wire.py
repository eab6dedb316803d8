"""The stand-in beside what TensorFlow Serving answers: every row over a real process, by plain HTTP and the stubs."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2, predict_pb2

from serving.tfserving.savedmodel_server import MARK
from tests.integration.savedmodel_server_cases import ALL, JSON, Rest
from tests.unit.serving.tfserving.savedmodel_server.example_models import save_examples
from tests.unit.serving.tfserving.savedmodel_server.process import Server, request, running
from tests.unit.serving.tfserving.savedmodel_server.saved_models import save_affine, save_filter, save_zoo

pytestmark = pytest.mark.servers

ELLIPSIS = "…"
ONE = np.float32([1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A stand-in with all four models, and a label."""
    path = tmp_path_factory.mktemp("wire")
    save_zoo(path / "zoo")
    save_affine(path / "affine", 1)
    save_examples(path / "examples")
    save_filter(path / "filter")
    configs = "".join(
        f'config {{ name: "{name}" base_path: "{path}/{name}" model_platform: "tensorflow" {labels} }}'
        for name, labels in (
            ("zoo", 'version_labels { key: "stable" value: 1 }'),
            ("affine", ""),
            ("examples", ""),
            ("filter", ""),
        )
    )
    (path / "models.config").write_text(f"model_config_list {{ {configs} }}")
    flags = (f"--model_config_file={path}/models.config", "--allow_version_labels_for_unavailable_models")
    with running(path, *flags) as started:
        started.wait_until(started.is_open)
        yield started


@pytest.mark.parametrize("case", ALL, ids=str)
def test_rest(server: Server, case: Rest) -> None:
    """Status, media type, mark, and the body: to the byte where the row has bytes."""
    reply = server.ask(case.method, case.path, case.body, **case.headers)
    assert (reply.status, reply.headers["content-type"]) == (case.status, case.content_type), reply.body
    assert reply.headers["x-server"] == MARK
    assert "server" not in reply.headers
    if case.error is not None:
        assert reply.body.startswith(b'{\n    "error": "')
        _check_text(json.loads(reply.body)["error"], case.error)
    elif isinstance(case.answer, bytes):
        assert reply.body == case.answer
    else:
        assert json.loads(reply.body) == case.answer
    assert (reply.headers.get("connection") == "close") is (case.content_type != JSON)


def _check_text(text: str, expected: str) -> None:
    """Whole, or where the row leaves out a part with an ellipsis the rest."""
    start, gap, end = expected.partition(ELLIPSIS)
    if not gap:
        assert text == expected
    assert text.startswith(start)
    assert text.endswith(end.removeprefix(" "))


def test_a_head_is_malformed_and_has_no_body(server: Server) -> None:
    """As any verb but GET and POST."""
    reply = server.ask("HEAD", "/v1/models/zoo")
    assert (reply.status, reply.body, reply.headers["content-type"]) == (400, b"", JSON)


def test_what_libevent_was_not_told_of_is_not_implemented(server: Server) -> None:
    """Its own page, and the connection closes; what is no HTTP gets its page too."""
    reply = server.ask("TRACE", "/v1/models/zoo")
    assert (reply.status, reply.headers["connection"]) == (501, "close")
    assert reply.body.startswith(b"<HTML><HEAD>\n<TITLE>501 Not Implemented</TITLE>")
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b" 400 Bad Request\r\n" in answer
    assert b"<TITLE>400 Bad Request</TITLE>" in answer


def test_a_preflight_is_answered_by_its_origin(server: Server) -> None:
    """Without a body; without --rest_api_enable_cors_support nothing is allowed."""
    for origin, status in (({"Origin": "https://a"}, 200), ({}, 400), ({"Origin": "null"}, 400)):
        reply = server.ask("OPTIONS", "/v1/models/zoo", **origin)
        assert (reply.status, reply.body) == (status, b"")
        assert "access-control-allow-origin" not in reply.headers


def test_content_encoding_is_read_as_text(server: Server) -> None:
    """Whatever contains gzip is inflated, with its case; anything else is taken as it is."""
    body = {"inputs": [[1, 1]]}
    assert server.ask("POST", "/v1/models/affine:predict", body, **{"Content-Encoding": "br"}).status == 200
    assert server.ask("POST", "/v1/models/affine:predict", body, **{"Content-Encoding": "GZIP"}).status == 200
    reply = server.ask("POST", "/v1/models/affine:predict", body, **{"Content-Encoding": "x-gzip"})
    assert json.loads(reply.body) == {"error": "JSON Parse error: The document is empty"}


def test_connections_are_kept(server: Server) -> None:
    """Answers and errors below /v1/ leave the connection open."""
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
    for path, status in (("/v1/models/zoo", 200), ("/v1/foo", 400), ("/v1/models/zoo", 200)):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
    connection.close()


def test_status_and_metadata_are_laid_out_as_protobuf_does(server: Server) -> None:
    """One space of indentation; the metadata are two documents in a frame of their own."""
    assert server.ask("GET", "/v1/models/zoo").body == (
        b'{\n "model_version_status": [\n  {\n   "version": "1",\n   "state": "AVAILABLE",\n   "status": {\n'
        b'    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n'
    )
    body = server.ask("GET", "/v1/models/zoo/labels/stable/metadata").body
    assert body.startswith(b'{\n"model_spec":{\n "name": "zoo",\n "version": "1",\n "signature_name": ""\n}\n,\n')
    assert b'"metadata": {"signature_def": {\n "signature_def": {\n  "__saved_model_init_op": {\n' in body
    assert body.endswith(b"}\n}\n}\n")


def spec(name: str, signature: str = "", *, version: int | None = None, label: str = "") -> model_pb2.ModelSpec:
    """A model, perhaps with a version or a label."""
    message = model_pb2.ModelSpec(name=name, signature_name=signature)
    if version is not None:
        message.version.value = version
    if label:
        message.version_label = label
    return message


def filtered(*names: str) -> predict_pb2.PredictRequest:
    """A request to `pair` for these outputs."""
    message = request("pair", a=ONE, b=ONE)
    message.output_filter.extend(names)
    return message


def broken() -> predict_pb2.PredictRequest:
    """A tensor of the wrong size."""
    message = request(x=np.ones((1, 2), np.float32))
    message.inputs["x"].tensor_content = b"\0\0\0"
    return message


def metadata(model: model_pb2.ModelSpec | None, *fields: str) -> get_model_metadata_pb2.GetModelMetadataRequest:
    """A question for metadata."""
    return get_model_metadata_pb2.GetModelMetadataRequest(model_spec=model, metadata_field=fields)


def of_status(model: model_pb2.ModelSpec | None) -> get_model_status_pb2.GetModelStatusRequest:
    """A question for states."""
    return get_model_status_pb2.GetModelStatusRequest(model_spec=model)


CODES = grpc.StatusCode
PREDICT, METADATA, STATUS = "Predict", "GetModelMetadata", "GetModelStatus"
LONG = "s" * 2000
SIZES = "input size does not match signature: "
GRPC_ERRORS: list[tuple[str, Any, grpc.StatusCode, str]] = [
    (PREDICT, predict_pb2.PredictRequest(), CODES.INVALID_ARGUMENT, "Missing ModelSpec"),
    (PREDICT, predict_pb2.PredictRequest(model_spec=spec("")), CODES.INVALID_ARGUMENT,
     "ModelSpec has no name specified."),
    (PREDICT, predict_pb2.PredictRequest(model_spec=spec("m")), CODES.NOT_FOUND,
     "Servable not found for request: Latest(m)"),
    (PREDICT, predict_pb2.PredictRequest(model_spec=spec("zoo", version=99)), CODES.NOT_FOUND,
     "Servable not found for request: Specific(zoo, 99)"),
    (PREDICT, predict_pb2.PredictRequest(model_spec=spec("nope", label="x")), CODES.INVALID_ARGUMENT,
     "Unrecognized servable version label: x"),
    (PREDICT, request("s"), CODES.FAILED_PRECONDITION, 'Serving signature key "s" not found.'),
    (PREDICT, request(LONG), CODES.FAILED_PRECONDITION, ('Serving signature key "' + LONG)[:1024] + "...TRUNCATED"),
    (PREDICT, request("pair", a=ONE), CODES.INVALID_ARGUMENT,
     SIZES + "1!=2 len({a}) != len({a,b}). Sent extra: {}. Missing but required: {b}."),
    (PREDICT, request(x=ONE, z=ONE), CODES.INVALID_ARGUMENT,
     SIZES + "2!=1 len({x,z}) != len({x}). Sent extra: {z}. Missing but required: {}."),
    (PREDICT, request("pair", a=ONE, c=ONE), CODES.INVALID_ARGUMENT,
     "Signature input alias: b(feed name: pair_b:0) not found in request …"),
    (PREDICT, request("scaled", x=ONE, y=ONE), CODES.INVALID_ARGUMENT, "Inputs contains invalid name. …"),
    (PREDICT, broken(), CODES.INVALID_ARGUMENT, "tensor parsing error: x"),
    (PREDICT, request(x=True), CODES.INVALID_ARGUMENT, "Expects arg[0] to be float but bool is provided"),
    (PREDICT, filtered("nope"), CODES.INVALID_ARGUMENT, "output tensor alias not found in signature: nope …"),
    (PREDICT, filtered("sum", "sum"), CODES.INVALID_ARGUMENT, "duplicate output tensor alias: sum"),
    (PREDICT, request("pair", a=np.float32([1, 2]), b=np.float32([1, 2, 3])), CODES.INVALID_ARGUMENT,
     "Incompatible shapes: …"),
    (METADATA, metadata(None), CODES.INVALID_ARGUMENT, "Missing ModelSpec"),
    (METADATA, metadata(spec("zoo")), CODES.INVALID_ARGUMENT,
     "GetModelMetadataRequest must specify at least one metadata_field"),
    (METADATA, metadata(spec("zoo"), "signature_def", "X"), CODES.INVALID_ARGUMENT,
     "Metadata field X is not supported"),
    (METADATA, metadata(spec("m"), "signature_def"), CODES.NOT_FOUND, "Servable not found for request: Latest(m)"),
    (STATUS, of_status(None), CODES.INVALID_ARGUMENT, "Missing ModelSpec"),
    (STATUS, of_status(spec("m")), CODES.NOT_FOUND, "Could not find any versions of model m"),
    (STATUS, of_status(spec("zoo", version=9)), CODES.NOT_FOUND, "Could not find version 9 of model zoo"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "message", "code", "text"), GRPC_ERRORS)
def test_errors_over_grpc(server: Server, method: str, message: Any, code: grpc.StatusCode, text: str) -> None:
    """Code, text and mark."""
    stub = server.models if method == STATUS else server.prediction
    with pytest.raises(grpc.RpcError) as caught:
        getattr(stub, method)(message)
    call: Any = caught.value
    assert call.code() is code
    _check_text(call.details(), text)
    assert ("x-server", MARK) in call.initial_metadata()


@pytest.mark.parametrize(
    "shape", [(), (0,), (1,), (1, 4), (1, 4, 4), (1, 4, 4, 2), (1, 4, 4, 1, 1), (1, 0, 4, 1)], ids=str
)
def test_no_shape_ends_the_server(server: Server, shape: tuple[int, ...]) -> None:
    """What a kernel would fail a CHECK over is refused before it, at both doors, and the next request is answered."""
    x = np.ones(shape, np.float32)
    text = f"Expects arg[0] to be of shape [?,4,4,1] but [{','.join(map(str, shape))}] is provided"
    message = request(x=x)
    message.model_spec.name = "filter"
    with pytest.raises(grpc.RpcError) as caught:
        server.prediction.Predict(message)
    call: Any = caught.value
    assert (call.code(), call.details()) == (CODES.INVALID_ARGUMENT, text)
    if 0 not in shape[:-1]:
        reply = server.ask("POST", "/v1/models/filter:predict", {"inputs": x.tolist()})
        assert (reply.status, json.loads(reply.body)) == (400, {"error": text})
    good = server.ask("POST", "/v1/models/filter:predict", {"instances": np.ones((1, 4, 4, 1)).tolist()})
    assert (good.status, json.loads(good.body)) == (200, {"predictions": [[[[9.0] * 2] * 2] * 2]})


def test_answers_over_grpc(server: Server) -> None:
    """By version and by label; every answer names what gave it, in typed values; defaults are used here."""
    for model in (spec("zoo", "pair", version=1), spec("zoo", "pair", label="stable")):
        message = filtered("sum")
        message.model_spec.CopyFrom(model)
        answer = server.prediction.Predict(message)
        assert answer.model_spec == spec("zoo", "pair", version=1)
        assert {name: list(tensor.float_val) for name, tensor in answer.outputs.items()} == {"sum": [2]}
    assert list(server.prediction.Predict(request("scaled", x=ONE)).outputs["y"].float_val) == [3]
    answer = server.prediction.GetModelMetadata(metadata(spec("zoo", label="stable"), "signature_def"))
    assert answer.model_spec == spec("zoo", version=1)
    assert list(answer.metadata) == ["signature_def"]
    (entry,) = server.models.GetModelStatus(of_status(spec("zoo", label="no-such-label"))).model_version_status
    assert (entry.version, entry.state, entry.status.error_code) == (1, 30, 0)
