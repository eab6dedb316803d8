"""`python -m gateway --config gateway.yaml`: one worker, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

# gRPC's core writes lines of its own between the log's JSON; what it has to say arrives as exceptions too. It is told
# by the environment only, and listens only until grpc is imported, so that this comes before every import below.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import uvloop

from gateway import __version__
from gateway.core.contract import ContractError, ModelContract
from gateway.server import Addresses, authority, load_contracts, serve
from gateway.settings import Settings, SettingsError, load
from gateway.telemetry.logging import configure

# The status that uvicorn too ends with when a start fails.
EXIT_NOT_STARTED = 3

logger = logging.getLogger("gateway")


def main(arguments: list[str] | None = None, program: str = "python -m gateway") -> int:
    """Runs the gateway; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=program, description="One door in front of TorchServe and TensorFlow Serving."
    )
    parser.add_argument(
        "--config", type=Path, default=Path("gateway.yaml"), help="the configuration (default: %(default)s)"
    )
    parser.add_argument("--version", action="version", version=f"twinserve gateway {__version__}")
    options = parser.parse_args(arguments)
    try:
        settings = load(options.config)
        configure(settings.log_level, sys.stderr)
        contracts = load_contracts(settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, contracts))
    except (SettingsError, ContractError) as exc:
        print(f"gateway: {exc}", file=sys.stderr)
        return EXIT_NOT_STARTED
    return 0


async def _serve(settings: Settings, contracts: dict[str, ModelContract]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, contracts, stop, _announce)


def _announce(addresses: Addresses) -> None:
    logger.info(
        "listening on http://%s and grpc://%s",
        authority(addresses.host, addresses.rest_port),
        authority(addresses.host, addresses.grpc_port),
    )


if __name__ == "__main__":
    sys.exit(main())
