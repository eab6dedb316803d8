"""The stand-in as a process, spoken to by the official stubs and by plain HTTP."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.tfserving.savedmodel_server import MARK
from tests.unit.serving.tfserving.savedmodel_server.process import ROOT, START_S, Server, request, running
from tests.unit.serving.tfserving.savedmodel_server.saved_models import save_affine, save_zoo

pytestmark = pytest.mark.servers

ENDLESS = 2**31 - 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both models on disk, and a configuration of them."""
    path = tmp_path_factory.mktemp("savedmodel-server")
    save_zoo(path / "zoo")
    save_affine(path / "affine", 1)
    (path / "models.config").write_text(
        f"""
        model_config_list {{
          config {{
            name: "zoo" base_path: "{path}/zoo" model_platform: "tensorflow"
            version_labels {{ key: "stable" value: 1 }}
          }}
          config {{ name: "affine" base_path: "{path}/affine" model_platform: "tensorflow" }}
        }}"""
    )
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A stand-in that serves both."""
    flags = ("--allow_version_labels_for_unavailable_models", "--max_num_load_retries=0")
    with running(folder, f"--model_config_file={folder}/models.config", *flags) as started:
        started.wait_until(started.is_open)
        yield started


ONES = np.ones((1, 2), np.float32)


def test_predict_over_grpc(server: Server) -> None:
    """The official stub decodes the answer, which is typed and carries the mark as initial metadata."""
    response, call = server.prediction.Predict.with_call(request(x=ONES))
    assert ("x-server", MARK) in call.initial_metadata()
    assert response.model_spec.version.value == 1
    assert list(response.outputs["y"].float_val) == [3, 3]


def test_large_messages_pass(server: Server) -> None:
    """More than gRPC's own 4 MiB, in; the client must raise its own limit for the way back."""
    x = np.ones((300_000, 2), np.float32)
    message = request(x=x)
    message.output_filter.append("y")
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=options) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(message)
    assert len(response.outputs["y"].float_val) == x.size
    reply = server.ask("POST", "/v1/models/affine:predict", {"inputs": np.ones((200_000, 2)).tolist()})
    assert len(json.loads(reply.body)["outputs"]) == 200_000


def test_what_is_missing_says_so(server: Server) -> None:
    """UNIMPLEMENTED with a clear word and the mark."""
    with pytest.raises(grpc.RpcError) as caught:
        server.channel.unary_unary("/some.Service/Method")(b"")
    call: Any = caught.value
    assert call.code() is grpc.StatusCode.UNIMPLEMENTED
    assert call.details() == f"/some.Service/Method is not implemented by {MARK}"
    assert ("x-server", MARK) in call.initial_metadata()


def test_metadata_is_the_same_at_both_doors(server: Server) -> None:
    """The signatures of gRPC, and those of REST as JSON."""
    message = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec={"name": "zoo"}, metadata_field=["signature_def"]
    )
    signatures = get_model_metadata_pb2.SignatureDefMap()
    server.prediction.GetModelMetadata(message).metadata["signature_def"].Unpack(signatures)
    document = json.loads(server.ask("GET", "/v1/models/zoo/metadata").body)
    assert document["model_spec"] == {"name": "zoo", "signature_name": "", "version": "1"}
    by_rest = document["metadata"]["signature_def"]["signature_def"]
    assert by_rest.keys() == signatures.signature_def.keys() > {"__saved_model_init_op", "pair"}
    assert by_rest["pair"]["inputs"]["a"]["dtype"] == "DT_FLOAT"
    assert by_rest["pair"]["inputs"]["a"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]


def test_status_is_the_same_at_both_doors(server: Server) -> None:
    """States by name in JSON, by number on the wire."""
    message = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "zoo"})
    (entry,) = server.models.GetModelStatus(message).model_version_status
    assert (entry.version, entry.state) == (1, get_model_status_pb2.ModelVersionStatus.AVAILABLE)
    (by_rest,) = json.loads(server.ask("GET", "/v1/models/zoo").body)["model_version_status"]
    assert by_rest == {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}


PAIR = {"signature_name": "pair", "inputs": {"a": [3], "b": [1]}}
PAIR_ANSWER = {"outputs": {"sum": [4.0], "difference": [2.0]}}


def test_gzip_requests_are_inflated(server: Server) -> None:
    """A body that is no gzip is taken as empty; too large a one as well."""
    path, body = "/v1/models/zoo:predict", json.dumps(PAIR).encode()
    reply = server.ask("POST", path, gzip.compress(body), **{"Content-Encoding": "gzip"})
    assert json.loads(reply.body) == PAIR_ANSWER
    for bad in (body, gzip.compress(b" " * (101 << 20)), gzip.compress(body)[:-4]):
        reply = server.ask("POST", path, bad, **{"Content-Encoding": "gzip"})
        assert json.loads(reply.body) == {"error": "JSON Parse error: The document is empty"}


def exchange(server: Server, *sent: bytes) -> bytes:
    """What comes back for these bytes, each sent once the answer to the one before has begun; then it hangs up."""
    got = b""
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as connection:
        for part in sent:
            connection.sendall(part)
            got += connection.recv(65536)
    return got


