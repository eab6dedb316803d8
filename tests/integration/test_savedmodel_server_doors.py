"""The stand-in's doors over a real process: tf.Example calls, reload, metrics, a socket, TLS, health, CORS."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.tfserving.savedmodel_server import MARK
from tests.unit.serving.tfserving.savedmodel_server.example_models import CLASSIFY, REGRESS, save_examples
from tests.unit.serving.tfserving.savedmodel_server.process import Server, request, running
from tests.unit.serving.tfserving.savedmodel_server.saved_models import save_affine

pytestmark = pytest.mark.servers

ONES = np.ones((1, 2), np.float32)
METRICS = "/monitoring/prometheus/metrics"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models, and the files that the flags name."""
    path = tmp_path_factory.mktemp("doors")
    save_affine(path / "affine", 1)
    save_examples(path / "examples")
    (path / "models.config").write_text(f"model_config_list {{ {entry(path, 'affine')} {entry(path, 'examples')} }}")
    (path / "monitoring.config").write_text("prometheus_config { enable: true }")
    return path


def entry(path: Path, name: str, more: str = "") -> str:
    """A model in a configuration."""
    return f'config {{ name: "{name}" base_path: "{path}/{name}" model_platform: "tensorflow" {more} }}'


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A stand-in with everything turned on that goes together."""
    flags = (
        f"--model_config_file={folder}/models.config",
        f"--monitoring_config_file={folder}/monitoring.config",
        f"--grpc_socket_path={folder}/s",
        "--rest_api_enable_cors_support",
        "--enable_grpc_healthcheck_service",
        "--rest_api_num_threads=2",
        "--grpc_max_threads=2",
    )
    with running(folder, *flags) as started:
        started.wait_until(started.is_open)
        yield started


def one_example(x: float) -> input_pb2.Input:
    """An Input with one example."""
    message = input_pb2.Input()
    message.example_list.examples.add().features.feature["x"].float_list.value.append(x)
    return message


def test_examples_over_the_stubs(server: Server) -> None:
    """Classify, Regress and MultiInference, with the mark."""
    spec: Any = {"name": "examples"}
    message = classification_pb2.ClassificationRequest(model_spec=spec, input=one_example(0.25))
    answer, call = server.prediction.Classify.with_call(message)
    assert [one.label for one in answer.result.classifications[0].classes] == ["no", "other"]
    assert ("x-server", MARK) in call.initial_metadata()
    spec = {"name": "examples", "signature_name": "regress"}
    regression = regression_pb2.RegressionRequest(model_spec=spec, input=one_example(0.25))
    assert server.prediction.Regress(regression).result.regressions[0].value == 0.5
    tasks: Any = [
        {"model_spec": {"name": "examples"}, "method_name": CLASSIFY},
        {"model_spec": spec, "method_name": REGRESS},
    ]
    both = server.prediction.MultiInference(inference_pb2.MultiInferenceRequest(tasks=tasks, input=one_example(0.25)))
    assert [result.WhichOneof("result") for result in both.results] == ["classification_result", "regression_result"]
    with pytest.raises(grpc.RpcError) as caught:
        server.prediction.Regress(regression_pb2.RegressionRequest(model_spec=spec))
    refused: Any = caught.value
    assert (refused.code(), refused.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "Input is empty.")


def values(page: str, name: str) -> dict[str, int]:
    """The whole numbers of a metric by their labels."""
    found = re.findall(rf"^:tensorflow:serving:{name}\{{(.*)\}} (\d+)$", page, re.MULTILINE)
    return {labels: int(number) for labels, number in found}


def test_what_is_asked_is_counted(server: Server) -> None:
    """Models as clients spell them; latencies of what was answered only; the page itself and gRPC status are not."""
    before = values(server.ask("GET", METRICS).body.decode(), "request_count")
    for body in ({"inputs": [[1, 1]]}, {"inputs": [[2, 2]]}, {"inputs": "x"}):
        server.ask("POST", "/v1/models/affine:predict", body)
    server.ask("POST", "/v1/models/a%22b:regress", {"examples": [{}]})
    server.ask("GET", "/v1/foo")
    server.prediction.Predict(request(x=ONES))
    with pytest.raises(grpc.RpcError):
        server.prediction.Predict(request(x=True))
    reply = server.ask("GET", METRICS)
    assert (reply.status, reply.headers["content-type"], reply.headers["x-server"]) == (200, "text/plain", MARK)
    page = reply.body.decode()
    after = values(page, "request_count")
    more = {labels: number - before.get(labels, 0) for labels, number in after.items() if number != before.get(labels)}
    assert more == {
        'model_name="affine",status="OK"': 3,
        'model_name="affine",status="INVALID_ARGUMENT"': 2,
        r'model_name="a\"b",status="NOT_FOUND"': 1,
        'model_name="",status="INVALID_ARGUMENT"': 1,
    }
    latencies = values(page, "request_latency_count")
    assert latencies['model_name="affine",API="predict",entrypoint="REST"'] == 2
    assert latencies['model_name="affine",API="Predict",entrypoint="GRPC"'] == 1
    assert values(page, "runtime_latency_count")['model_name="affine",API="Predict",runtime="TF1"'] == 3
    assert f'load_attempt_count{{model_path="{server.log.parent}/affine/1",status="success"}} 1' in page


def test_the_page_has_exactly_one_path(server: Server) -> None:
    """A query string is another path."""
    reply = server.ask("GET", f"{METRICS}?x=1")
    assert (reply.status, reply.headers["content-type"]) == (400, "text/plain")
    assert reply.body.decode() == f"Unexpected path: {METRICS}?x=1. Should be {METRICS}"
    assert server.ask("GET", METRICS.upper()).status == 404


def test_pages_of_any_origin_may_ask(server: Server) -> None:
    """--rest_api_enable_cors_support, for answers, errors and preflights."""
    for method, path, status in (("GET", "/v1/models/affine", 200), ("GET", "/v1/x", 400), ("OPTIONS", "/v1/x", 200)):
        reply = server.ask(method, path, Origin="http://a")
        assert reply.status == status
        assert reply.headers["access-control-allow-origin"] == "*"
        assert reply.headers["access-control-allow-methods"] == "POST, GET"
        assert reply.headers["access-control-allow-headers"] == "Content-Type"


def test_health_by_short_names(server: Server) -> None:
    """Not the qualified ones (server.cc)."""
    stub = health_pb2_grpc.HealthStub(server.channel)
    for name in ("", "ModelService", "PredictionService"):
        answer, call = stub.Check.with_call(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert ("x-server", MARK) in call.initial_metadata()
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="tensorflow.serving.ModelService"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="ModelService"))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_the_socket_answers_as_the_port_does(server: Server) -> None:
    """--grpc_socket_path, beside --port."""
    with grpc.insecure_channel(f"unix:{server.log.parent}/s") as channel:
        answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request(x=ONES))
    assert answer == server.prediction.Predict(request(x=ONES))


def reload_request(text: str, *metrics: str) -> model_management_pb2.ReloadConfigRequest:
    """A new configuration."""
    message = model_management_pb2.ReloadConfigRequest(metric_names=metrics)
    text_format.Parse(text, message.config)
    return message


def test_the_configuration_is_replaced_by_rpc(server: Server, folder: Path) -> None:
    """Models left out are unloaded, new ones are there when the answer is; a refusal changes nothing."""
    save_affine(folder / "second", 1)
    known = "/tensorflow/cc/saved_model/load_attempt_count"
    both = f"model_config_list {{ {entry(folder, 'affine')} {entry(folder, 'second')} }}"
    message = reload_request(both, known, known, "/unknown")
    answer, call = server.models.HandleReloadConfigRequest.with_call(message)
    assert ("x-server", MARK) in call.initial_metadata()
    assert (answer.status.error_code, answer.status.error_message) == (0, "")
    assert {metric.name: metric.int64_value_increase for metric in answer.metric} == {known: 0, "/unknown": 0}
    assert server.ask("POST", "/v1/models/second:predict", {"inputs": [[1, 1]]}).status == 200
    server.wait_until(lambda: server.ask("GET", "/v1/models/examples/metadata").status == 404)

    label = entry(folder, "affine", 'version_labels { key: "new" value: 2 }')
    relative = 'config { name: "affine" base_path: "affine" model_platform: "tensorflow" }'
    code = grpc.StatusCode
    for text, expected, details in (
        ("", code.INVALID_ARGUMENT, "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "),
        (
            f"model_config_list {{ {relative} }}",
            code.INVALID_ARGUMENT,
            "Expected model affine to have an absolute path",
        ),
        (
            f"model_config_list {{ {entry(folder, 'affine') * 2} }}",
            code.INVALID_ARGUMENT,
            "Illegal to list model affine multiple times in config list",
        ),
        (
            f"model_config_list {{ {label} }}",
            code.FAILED_PRECONDITION,
            "Request to assign label to version 2 of model affine, which is not currently available for inference",
        ),
        (both.replace('"tensorflow"', '"other"'), code.INVALID_ARGUMENT, "Illegal to change a model's platform."),
        (both.replace('"tensorflow"', '""'), code.INVALID_ARGUMENT, "Illegal setting neither "),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            server.models.HandleReloadConfigRequest(reload_request(text))
        refused: Any = caught.value
        assert refused.code() is expected
        assert refused.details().startswith(details)
        assert server.prediction.Predict(request(x=ONES)).model_spec.version.value == 1


def test_a_socket_and_tls_without_a_port(folder: Path) -> None:
    """--port=0 leaves the socket; --ssl_config_file holds PEM texts, and clients without a certificate are refused."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=standin"]
    names = ["-addext", "subjectAltName=DNS:standin", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    pem = cert.read_text()
    texts = {"server_key": key.read_text(), "server_cert": pem, "custom_ca": pem}
    lines = [f"{name}: {text!r}" for name, text in texts.items()]
    (folder / "ssl.config").write_text("\n".join([*lines, "client_verify: true"]))
    flags = ("--model_name=affine", f"--model_base_path={folder}/affine", f"--grpc_socket_path={folder}/t")
    with running(folder, *flags, "--port=0", f"--ssl_config_file={folder}/ssl.config") as server:
        server.wait_until(server.is_open)
        options = [("grpc.ssl_target_name_override", "standin")]
        trusted = grpc.ssl_channel_credentials(pem.encode(), key.read_bytes(), pem.encode())
        stranger = grpc.ssl_channel_credentials(pem.encode())
        for credentials, welcome in ((trusted, True), (stranger, False)):
            with grpc.secure_channel(f"unix:{folder}/t", credentials, options) as channel:
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                if welcome:
                    assert list(stub.Predict(request(x=ONES), timeout=30).outputs["y"].float_val) == [3, 3]
                else:
                    with pytest.raises(grpc.RpcError) as caught:
                        stub.Predict(request(x=ONES), timeout=30)
                    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        with pytest.raises(grpc.RpcError):
            server.prediction.Predict(request(x=ONES), timeout=30)


def test_a_file_that_cannot_be_read_ends_the_start(folder: Path) -> None:
    """With TensorFlow Serving's exit code, before any model is loaded."""
    flags = ("--model_name=affine", f"--model_base_path={folder}/nowhere")
    (folder / "bad.config").write_text("prometheus { }")
    for file, text in (("bad.config", "Invalid protobuf file: "), ("none.config", "NOT_FOUND: ")):
        with running(folder, *flags, f"--monitoring_config_file={folder}/{file}") as server:
            assert server.process.wait(timeout=60) == 255
            log = server.log.read_text()
            assert "Failed to start server. Error: " in log
            assert text in log
