"""The command of a Locust worker on another host."""

from __future__ import annotations

import pytest

from loadtests.engine.distributed import worker_command
from loadtests.errors import LoadTestError


@pytest.mark.parametrize(
    ("master", "host", "port"),
    [("10.0.0.5", "10.0.0.5", "5557"), ("bench:6000", "bench", "6000"), ("fe80::1", "fe80::1", "5557")],
)
def test_a_worker_joins_its_master(master: str, host: str, port: str) -> None:
    """The port is Locust's own where none is given."""
    command = worker_command(master)
    assert command[command.index("--master-host") + 1] == host
    assert command[command.index("--master-port") + 1] == port
    assert "--worker" in command
    assert "--processes" not in command


def test_several_workers_are_processes_of_one_command() -> None:
    """As many as asked for."""
    command = worker_command("h", processes=3)
    assert command[-2:] == ["--processes", "3"]


@pytest.mark.parametrize(("master", "processes"), [("", 1), ("h:port", 1), (":5557", 1), ("a b", 1), ("h", 0)])
def test_an_address_that_is_none_is_refused(master: str, processes: int) -> None:
    """Before Locust says it less clearly."""
    with pytest.raises(LoadTestError):
        worker_command(master, processes=processes)
