"""Processor time and memory of one server's processes, for Prometheus: what neither server tells of itself.

Runs beside a server in the same process namespace (`pid: service:torchserve` in docker-compose.yml), so that it needs
neither Docker's socket nor the host's processes; it sees its own process too, and leaves it out.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator

import psutil
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class ServerProcesses(Collector):
    """Sums over all processes but our own. Processor time of a process that ended stays counted."""

    def __init__(self, processes: Callable[[], Iterable[psutil.Process]] = psutil.process_iter) -> None:
        self._processes = processes
        self._cpu: dict[tuple[int, float], float] = {}
        self._ended = 0.0

    def collect(self) -> Iterator[Metric]:
        """One reading. A process that ends while it is read is left out."""
        alive: dict[tuple[int, float], float] = {}
        memory = threads = 0
        for process in self._processes():
            try:
                if process.pid == os.getpid():
                    continue
                with process.oneshot():
                    times = process.cpu_times()
                    alive[process.pid, process.create_time()] = times.user + times.system
                    memory += process.memory_info().rss
                    threads += process.num_threads()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        self._ended += sum(seconds for key, seconds in self._cpu.items() if key not in alive)
        self._cpu = alive
        yield CounterMetricFamily(
            "server_cpu_seconds",
            "Processor time of all the server's processes, user and system.",
            value=self._ended + sum(alive.values()),
        )
        yield GaugeMetricFamily("server_memory_bytes", "Resident memory of all the server's processes.", value=memory)
        yield GaugeMetricFamily("server_threads", "Threads of all the server's processes.", value=threads)
        yield GaugeMetricFamily("server_processes", "The server's processes.", value=len(alive))


def main() -> None:
    """Serves /metrics until SIGTERM."""
    options = argparse.ArgumentParser(prog="process-exporter", description=__doc__)
    options.add_argument("--port", type=int, default=9256)
    options.add_argument("--host", default="127.0.0.1")
    chosen = options.parse_args()
    registry = CollectorRegistry()
    registry.register(ServerProcesses())
    server, thread = start_http_server(chosen.port, chosen.host, registry)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
    server.shutdown()
    server.server_close()
    thread.join()


if __name__ == "__main__":
    main()
