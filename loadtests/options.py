"""The locustfile's own options: what Locust's web UI and command line offer beside its own."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from loadtests.cells import Addresses, Cell

if TYPE_CHECKING:
    from locust.argument_parser import LocustArgumentParser

_ADDRESSES = Addresses()
# The user class of each protocol, by name, so that a cell can be run without importing Locust here.
USER_CLASS = {
    "predict": "PredictUser",
    "oip-rest": "OipRestUser",
    "oip-grpc": "OipGrpcUser",
    "torchserve-rest": "TorchServeRestUser",
    "torchserve-grpc": "TorchServeGrpcUser",
    "tfserving-rest": "TfServingRestUser",
    "tfserving-grpc": "TfServingGrpcUser",
}
# Protocols that the servers behind the gateway do not speak themselves.
_GATEWAY_WIRES = ("predict", "oip-rest", "oip-grpc")


def add_options(parser: LocustArgumentParser) -> None:
    """Adds our options to Locust's parser: those of the web UI, with TWINSERVE_* variables, and those of one cell."""

    def option(name: str, default: str | float, help_text: str, *, in_ui: bool = True) -> None:
        variable = {"env_var": "TWINSERVE_" + name.upper().replace("-", "_")} if in_ui else {}
        parser.add_argument(
            f"--{name}", default=default, type=type(default), help=help_text, include_in_web_ui=in_ui, **variable
        )

    option("model", "digits", "model to ask; its contract.json and golden.npz are read from the artifacts folder")
    option("artifacts", "artifacts", "folder in which `twinserve models build` wrote models/")
    option("stack", "", "gateway users: pin this stack (torchserve or tfserving); empty: the gateway chooses")
    option("endpoint", "", "gateway users: pin this endpoint of the gateway by name; wins over the stack")
    option("rows", 1, "golden rows in each request")
    option("request-timeout", 10.0, "seconds after which a request counts as a timeout")
    option(
        "gateway-rest",
        _ADDRESSES.gateway_rest,
        "the gateway's REST address (PredictUser, OipRestUser, Gateway...RestUser)",
    )
    option("gateway-grpc", _ADDRESSES.gateway_grpc, "the gateway's gRPC address (OipGrpcUser, Gateway...GrpcUser)")
    option("torchserve-rest", _ADDRESSES.torchserve_rest, "TorchServe's inference address (TorchServeRestUser)")
    option("torchserve-grpc", _ADDRESSES.torchserve_grpc, "TorchServe's gRPC address (TorchServeGrpcUser)")
    option("tfserving-rest", _ADDRESSES.tfserving_rest, "TF Serving's REST address (TfServingRestUser)")
    option("tfserving-grpc", _ADDRESSES.tfserving_grpc, "TF Serving's gRPC address (TfServingGrpcUser)")
    option("cell", "", "headless: file with one cell to measure; model, stack and address come from it", in_ui=False)
    option("samples", "", "with --cell: file to write outcomes and raw latencies to", in_ui=False)
    option("warm-up", 1.0, "with --cell: seconds before requests begin to count", in_ui=False)
    option("measure", 3.0, "with --cell: seconds during which requests are sent and count", in_ui=False)


def cell_of_options(options: Namespace, wire: str, *, door: bool = False) -> Cell:
    """The cell that a user of `wire` stands for without a cell file; with `door`, the gateway's of that name."""
    through_gateway = door or wire in _GATEWAY_WIRES
    protocol = "grpc" if wire.endswith("grpc") else "rest"
    address = getattr(options, f"gateway_{protocol}" if through_gateway else wire.replace("-", "_"))
    return Cell(
        model=options.model,
        stack=options.stack if through_gateway else wire.partition("-")[0],
        path="gateway" if through_gateway else "direct",
        protocol="grpc" if protocol == "grpc" else "rest",
        server="",
        address=address,
        endpoint=options.endpoint or None if through_gateway else None,
        door=wire if through_gateway else "",
    )
