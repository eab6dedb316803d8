"""Locust's entry: `locust -f loadtests/locustfile.py` for the web UI, or headless; for exploring, by hand.

In the web UI, or on the command line, pick user classes by name; all of them run side by side otherwise: seven
protocols, four of them both at the server and at the gateway's door of that name. The options (model, addresses, pins)
are explained in the web UI's form; `options.py` lists them with their variables, as Locust's own --help knows only
Locust's.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import cast

from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtests.load import LOADS, Load
from loadtests.options import add_options
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


@events.init_command_line_parser.add_listener
def _add(parser: LocustArgumentParser) -> None:
    add_options(parser)


@events.test_start.add_listener
def _start(environment: Environment, **_: object) -> None:
    # The web UI may have changed the options since the last run.
    options = cast(Namespace, environment.parsed_options)
    LOADS[environment] = Load(Path(options.artifacts), options.rows, options.request_timeout)
