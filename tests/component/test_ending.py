"""How a gateway of one worker ends where its requests do not."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.fakes.script import Hold
from tests.faults.clients import DOORS, OK
from tests.faults.processes import gateway_process, upstreams, write_contract
from tests.faults.world import LONG_MS, Way


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_at_once(tmp_path: Path, second: signal.Signals) -> None:
    """Whatever the door, what was in flight is not waited for; status 1 and one line say so."""
    async with upstreams(Way("tfserving", "grpc")) as ((server,), _):
        config = {
            "server": {"drain_seconds": 600},
            "endpoints": {"tf": server.endpoint()},
            "models": {"double": {"contract": write_contract(tmp_path), "targets": [{"endpoint": "tf"}]}},
        }
        async with gateway_process(tmp_path, config) as gateway:
            asked = []
            for door in DOORS:
                hold = Hold()
                server.fake.then(hold)
                asked.append(asyncio.create_task(gateway.clients.ask("double", door, LONG_MS)))
                await hold.reached.wait()
            gateway.signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                while "draining" not in gateway.log.read_text():
                    await asyncio.sleep(0.02)
            assert gateway.process.returncode is None
            gateway.signal(second)
            assert await gateway.ended(30) == 1
            assert OK not in await asyncio.gather(*asked)
            lines = gateway.log.read_text().splitlines()
            # Beside the log, one a line, nothing but its last word: no traceback.
            assert [line for line in lines if not line.startswith("{")] == [
                "gateway: ended at once, with what was in flight"
            ]
            assert [line for line in lines if '"level":"error"' in line] == []
