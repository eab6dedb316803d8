"""Short questions to servers on this machine: do they answer, are their models loaded, what are they?"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_S = 2.0
# TensorFlow prepares a model's graph at its first inference.
FIRST_INFERENCE_S = 30.0
UNAVAILABLE = (http.client.BAD_GATEWAY, http.client.SERVICE_UNAVAILABLE, http.client.GATEWAY_TIMEOUT)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: its status, its headers in lower case, its body."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:  # noqa: ANN401 - any JSON
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def ask(
    host: str, port: int, path: str, method: str = "GET", *, body: bytes | None = None, timeout_s: float = TIMEOUT_S
) -> Answer | None:
    """One request, without proxies; None where nothing answers in time."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request(method, path, body, {} if body is None else {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def torchserve_waits_for(host: str, rest: int, management: int, models: Iterable[str]) -> Callable[[], str | None]:
    """What TorchServe still lacks: /ping, then a READY worker of every model.

    /ping alone is healthy while workers are loading, and even while they crash in a loop.
    """

    def waiting_for() -> str | None:
        answer = ask(host, rest, "/ping")
        if answer is None or answer.status != http.client.OK:
            return "an answer to /ping"
        for model in models:
            if not torchserve_has_worker(host, management, model):
                return f"a READY worker of model '{model}'"
        return None

    return waiting_for


def torchserve_has_worker(host: str, management: int, model: str) -> bool:
    """Whether TorchServe has a READY worker of a model."""
    described = ask(host, management, f"/models/{model}")
    versions = described.json() if described else None
    workers = versions[0].get("workers", []) if isinstance(versions, list) and versions else []
    return any(worker.get("status") == "READY" for worker in workers)


def torchserve_name(host: str, rest: int) -> str:
    """The running TorchServe with its version, which its API description tells."""
    answer = ask(host, rest, "/", "OPTIONS")
    described = answer.json() if answer else None
    version = described.get("info", {}).get("version", "") if isinstance(described, dict) else ""
    return f"TorchServe {version}".rstrip()


def tfserving_waits_for(host: str, rest: int, models: Iterable[str]) -> Callable[[], str | None]:
    """What a server of TensorFlow Serving's protocol still lacks: an AVAILABLE version of every model."""

    def waiting_for() -> str | None:
        for model in models:
            answer = ask(host, rest, f"/v1/models/{model}")
            status = answer.json() if answer else None
            versions = status.get("model_version_status", []) if isinstance(status, dict) else []
            if not any(version.get("state") == "AVAILABLE" for version in versions):
                return f"an AVAILABLE version of model '{model}'"
        return None

    return waiting_for


def tfserving_name(host: str, rest: int, model: str, otherwise: str) -> str:
    """The running server: what its x-server header says, as the stand-in's does, else `otherwise`."""
    answer = ask(host, rest, f"/v1/models/{model}")
    mark = answer.headers.get("x-server") if answer else None
    return mark.replace("/", " ", 1) if mark else otherwise


def gateway_waits_for(host: str, rest: int, questions: Mapping[str, bytes]) -> Callable[[], str | None]:
    """What the gateway still lacks: an answer to each question, bodies of /predict by what they ask for.

    Its own readiness means that *some* endpoint can answer for each model; here every endpoint must. Any answer but
    "unavailable" counts: zeros need not be valid input.
    """
    answered = set[str]()

    def waiting_for() -> str | None:
        for what, body in questions.items():
            if what in answered:
                continue
            answer = ask(host, rest, "/predict", "POST", body=body, timeout_s=FIRST_INFERENCE_S)
            if answer is None or answer.status in UNAVAILABLE:
                return f"an answer of {what}"
            answered.add(what)
        return None

    return waiting_for


def gateway_name(host: str, rest: int) -> str:
    """The running gateway with its version, which its server metadata tells."""
    answer = ask(host, rest, "/v2")
    metadata = answer.json() if answer else None
    version = metadata.get("version", "") if isinstance(metadata, dict) else ""
    return f"twinserve gateway {version}".rstrip()


def owner_of(port: int) -> str:
    """The process that listens on `port`, as a phrase; empty where this user may not see it."""
    import psutil  # noqa: PLC0415 - only where a port is taken

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                name = psutil.Process(connection.pid).name()
                return f" by process {connection.pid} ({name})" if connection.pid != os.getpid() else ""
    except psutil.Error:
        return ""
    return ""
