"""Resources of a cell: a thread beside it reads what its servers and the GPUs use."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol, Self

import psutil

from loadtests.addresses import server_of
from loadtests.campaign.asking import host_and_port
from loadtests.campaign.containers import ContainerMeter, container_at
from loadtests.campaign.gpu import GpuMeter
from loadtests.campaign.processes import ProcessMeter, Usage, listener
from loadtests.cell_spec import Target
from loadtests.errors import LoadTestError

SCHEMA = 1
_EVERY_S = 0.25


class Meter(Protocol):
    """What reads one server."""

    name: str

    def begin(self) -> None:
        """Takes the counters at the beginning."""
        ...

    def sample(self) -> None:
        """Reads what is a peak rather than a sum."""
        ...

    def end(self) -> Usage:
        """What was used since `begin`."""
        ...


@dataclass(slots=True)
class Unmeasured:
    """A server that cannot be looked at from here; `elsewhere` says that it is on another host."""

    name: str
    why: str
    elsewhere: bool = False

    def begin(self) -> None:
        """Nothing."""

    def sample(self) -> None:
        """Nothing."""

    def end(self) -> Usage:
        """Says why not."""
        return Usage(self.name, "unknown", "not measured", self.why)


@dataclass(slots=True)
class Watch:
    """Reads meters every quarter of a second while its block runs; the thread ends with the block."""

    meters: Sequence[Meter]
    gpu: GpuMeter
    clock: Callable[[], float] = time.perf_counter
    usages: list[Usage] = field(default_factory=list)
    seconds: float = 0.0
    gpu_usage: Mapping[str, Any] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _began: float = 0.0

    def __enter__(self) -> Self:
        for meter in self.meters:
            meter.begin()
        self.gpu.begin()
        self._began = self.clock()
        self._thread = threading.Thread(target=self._sample, name="resources", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.seconds = self.clock() - self._began
        self.usages = [meter.end() for meter in self.meters]
        self.gpu_usage = self.gpu.end()

    def to_json(self, requests: int) -> dict[str, Any]:
        """The cell's resources file; `requests` are all that were sent, the warm-up's too: the CPU time is of all."""
        return {
            "schema": SCHEMA,
            "seconds": round(self.seconds, 3),
            "requests": requests,
            "servers": [_per_1k(usage, requests).to_json() for usage in self.usages],
            "gpu": dict(self.gpu_usage),
        }

    def _sample(self) -> None:
        while not self._stop.wait(_EVERY_S):
            for meter in self.meters:
                meter.sample()
            self.gpu.sample()


def meter_at(name: str, address: str) -> Meter:
    """What reads the server at an address: a process of this machine, or a container that publishes the port."""
    try:
        host, port = host_and_port(address)
    except LoadTestError as exc:
        return Unmeasured(name, str(exc))
    if not _here(host):
        return Unmeasured(name, "it runs on another host", elsewhere=True)
    # A published port is held by the engine's proxy, whose CPU time is not the server's.
    container = container_at(port)
    if container is not None:
        return ContainerMeter(name, container)
    pid = listener(port)
    return Unmeasured(name, "its process cannot be seen by this user") if pid is None else ProcessMeter(name, pid)


def meters_of(targets: Sequence[Target], pids: Mapping[str, int], configured: bool) -> list[Meter]:
    """The servers that answer some targets: of the configured stacks by their processes, else by their address."""
    if not configured:
        addresses = dict.fromkeys(target.address for target in targets)
        return [meter_at(next(t.name for t in targets if t.address == address), address) for address in addresses]
    names = dict.fromkeys(
        name
        for target in targets
        for name in (["gateway"] if target.path == "gateway" else []) + [server_of(target.stack, target.variant)]
    )
    return [
        ProcessMeter(name, pids[name]) if name in pids else Unmeasured(name, "its process is not known")
        for name in names
    ]


def gpu_beside(meters: Sequence[Meter], gpu: GpuMeter) -> GpuMeter:
    """The meter of this machine's GPUs, or one that says why not: they are none of a server on another host."""
    if any(isinstance(meter, Unmeasured) and meter.elsewhere for meter in meters):
        return GpuMeter(None, "the server runs on another host")
    return gpu


def _per_1k(usage: Usage, requests: int) -> Usage:
    if usage.cpu_s is None or not requests:
        return usage
    return replace(usage, cpu_s_per_1k=round(1000 * usage.cpu_s / requests, 4))


def _here(host: str) -> bool:
    try:
        found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    return any(ipaddress.ip_address(address).is_loopback or address in own for address in found)
