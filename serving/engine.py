"""The Docker engine of this machine, if one answers."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import docker

_PATIENCE_S = 5


def engine(environment: Mapping[str, str] | None = None) -> docker.DockerClient | None:
    """A client of the engine that `environment` names, for the caller to close; None where nothing listens there.

    Raises docker.errors.DockerException where something listens that does not answer as an engine.
    """
    given = os.environ if environment is None else environment
    if not _listens(docker.utils.parse_host(given.get("DOCKER_HOST"))):
        return None
    return docker.from_env(timeout=_PATIENCE_S, environment=given)


def _listens(address: str) -> bool:
    """Whether something listens on an engine's Unix socket; anything else is left to the Docker SDK.

    The SDK (7.2, docker/transport/unixconn.py) leaves its socket open where it cannot connect.
    """
    scheme, _, path = address.partition("://")
    if scheme != "http+unix":
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PATIENCE_S)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
