"""What a server in a container uses, from the container engine's own counters (cgroup)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtests.campaign.processes import Usage

# One reading of the engine's counters, as its API's `GET /containers/{id}/stats` gives them.
Stats = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Container:
    """A container that publishes a port of this machine."""

    id: str
    name: str
    image: str
    digest: str
    stats: Callable[[], Stats]
    command: tuple[str, ...] = ()
    cpuset: str = ""
    cpus: float | None = None
    memory: int | None = None


@dataclass(slots=True)
class ContainerMeter:
    """Reads a container's counters at `begin` and `end`, and its memory in between."""

    name: str
    container: Container
    _first: Stats = field(default_factory=dict)
    _peak: int = 0

    def begin(self) -> None:
        """Takes the counters at the beginning."""
        self._peak = 0
        self._first = self._read()

    def sample(self) -> None:
        """Looks at the memory."""
        self._read()

    def end(self) -> Usage:
        """What was used since `begin`."""
        last = self._read()
        if not self._first or not last:
            return Usage(self.name, "container", "not measured", "the container engine does not answer")
        return usage_between(self.name, self._first, last, self._peak)

    def _read(self) -> Stats:
        try:
            stats = self.container.stats()
        except Exception:
            return {}
        self._peak = max(self._peak, memory_of(stats))
        return stats


def usage_between(name: str, first: Stats, last: Stats, peak: int) -> Usage:
    """What a container used between two readings. The engine counts no context switches."""
    begun, ended = _cpu(first), _cpu(last)
    restarted = ended < begun
    return Usage(
        name,
        "container",
        "measured",
        cpu_s=round((ended - (0 if restarted else begun)) / 1e9, 3),
        rss_peak=peak,
        threads=last.get("pids_stats", {}).get("current"),
        throttled=max(_throttled(last) - (0 if restarted else _throttled(first)), 0),
        restarts=int(restarted),
    )


def memory_of(stats: Stats) -> int:
    """Bytes in use, without the page cache that the kernel would give back, as `docker stats` shows it."""
    memory = stats.get("memory_stats", {})
    return max(int(memory.get("usage", 0)) - int(memory.get("stats", {}).get("inactive_file", 0)), 0)


def container_at(port: int) -> Container | None:
    """The running container that publishes `port`; None where there is none, or no container engine."""
    from serving.engine import engine  # noqa: PLC0415 - only where no process of this machine is found

    try:
        client = engine()
        if client is None:
            return None
        for found in client.containers.list():
            bindings = (found.attrs.get("NetworkSettings", {}).get("Ports") or {}).values()
            if any(str(port) == entry.get("HostPort") for entries in bindings for entry in entries or ()):
                return _container(client, found)
        client.close()
    except Exception:
        return None
    return None


def _container(client: Any, found: Any) -> Container:  # noqa: ANN401 - the SDK is not typed
    config, host = found.attrs.get("Config", {}), found.attrs.get("HostConfig", {})
    digests = found.image.attrs.get("RepoDigests") or []
    return Container(
        id=found.id,
        name=found.name,
        image=str(config.get("Image", "")),
        # An image that was built here has no digest of a registry; its own id is one.
        digest=str(digests[0] if digests else found.image.id),
        stats=lambda: client.api.stats(found.id, stream=False, one_shot=True),
        command=tuple(config.get("Cmd") or ()),
        cpuset=str(host.get("CpusetCpus") or ""),
        cpus=(host.get("NanoCpus") or 0) / 1e9 or None,
        memory=host.get("Memory") or None,
    )


def _cpu(stats: Stats) -> int:
    return int(stats.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage", 0))


def _throttled(stats: Stats) -> int:
    return int(stats.get("cpu_stats", {}).get("throttling_data", {}).get("throttled_periods", 0))
