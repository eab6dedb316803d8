"""Locust's entry: `locust -f loadtests/locustfile.py` for the web UI, or headless for one cell (see `run.py`).

In the web UI, or on the command line, pick user classes by name; all of them run side by side otherwise: seven
protocols, four of them both at the server and at the gateway's door of that name. The options (model, addresses, pins)
are explained in the web UI's form; `options.py` lists them with their variables, as Locust's own --help knows only
Locust's.
"""

from __future__ import annotations

import json
import logging
import sys
from argparse import Namespace
from pathlib import Path
from typing import cast

import gevent
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import LocalRunner, Runner

from loadtests.cells import Cell
from loadtests.clients import client_for
from loadtests.errors import LoadTestError
from loadtests.load import LOADS, Load
from loadtests.options import add_options
from loadtests.results import SCHEMA
from loadtests.users import (
    GatewayTfServingGrpcUser,
    GatewayTfServingRestUser,
    GatewayTorchServeGrpcUser,
    GatewayTorchServeRestUser,
    OipGrpcUser,
    OipRestUser,
    PredictUser,
    TfServingGrpcUser,
    TfServingRestUser,
    TorchServeGrpcUser,
    TorchServeRestUser,
)

__all__ = [
    "GatewayTfServingGrpcUser",
    "GatewayTfServingRestUser",
    "GatewayTorchServeGrpcUser",
    "GatewayTorchServeRestUser",
    "OipGrpcUser",
    "OipRestUser",
    "PredictUser",
    "TfServingGrpcUser",
    "TfServingRestUser",
    "TorchServeGrpcUser",
    "TorchServeRestUser",
]
logger = logging.getLogger(__name__)


@events.init_command_line_parser.add_listener
def _add(parser: LocustArgumentParser) -> None:
    add_options(parser)


@events.init.add_listener
def _prepare(environment: Environment, runner: Runner, **_: object) -> None:
    options = _options_of(environment)
    if not options.cell:
        return
    # A failure here ends Locust with its reason in the log: without it every user would fail in turn.
    try:
        if not isinstance(runner, LocalRunner):
            raise LoadTestError("--cell measures in one process; leave out --master, --worker and --processes")
        source = Path(options.cell)
        load = _load_of(options)
        load.cell = Cell.from_text(source.read_text("utf-8"), str(source))
        load.questions(load.cell)
        client_for(load.cell, timeout=load.timeout_s).close()
    except (LoadTestError, OSError) as exc:
        logger.error("%s", exc)
        sys.exit(2)
    LOADS[environment] = load

    def measure(**_: object) -> None:
        gevent.spawn_later(options.warm_up, load.recorder.open)
        gevent.spawn_later(options.warm_up + options.measure, runner.quit)

    environment.events.spawning_complete.add_listener(measure)


@events.test_start.add_listener
def _start(environment: Environment, **_: object) -> None:
    # The web UI may have changed the options since the last run.
    if not _options_of(environment).cell:
        LOADS[environment] = _load_of(_options_of(environment))
        LOADS[environment].recorder.open()


@events.test_stopping.add_listener
def _stop(environment: Environment, **_: object) -> None:
    LOADS[environment].recorder.close()


@events.quitting.add_listener
def _write(environment: Environment, **_: object) -> None:
    options = _options_of(environment)
    if not (options.cell and options.samples):
        return
    load = LOADS[environment]
    document = {
        "schema": SCHEMA,
        "cell": load.cell.to_json() if load.cell else None,
        "users": options.num_users,
        "rows": options.rows,
        "warm_up_s": options.warm_up,
        **load.recorder.samples(),
    }
    target = Path(options.samples)
    # Renamed into place: whoever finds the file finds all of it.
    part = target.with_suffix(".part")
    part.write_text(json.dumps(document), "utf-8")
    part.replace(target)
    # Failed requests are figures of the cell, not a failure of Locust.
    environment.process_exit_code = 0


def _options_of(environment: Environment) -> Namespace:
    return cast(Namespace, environment.parsed_options)


def _load_of(options: Namespace) -> Load:
    return Load(Path(options.artifacts), options.rows, options.request_timeout)
