"""Unary gRPC calls with raw bytes, a fixed number at a time: `python -m ... ADDRESS METHOD CALLS SECONDS < message`.

Prints one JSON object: answers, seconds, and this process's own processor seconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import grpc
import uvloop


async def main(
    address: str, method: str, calls: int, seconds: float, message: bytes, *, ahead: int = 1, timeout_s: float = 30
) -> dict[str, float]:
    """Runs the load after `ahead` calls that do not count; a call that fails, or takes longer, ends it."""
    answered = 0
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
        call = channel.unary_unary(method, None, None)
        await asyncio.wait_for(channel.channel_ready(), 10)
        for _ in range(ahead):
            await call(message, timeout=timeout_s)
        begin, cpu = time.perf_counter(), time.process_time()
        end = begin + seconds

        async def one_after_the_other() -> None:
            nonlocal answered
            while time.perf_counter() < end:
                await call(message, timeout=timeout_s)
                answered += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(calls):
                group.create_task(one_after_the_other())
        took = time.perf_counter() - begin
    return {"requests": answered, "seconds": took, "cpu_seconds": time.process_time() - cpu}


if __name__ == "__main__":
    where, name, many, long = sys.argv[1:]
    print(json.dumps(uvloop.run(main(where, name, int(many), float(long), sys.stdin.buffer.read()))))
