"""The launcher with Docker: compose starts and stops, the Docker SDK says how the containers are and breaks them.

What `serving.local` does with processes of this machine, this does with `docker-compose.yml`; the same errors, the same
words. Containers are found by compose's own labels, so that it does not matter who started them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import yaml

from serving.processes import LaunchError, PortTaken
from serving.settings import LaunchSettings, Ports, is_free

Report = Callable[[str], None]

ROOT = Path(__file__).resolve().parents[1]
PROJECT = "twinserve"
STAND_IN_IMAGE = "twinserve/savedmodel-server"
# What is published, and where unless told otherwise; docker-compose.yml and .env.example.
_PUBLISHED = {"GATEWAY_REST_PORT": 8000, "GATEWAY_GRPC_PORT": 8001, "PROMETHEUS_PORT": 9090, "GRAFANA_PORT": 3000}
# Services whose image is only pulled, and that are watched, not served: without them the rest still is what it is.
OPTIONAL = frozenset({"grafana", "prometheus"})
_POLL_S = 0.5
_LOG_LINES = 15
# Longer than any stop_grace_period of docker-compose.yml.
_DOWN_SECONDS = 30


@dataclass(frozen=True, slots=True)
class ContainerStats:
    """One container now. `cpu_seconds` since its start; `memory_bytes` without the page cache."""

    service: str
    state: str
    health: str
    image: str
    cpu_seconds: float
    memory_bytes: int


def compose_command() -> list[str]:
    """`docker compose`, else `docker-compose`; raises LaunchError where there is neither, or no engine answers."""
    if shutil.which("docker") is None:
        raise LaunchError("Docker is not installed: `twinserve up` without --runtime docker needs none")
    if _run(["docker", "info"]).returncode:
        raise LaunchError("no Docker engine answers (`docker info` says why): start it, or leave out --runtime docker")
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not _run([*command, "version"]).returncode:
            return command
    raise LaunchError("Docker has no compose: install the package docker-compose-plugin (or docker-compose)")


class DockerStack:
    """The services of `docker-compose.yml` under one project name."""

    def __init__(
        self,
        settings: LaunchSettings,
        ports: Ports,
        *,
        report: Report,
        project: str = PROJECT,
        environment: Mapping[str, str] | None = None,
        root: Path = ROOT,
    ) -> None:
        """`environment` is what `.env.example` lists, beside or instead of what the process has."""
        self._settings = settings
        self._report = report
        self._project = project
        self._root = root
        self._compose = [*compose_command(), "-p", project]
        given = {**os.environ, **(environment or {})}
        self._environment = {**given, **_as_environment(settings, ports, given)}

    def up(self) -> list[str]:
        """Starts everything that can be had and waits until it is healthy; returns the services that run.

        What is neither here nor to be pulled is left out by name; TensorFlow Serving's image is replaced by the
        stand-in's then, and that is said. Raises LaunchError where a service does not become healthy in time.
        """
        self._check_ports()
        services = self._services()
        wanted = self._obtainable(services)
        self._report(f"Starting {', '.join(wanted)}.")
        self._must("up", "-d", *wanted)
        self._until_healthy(wanted)
        return wanted

    def build(self) -> None:
        """Builds every image of ours anew where its sources changed, the stand-in's too."""
        self._must("--profile", "stand-in", "build", "-q")

    def watch(self) -> None:
        """Returns when a container ends by itself, having said which; a signal ends the wait."""
        while True:
            ended = [one.service for one in self._states() if one.state == "failed"]
            if ended:
                self._report(f"{', '.join(ended)} ended.")
                return
            time.sleep(_POLL_S)

    def down(self) -> None:
        """Stops and removes the containers; each has its grace period. Volumes stay."""
        self._must("--profile", "load", "down", "--timeout", str(_DOWN_SECONDS), "--remove-orphans")

    def stats(self) -> list[ContainerStats]:
        """How every container of the project is, by name of its service."""
        with closing(docker.from_env()) as client:
            found = [_stats(container) for container in self._containers(client)]
        return sorted(found, key=lambda one: one.service)

    def kill(self, service: str, signal: str = "SIGKILL") -> None:
        """Sends a signal to a service's main process; raises LaunchError where it does not run."""
        self._one(service, lambda container: container.kill(signal))

    def start(self, service: str) -> None:
        """Starts a service that was killed or stopped, and what watches its processes: that ended with them."""
        self._one(service, lambda container: container.start())
        if any(one.service == (watcher := f"{service}-processes") for one in self._states()):
            self._one(watcher, lambda container: container.start())

    def stop(self, service: str) -> None:
        """Stops a service, with the grace period of docker-compose.yml."""
        self._one(service, lambda container: container.stop(timeout=_DOWN_SECONDS))

    def pause(self, service: str) -> None:
        """Stops a service's processes where they are: it answers nothing, and its connections stay open."""
        self._one(service, lambda container: container.pause())

    def unpause(self, service: str) -> None:
        """Lets a paused service go on."""
        self._one(service, lambda container: container.unpause())

    def logs(self, lines: int, service: str | None = None) -> str:
        """The last lines of a service's log, or of all."""
        return self._must("logs", "--no-color", f"--tail={lines}", *([service] if service else []))

    def _one(self, service: str, act: Callable[[Any], object]) -> None:
        with closing(docker.from_env()) as client:
            container = next((c for c in self._containers(client) if _service(c) == service), None)
            if container is None:
                raise LaunchError(f"no container of '{service}' in project {self._project}")
            act(container)

    def _containers(self, client: docker.DockerClient) -> list[Any]:
        label = f"com.docker.compose.project={self._project}"
        return list(client.containers.list(all=True, filters={"label": label}))

    def _check_ports(self) -> None:
        """Raises PortTaken where another program has a port; containers of this project that run already may."""
        if self._states():
            return
        for name, published in _PUBLISHED.items():
            if not is_free(port := int(self._environment.get(name, published))):
                raise PortTaken(f"port {port} is in use; set {name} to another one, in the environment or in .env")

    def _services(self) -> Mapping[str, Mapping[str, Any]]:
        """The services without a profile, as compose reads its file here."""
        document = yaml.safe_load(self._must("config"))
        services: dict[str, Mapping[str, Any]] = document["services"]
        return {name: service for name, service in services.items() if not service.get("profiles")}

    def _obtainable(self, services: Mapping[str, Mapping[str, Any]]) -> list[str]:
        wanted = []
        with closing(docker.from_env()) as client:
            for name, service in services.items():
                image = str(service.get("image", ""))
                if _present(client, image) or ("build" not in service and _built_elsewhere(image, services)):
                    wanted.append(name)
                elif "build" in service:
                    self._report(f"Building {image}, once; this takes minutes.")
                    self._must("build", "-q", name)
                    wanted.append(name)
                elif _pulled(client, image, self._report):
                    wanted.append(name)
                elif name in OPTIONAL:
                    self._report(f"Left out: {name}. Its image {image} is neither here nor to be pulled.")
                elif name == "tfserving":
                    self._stand_in(client, image)
                    wanted.append(name)
                else:
                    raise LaunchError(f"{name} needs the image {image}, which is neither here nor to be pulled")
        return wanted

    def _stand_in(self, client: docker.DockerClient, image: str) -> None:
        if not _present(client, STAND_IN_IMAGE):
            self._report(f"Building {STAND_IN_IMAGE}, once; this takes minutes.")
            self._must("--profile", "stand-in", "build", "-q", "savedmodel-server")
        self._report(f"{image} is neither here nor to be pulled: {STAND_IN_IMAGE}, a stand-in, serves in its place.")
        self._environment["TFSERVING_IMAGE"] = STAND_IN_IMAGE

    def _until_healthy(self, services: Sequence[str]) -> None:
        deadline = time.monotonic() + self._settings.start_timeout_s
        said: set[str] = set()
        while True:
            now = {one.service: one for one in self._states()}
            for name in services:
                if name in now and now[name].health == "healthy" and name not in said:
                    said.add(name)
                    self._report(f"{name} is healthy.")
            failed = [one for one in now.values() if one.service in services and one.state == "failed"]
            waiting = [name for name in services if name not in now or now[name].health not in ("healthy", "none")]
            if not failed and not waiting:
                return
            if failed or time.monotonic() > deadline:
                name = failed[0].service if failed else waiting[0]
                what = "ended" if failed else f"is not healthy after {self._settings.start_timeout_s:g} s"
                end = self.logs(_LOG_LINES, name)
                raise LaunchError(
                    f"{name} {what}. The end of its log:\n{end}\n`twinserve down --runtime docker` stops the rest"
                )
            time.sleep(_POLL_S)

    def _states(self) -> list[ContainerStats]:
        with closing(docker.from_env()) as client:
            return [_state(container) for container in self._containers(client)]

    def _must(self, *arguments: str) -> str:
        done = _run([*self._compose, *arguments], cwd=self._root, env=self._environment)
        if done.returncode:
            raise LaunchError(f"`{' '.join([*self._compose, *arguments])}` failed:\n{done.stderr.strip()[-2000:]}")
        return done.stdout


