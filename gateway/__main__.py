"""`python -m gateway --config gateway.yaml`: one worker, or several and their supervisor, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

# gRPC's core writes lines of its own between the log's JSON; what it has to say arrives as exceptions too. It is told
# by the environment only, and listens only until grpc is imported, so that this comes before every import below.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import uvloop

from gateway import __version__
from gateway.check import main as check
from gateway.collector import settle_garbage_collector
from gateway.core.contract import ModelContract
from gateway.flags import DEFAULT_FILE, add_flags, file_of, settings_of
from gateway.plan import load_contracts
from gateway.reload import Source, state_of
from gateway.server import LOOPBACK, Addresses, authority, serve
from gateway.settings import Settings, SettingsError
from gateway.supervisor import Stop, SupervisorError, supervise
from gateway.telemetry.logging import configure

# The status that uvicorn too ends with when a start fails.
EXIT_NOT_STARTED = 3

# The status of a gateway that had to end by itself, or was told twice to end.
EXIT_NOT_DRAINED = 1

logger = logging.getLogger("gateway")


class NotDrainedError(RuntimeError):
    """Raised where the one worker was told twice to end, and so ended with what it had in flight."""


def main(arguments: list[str] | None = None, program: str = "python -m gateway") -> int:
    """Runs the gateway, or checks a configuration; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["check"]:
        return check(arguments[1:], f"{program} check")
    parser = argparse.ArgumentParser(
        prog=program,
        description="One door in front of TorchServe, TensorFlow Serving and servers of the Open Inference Protocol.",
        epilog=f"`{program} check FILE` validates a configuration without starting it.",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help=f"the configuration; {DEFAULT_FILE} unless servers are named here",
    )
    add_flags(parser)
    parser.add_argument("--version", action="version", version=f"twinserve gateway {__version__}")
    options = parser.parse_args(arguments)
    try:
        file = file_of(options, options.config)
        before = None if file is None else state_of(file)
        settings = settings_of(options, options.config)
        configure(settings.log_level, sys.stderr)
        contracts = load_contracts(settings)
        # Several workers have uvloop each; their supervisor starts processes, which asyncio does better.
        factory = uvloop.new_event_loop if settings.server.workers == 1 else None
        with asyncio.Runner(loop_factory=factory) as runner:
            source = Source(lambda: settings_of(options, options.config), file, before)
            runner.run(_serve(settings, contracts, source))
    except (NotDrainedError, SupervisorError) as exc:
        print(f"gateway: {exc}", file=sys.stderr)
        return EXIT_NOT_DRAINED
    except SettingsError as exc:
        print(f"gateway: {exc}", file=sys.stderr)
        return EXIT_NOT_STARTED
    return 0


async def _serve(settings: Settings, contracts: dict[str, ModelContract], source: Source) -> None:
    stop = Stop()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, source.wanted.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.ask)
    if settings.server.workers > 1:
        await supervise(settings, contracts, stop, _announce, source)
    else:
        await _unless_at_once(serve(settings, contracts, stop.drain, _announce, source), stop.at_once)


async def _unless_at_once(serving: Coroutine[Any, Any, None], at_once: asyncio.Event) -> None:
    """Serves to the end; raises NotDrainedError at once where it is not to be waited for.

    The runner then cancels every task of the loop, requests included, and waits until they have closed what they hold.
    """
    task, told = asyncio.create_task(serving, name="gateway"), asyncio.create_task(at_once.wait(), name="at once")
    await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        raise NotDrainedError("ended at once, with what was in flight")
    told.cancel()
    await task


def _announce(addresses: Addresses) -> None:
    settle_garbage_collector()
    logger.info(
        "listening on http://%s and grpc://%s",
        authority(addresses.host, addresses.rest_port),
        authority(addresses.host, addresses.grpc_port),
    )
    if addresses.admin_port is not None:
        logger.info("the operator's port is http://%s", authority(LOOPBACK, addresses.admin_port))


if __name__ == "__main__":
    sys.exit(main())
