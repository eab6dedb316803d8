"""Questions to servers: what they are waited for, and what they are."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from serving import probes
from serving.settings import Ports
from tests.unit.serving.tiny import SCRIPT, until

Answers = dict[str, tuple[int, object]]


@contextmanager
def _serving(answers: Answers, headers: dict[str, str] | None = None) -> Iterator[int]:
    """A server that knows these answers by `METHOD path`; it answers 404 to everything else. Yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            status, body = answers.get(f"{self.command} {self.path}", (404, {}))
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_OPTIONS = do_POST = _answer  # noqa: N815 - the library's names

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


HEALTHY = {"GET /ping": (200, {"status": "Healthy"})}
READY = {"GET /models/m": (200, [{"workers": [{"status": "UNLOADING"}, {"status": "READY"}]}])}


@pytest.mark.parametrize(
    ("answers", "lacks"),
    [
        ({}, "an answer to /ping"),
        ({"GET /ping": (500, {"status": "Unhealthy"})}, "an answer to /ping"),
        (HEALTHY, "a READY worker of model 'm'"),
        ({**HEALTHY, "GET /models/m": (200, [{"workers": [{"status": "UNLOADING"}]}])}, "a READY worker of model 'm'"),
        ({**HEALTHY, "GET /models/m": (200, [{"workers": []}])}, "a READY worker of model 'm'"),
        ({**HEALTHY, "GET /models/m": (200, b"no JSON")}, "a READY worker of model 'm'"),
        ({**HEALTHY, **READY}, None),
    ],
)
def test_torchserve_is_ready_with_a_ready_worker(answers: Answers, lacks: str | None) -> None:
    """/ping is healthy while workers load: the models' workers are asked for too."""
    with _serving(answers) as port:
        assert probes.torchserve_waits_for("127.0.0.1", port, port, ["m"])() == lacks


@pytest.mark.parametrize(
    ("answers", "lacks"),
    [
        ({}, "an AVAILABLE version of model 'm'"),
        ({"GET /v1/models/m": (200, {"model_version_status": []})}, "an AVAILABLE version of model 'm'"),
        (
            {"GET /v1/models/m": (200, {"model_version_status": [{"version": "1", "state": "LOADING"}]})},
            "an AVAILABLE version of model 'm'",
        ),
        ({"GET /v1/models/m": (200, {"model_version_status": [{"version": "1", "state": "AVAILABLE"}]})}, None),
    ],
)
def test_tensorflow_serving_is_ready_with_an_available_version(answers: Answers, lacks: str | None) -> None:
    """A version that still loads does not count."""
    with _serving(answers) as port:
        assert probes.tfserving_waits_for("127.0.0.1", port, ["m"])() == lacks


@pytest.mark.parametrize(
    ("status", "lacks"),
    [(503, "an answer of digits on ts"), (502, "an answer of digits on ts"), (422, None), (200, None)],
)
def test_the_gateway_is_ready_when_it_answers(status: int, lacks: str | None) -> None:
    """Unavailable is not ready; an answer that refuses the input is one."""
    with _serving({"POST /predict": (status, {})}) as port:
        assert probes.gateway_waits_for("127.0.0.1", port, {"digits on ts": b"{}"})() == lacks


def test_a_question_that_was_answered_is_not_asked_again() -> None:
    """Until all are answered, each is asked only as long as it must be."""
    with _serving({"POST /predict": (200, {})}) as port:
        waiting_for = probes.gateway_waits_for("127.0.0.1", port, {"digits on ts": b"{}", "digits on tf": b"{}"})
        assert waiting_for() is None
    assert waiting_for() is None


WAITS: list[Callable[[int], str | None]] = [
    lambda port: probes.torchserve_waits_for("127.0.0.1", port, port, ["m"])(),
    lambda port: probes.tfserving_waits_for("127.0.0.1", port, ["m"])(),
    lambda port: probes.gateway_waits_for("127.0.0.1", port, {"digits on ts": b"{}"})(),
]


@pytest.mark.parametrize("waits", WAITS)
def test_where_nothing_listens_something_is_lacking(waits: Callable[[int], str | None]) -> None:
    """A refused connection is no error: the server is just not there yet."""
    assert waits(Ports.free().gateway_rest_port) is not None


def test_servers_tell_what_they_are() -> None:
    """TorchServe in its API description, the stand-in in a header, the gateway in its metadata."""
    answers: Answers = {
        "OPTIONS /": (200, {"info": {"title": "TorchServe APIs", "version": "0.12.0"}}),
        "GET /v1/models/m": (200, {}),
        "GET /v2": (200, {"name": "twinserve", "version": "0.1.0"}),
    }
    with _serving(answers, {"x-server": "savedmodel-server/1.0 (stand-in)"}) as port:
        assert probes.torchserve_name("127.0.0.1", port) == "TorchServe 0.12.0"
        assert probes.tfserving_name("127.0.0.1", port, "m", "other") == "savedmodel-server 1.0 (stand-in)"
        assert probes.gateway_name("127.0.0.1", port) == "twinserve gateway 0.1.0"
    with _serving({"GET /v1/models/m": (200, {})}) as port:
        assert probes.tfserving_name("127.0.0.1", port, "m", "TensorFlow Serving 2.19.1") == "TensorFlow Serving 2.19.1"
        assert probes.torchserve_name("127.0.0.1", port) == "TorchServe"
        assert probes.gateway_name("127.0.0.1", port) == "twinserve gateway"


def test_proxies_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment could not reach this machine's loopback."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with _serving(HEALTHY) as port:
        answer = probes.ask("127.0.0.1", port, "/ping")
    assert answer is not None
    assert answer.status == 200


def test_the_owner_of_a_port_is_named() -> None:
    """The process that listens on it, where this user may see it."""
    port = Ports.free().gateway_rest_port
    with subprocess.Popen([sys.executable, "-I", "-S", str(SCRIPT), str(port)], stdout=subprocess.DEVNULL) as process:
        until(lambda: probes.ask("127.0.0.1", port, "/") is not None)
        owner = probes.owner_of(port)
        process.kill()
    assert f"by process {process.pid} (python" in owner
    assert probes.owner_of(port) == ""