def test_bodies_may_be_announced_and_broken_off(server: Server) -> None:
    """`Expect: 100-continue` is answered at once; a bad chunk is refused; a client may hang up."""
    body = json.dumps(PAIR).encode()
    head = b"POST /v1/models/zoo:predict HTTP/1.1\r\nHost: x\r\n"
    got = exchange(server, head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body), body)
    assert got.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    got = exchange(server, head + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n")
    assert b" 400 Bad Request\r\n" in got
    assert f"\r\nx-server: {MARK}\r\n".encode() in got
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as connection:
        connection.sendall(head + b"Content-Length: 100\r\n\r\n{")
    assert server.ask("GET", "/v1/models/zoo").status == 200
    assert "Traceback" not in server.log.read_text()


def test_an_answer_in_rows_to_the_byte(server: Server) -> None:
    """As RapidJSON's PrettyWriter lays it out."""
    reply = server.ask("POST", "/v1/models/affine:predict", b'{"instances": [[0, 0.1], [NaN, 1e10]]} trailing')
    assert reply.body == b'{\n    "predictions": [[1.0, 1.2], [NaN, 2e+10]\n    ]\n}'


def test_a_new_version_takes_over_without_an_error(server: Server, folder: Path) -> None:
    """Under load at both doors every answer is version 1's or 2's; a broken version 3 changes nothing."""
    stop, failures, seen = threading.Event(), [], set()

    def use_grpc() -> None:
        while not stop.is_set():
            try:
                response = server.prediction.Predict(request(x=ONES))
                seen.add((response.model_spec.version.value, response.outputs["y"].float_val[0]))
            except grpc.RpcError as exc:
                failures.append(exc)

    def use_rest() -> None:
        while not stop.is_set():
            reply = server.ask("POST", "/v1/models/affine:predict", {"inputs": [[1, 1]]})
            if reply.status == 200:
                value = json.loads(reply.body)["outputs"][0][0]
                seen.add((int(value) - 2, value))
            else:
                failures.append(reply)

    def states() -> dict[str, str]:
        entries = json.loads(server.ask("GET", "/v1/models/affine").body)["model_version_status"]
        return {entry["version"]: entry["state"] for entry in entries}

    users = [threading.Thread(target=target) for target in (use_grpc, use_grpc, use_rest, use_rest)]
    for user in users:
        user.start()
    try:
        server.wait_until(lambda: (1, 3.0) in seen)
        save_affine(folder / "affine", 2)
        server.wait_until(lambda: states() == {"2": "AVAILABLE", "1": "END"})
        server.wait_until(lambda: (2, 4.0) in seen)
        broken = folder / "aside"
        broken.mkdir()
        (broken / "saved_model.pb").write_bytes(b"no model")
        broken.rename(folder / "affine" / "3")
        server.wait_until(lambda: states() == {"3": "END", "2": "AVAILABLE", "1": "END"})
    finally:
        stop.set()
        for user in users:
            user.join()
    assert failures == []
    assert seen == {(1, 3.0), (2, 4.0)}
    (entry,) = json.loads(server.ask("GET", "/v1/models/affine/versions/3").body)["model_version_status"]
    assert entry["status"]["error_code"] != "OK"
    assert entry["status"]["error_message"]


def test_ports_stay_closed_until_the_model_is_there_and_calls_are_drained(folder: Path) -> None:
    """A missing base path is waited for; calls out of time are cancelled; SIGTERM waits for the call under way."""
    late = folder / "late"
    flags = ("--model_name", "zoo", "--model_base_path", str(late), "--rest_api_timeout_in_ms=500")
    with running(folder, *flags) as server:
        server.wait_until(lambda: "could not find base path" in server.log.read_text())
        assert not server.is_open()
        late.symlink_to(folder / "zoo")
        server.wait_until(server.is_open)

        reply = server.ask("POST", "/v1/models/zoo:predict", {"signature_name": "slow", "inputs": ENDLESS})
        assert (reply.status, json.loads(reply.body)) == (504, {"error": "Timed out waiting for notification"})
        with pytest.raises(grpc.RpcError) as caught:
            server.prediction.Predict(request("slow", steps=np.int32(ENDLESS)), timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]

        # Both were cancelled rather than abandoned: they would take every thread that TensorFlow has.
        steps = np.int32(150_000)
        # As a stream of one answer, since the stub shows a unary call's initial metadata only at its end.
        predict = server.channel.unary_stream(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=predict_pb2.PredictRequest.SerializeToString,
            response_deserializer=predict_pb2.PredictResponse.FromString,
        )
        call = predict(request("slow", steps=steps), timeout=START_S)
        assert ("x-server", MARK) in call.initial_metadata()
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: not server.is_open())
        assert call.is_active()
        assert [list(response.outputs["count"].int_val) for response in call] == [[steps]]
        assert server.process.wait(timeout=30) == 0


def test_a_start_that_must_fail_says_why(server: Server) -> None:
    """An unknown flag before TensorFlow is loaded, a taken port after."""
    command = [sys.executable, "-m", "serving.tfserving.savedmodel_server"]
    unknown = subprocess.run(
        [*command, "--mixed_precision=auto"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert unknown.returncode == 2
    assert "--mixed_precision is a flag of TensorFlow Serving" in unknown.stderr
    taken = subprocess.run(
        [*command, "--model_name=zoo", f"--model_base_path={server.log.parent}/zoo", f"--port={server.grpc_port}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert taken.returncode == 255
    assert f"--port: cannot listen on 0.0.0.0:{server.grpc_port}" in taken.stderr
