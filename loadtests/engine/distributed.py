"""Locust's own distributed mode: generators on other hosts for `locust -f loadtests/locustfile.py --master`.

They share the closed loop of the web UI among them. A campaign's cells are not measured this way: their workers need
one clock, and stay on the host of the campaign.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from loadtests.errors import LoadTestError
from loadtests.processes import environment

MASTER_PORT = 5557
_LOCUSTFILE = Path(__file__).resolve().parents[1] / "locustfile.py"


def worker_command(master: str, *, processes: int = 1) -> list[str]:
    """The command of a worker, or of several on this host; `master` is `host` or `host:port`.

    Raises LoadTestError for an address that is none.
    """
    host, _, port = master.rpartition(":") if master.count(":") == 1 else (master, "", "")
    if not host or (port and not port.isdecimal()) or any(character.isspace() for character in master):
        raise LoadTestError(f"'{master}': expected HOST or HOST:PORT of a Locust master")
    if processes < 1:
        raise LoadTestError(f"{processes} processes; a worker needs at least one")
    command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--worker", "--master-host", host]
    command += ["--master-port", port or str(MASTER_PORT)]
    return command + (["--processes", str(processes)] if processes > 1 else [])


def work(master: str, *, processes: int = 1) -> int:
    """Runs a worker until its master quits; returns Locust's exit code. A Ctrl-C in the terminal ends it."""
    process = subprocess.Popen(worker_command(master, processes=processes), env=environment())  # noqa: S603  # no shell
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # Locust has heard it as well, and tells the master that it leaves.
            continue
