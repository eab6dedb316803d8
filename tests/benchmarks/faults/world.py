"""What the rows share: a gateway in a process of its own, scripted servers in this one, and rounds."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.faults.load import Ask
from tests.faults.processes import GatewayProcess, gateway_process, upstreams, write_contract
from tests.faults.world import Upstream, Way

SLOTS = 4
QUEUE = 32
DRAIN_SECONDS = 20
TORCH = Way("torchserve", "rest")
TENSORFLOW = Way("tfserving", "grpc")


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often and for how long each thing is measured."""

    rounds: int
    seconds: float
    report: Callable[[str], None]


@dataclass
class Bench:
    """The gateway, the server that falls ill (`double`, and first for `backed`), and the neighbour's."""

    gateway: GatewayProcess
    sick: Upstream
    spare: Upstream
    well: Upstream

    def asking(self, model: str, timeout_ms: int = 10_000) -> Ask:
        """Requests for a model, over REST."""
        return lambda: self.gateway.clients.ask(model, "rest", timeout_ms)


@asynccontextmanager
async def running(sick: Way = TORCH, *, batching: bool = True) -> AsyncIterator[Bench]:
    """The world of a row. The spare server is of the same kind as the sick one."""
    with tempfile.TemporaryDirectory(prefix="bench-faults-") as name:
        folder = Path(name)
        async with upstreams(sick, sick, TENSORFLOW) as ((first, second, third), _):
            targets = {"double": ["sick"], "backed": ["sick", "spare"], "neighbour": ["well"]}
            servers = {"sick": first, "spare": second, "well": third}
            models = {
                model: {
                    "contract": write_contract(folder, model),
                    "targets": [{"endpoint": endpoint} for endpoint in endpoints],
                    **({} if batching else {"batching": False}),
                }
                for model, endpoints in targets.items()
            }
            document = {
                "server": {"drain_seconds": DRAIN_SECONDS},
                "endpoints": {
                    name: {**server.endpoint(), "slots": SLOTS, "queue": QUEUE} for name, server in servers.items()
                },
                "models": models,
                "log_level": "error",
            }
            async with gateway_process(folder, document) as gateway:
                bench = Bench(gateway, first, second, third)
                for model in targets:
                    await gateway.clients.ask(model)
                yield bench
