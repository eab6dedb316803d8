"""What the launcher can be told: ports, folders and patience, each also as `TWINSERVE_...` in the environment."""

from __future__ import annotations

import random
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, PositiveFloat
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.processes import Port

PortNumber = Annotated[int, Field(ge=1, le=65535)]
PREFIX = "TWINSERVE_"
# Below the range from which Linux takes the ports of outgoing connections, so that no probe can take a free port
# between the check and the server's start.
FREE_PORTS = range(10240, 32768)


class Ports(BaseSettings):
    """The ports of every server, all on `LaunchSettings.host`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", use_attribute_docstrings=True)

    gateway_rest_port: PortNumber = 8000
    """The gateway's REST front ends, with /metrics and /docs."""
    gateway_grpc_port: PortNumber = 8001
    """The gateway's gRPC front ends."""
    gateway_admin_port: PortNumber = 8009
    """The gateway's operator's port, on the loopback address."""
    torchserve_rest_port: PortNumber = 8080
    """TorchServe inference over REST."""
    torchserve_management_port: PortNumber = 8081
    """TorchServe management over REST."""
    torchserve_metrics_port: PortNumber = 8082
    """TorchServe's metrics for Prometheus."""
    torchserve_grpc_port: PortNumber = 7070
    """TorchServe inference over gRPC."""
    torchserve_grpc_management_port: PortNumber = 7071
    """TorchServe management over gRPC."""
    tfserving_grpc_port: PortNumber = 8500
    """TensorFlow Serving over gRPC."""
    tfserving_rest_port: PortNumber = 8501
    """TensorFlow Serving over REST."""
    tfserving_nograppler_grpc_port: PortNumber = 8510
    """TensorFlow Serving without Grappler over gRPC, where that variant is served."""
    tfserving_nograppler_rest_port: PortNumber = 8511
    """TensorFlow Serving without Grappler over REST, where that variant is served."""

    @classmethod
    def free(cls, host: str = "127.0.0.1") -> Self:
        """Ports of which nothing listens on any now, at random: for tests, and for a second instance."""
        chosen: dict[str, int] = {}
        for name in cls.model_fields:
            chosen[name] = next(
                port
                for port in iter(lambda: random.choice(FREE_PORTS), None)  # noqa: S311 - no secret
                if port not in chosen.values() and is_free(port, host)
            )
        return cls(**chosen)

    def listed(self, names: Iterable[str]) -> tuple[Port, ...]:
        """The ports of these fields, as a server lists its own."""
        return tuple(Port(getattr(self, name), self.use_of(name), self.setting_of(name)) for name in names)

    @classmethod
    def use_of(cls, name: str) -> str:
        """What the port of field `name` is for, as a phrase."""
        return (cls.model_fields[name].description or name).strip().rstrip(".")

    @staticmethod
    def setting_of(name: str) -> str:
        """How the port of field `name` is chosen."""
        return f"{PREFIX}{name.upper()} (or `twinserve up --{name.replace('_', '-')}`)"


class LaunchSettings(BaseSettings):
    """How the servers are run on this machine."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", use_attribute_docstrings=True)

    artifacts: Path = Path("artifacts")
    """The folder with models/<name>/, as the build leaves it, and with run/, where everything of a run is kept."""
    models: str = ""
    """The models to serve, such as `digits,minilm`; all that are built unless given."""
    variants: str = "default"
    """The variants to serve beside the default ones: `all`, or a list such as `onnx,xla`; `default` for none."""
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$")] = "127.0.0.1"
    """The address every server listens on, IPv4 or a name; the default is reachable from this machine only."""
    start_timeout_s: PositiveFloat = 180
    """How long all servers together may take until they answer; a variant that is served beside gives 30 s more."""
    stop_grace_s: PositiveFloat = 10
    """How long a server may take to end after SIGTERM, before SIGKILL."""

    @property
    def models_dir(self) -> Path:
        """Where the built models are; absolute."""
        return self.artifacts.resolve() / "models"

    @property
    def run_dir(self) -> Path:
        """Where the state, the logs and the written configuration of a run are; absolute."""
        return self.artifacts.resolve() / "run"

    def emptied(self, name: str) -> Path:
        """A folder in the run's, with nothing in it."""
        folder = self.run_dir / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As servers do: a port is not taken by connections that are still fading away.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
