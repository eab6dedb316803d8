"""The real TorchServe with token authorization on, and handlers in it that are not ours."""

from __future__ import annotations

import json
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serving import servers
from serving.local import LocalStack
from serving.processes import Server
from serving.settings import LaunchSettings, Ports

HANDLERS = Path(__file__).resolve().parents[1] / "fakes" / "torchserve_handlers"
# Archive -> model, version, handler, and what its model-config.yaml says beside one worker.
ARCHIVES: Mapping[str, tuple[str, str, str, str]] = {
    "doubler-1": ("doubler", "1.0", "instances.py", "jobQueueSize: 1\n"),
    "doubler-may": ("doubler", "2024-05a", "instances.py", ""),
    "pets": ("pets", "1.0", "classifier.py", ""),
}


@dataclass(frozen=True, slots=True)
class Foreign:
    """The running server: its ports, and the file of its keys."""

    stack: LocalStack
    key_file: Path

    @property
    def addresses(self) -> dict[str, Any]:
        """What an endpoint for it is configured with."""
        ports = self.stack.ports
        return {
            "stack": "torchserve",
            "rest": f"http://127.0.0.1:{ports.torchserve_rest_port}",
            "grpc": f"127.0.0.1:{ports.torchserve_grpc_port}",
            "management": f"http://127.0.0.1:{ports.torchserve_management_port}",
        }

    def keys(self) -> dict[str, Any]:
        """The keys as they are in the file now."""
        document: dict[str, Any] = json.loads(self.key_file.read_text())
        return document

    def rotate(self, kind: str) -> None:
        """Has TorchServe make a new key of a kind, which it writes into the file."""
        self.manage(f"/token?type={kind}", key="API")

    def manage(self, path: str, method: str = "GET", key: str = "management") -> bytes:
        """A request to the management port."""
        return _manage(self.stack.ports, self.keys(), path, method, key)


@contextmanager
def foreign_torchserve(artifacts: Path) -> Iterator[Foreign]:
    """Runs it; its key file lies in the run folder, as TorchServe leaves it in its working directory."""
    settings = LaunchSettings(artifacts=artifacts, start_timeout_s=120)
    ports = Ports.free()
    server = _with_tokens(servers.torchserve(settings, ports, []), settings, ports)
    for name, described in ARCHIVES.items():
        archive(settings.run_dir / "torchserve" / "model-store" / f"{name}.mar", *described)
    with LocalStack(settings, ports, stages=[[server]]) as stack:
        yield Foreign(stack, settings.run_dir / "key_file.json")


def _with_tokens(server: Server, settings: LaunchSettings, ports: Ports) -> Server:
    """The same server with a configuration that leaves authorization as it is by default: on."""
    config = settings.run_dir / "config.properties"
    text = (servers.TORCHSERVE_FILES / "config.properties").read_text()
    config.write_text(text.replace("disable_token_authorization=true\n", ""))
    command = list(server.command)
    command[command.index("-f") + 1] = str(config)
    key_file = settings.run_dir / "key_file.json"

    def waiting_for() -> str | None:
        try:
            keys = json.loads(key_file.read_text())
            for model in sorted({model for model, *_ in ARCHIVES.values()}):
                described = json.loads(_manage(ports, keys, f"/models/{model}/all"))
                for version in described:
                    if not any(worker["status"] == "READY" for worker in version["workers"]):
                        return f"a worker of {model} {version['modelVersion']}"
        except (OSError, ValueError, KeyError) as exc:
            return f"its models: {exc!r}"
        return None

    return replace(
        server,
        command=command,
        waiting_for=waiting_for,
        environment={**server.environment, "TS_CONFIG_FILE": str(config)},
        health="/api-description",
    )


def _manage(ports: Ports, keys: Mapping[str, Any], path: str, method: str = "GET", key: str = "management") -> bytes:
    url = f"http://127.0.0.1:{ports.torchserve_management_port}{path}"
    headers = {"Authorization": f"Bearer {keys[key]['key']}"}
    with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers), timeout=30) as reply:
        body: bytes = reply.read()
    return body


def archive(path: Path, model: str, version: str, handler: str, config: str) -> None:
    """Writes an archive with a handler of `HANDLERS`, one worker and `config` beside that."""
    described = {"modelName": model, "modelVersion": version, "handler": handler, "configFile": "model-config.yaml"}
    manifest = {"createdOn": "01/01/2026 00:00:00", "runtime": "python", "archiverVersion": "0.12.0"}
    with zipfile.ZipFile(path, "w") as packed:
        packed.write(HANDLERS / handler, handler)
        packed.writestr("model-config.yaml", f"minWorkers: 1\nmaxWorkers: 1\nbatchSize: 1\n{config}")
        packed.writestr("MAR-INF/MANIFEST.json", json.dumps({**manifest, "model": described}))