def _run(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(command), cwd=cwd, env=env, capture_output=True, text=True, check=False)  # noqa: S603


def _as_environment(settings: LaunchSettings, ports: Ports, given: Mapping[str, str]) -> dict[str, str]:
    """What docker-compose.yml reads; the folder of built models where there is one, else a volume."""
    values = {"GATEWAY_REST_PORT": str(ports.gateway_rest_port), "GATEWAY_GRPC_PORT": str(ports.gateway_grpc_port)}
    if "MODELS" not in given and settings.models_dir.is_dir():
        values["MODELS"] = str(settings.models_dir)
    return values


def _present(client: docker.DockerClient, image: str) -> bool:
    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        return False
    return True


def _pulled(client: docker.DockerClient, image: str, report: Report) -> bool:
    report(f"Pulling {image}.")
    try:
        client.images.pull(image)
    except docker.errors.APIError:
        return False
    return True


def _built_elsewhere(image: str, services: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether another service builds this image: it is here by the time compose starts."""
    return any(service.get("image") == image and "build" in service for service in services.values())


def _service(container: Any) -> str:  # noqa: ANN401 - the SDK has no types
    return str(container.labels.get("com.docker.compose.service", ""))


def _state(container: Any) -> ContainerStats:  # noqa: ANN401 - the SDK has no types
    state = container.attrs["State"]
    status, code = str(state["Status"]), int(state.get("ExitCode", 0))
    health = str(state.get("Health", {}).get("Status", "none"))
    if status == "exited":
        # A one-shot service has done its work; any other has ended before its time.
        status, health = ("done", "none") if code == 0 else ("failed", health)
    return ContainerStats(_service(container), status, health, str(container.attrs["Config"]["Image"]), 0.0, 0)


def _stats(container: Any) -> ContainerStats:  # noqa: ANN401 - the SDK has no types
    state = _state(container)
    if state.state != "running":
        return state
    reading = container.stats(stream=False)
    memory = reading.get("memory_stats", {})
    cached = memory.get("stats", {}).get("inactive_file", 0)
    return ContainerStats(
        state.service,
        state.state,
        state.health,
        state.image,
        reading["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
        max(0, int(memory.get("usage", 0)) - int(cached)),
    )
