"""The locustfile's own options: what Locust's web UI and command line offer beside its own."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from loadtests.addresses import Addresses
from loadtests.cell_spec import Path, Protocol, Target

if TYPE_CHECKING:
    from locust.argument_parser import LocustArgumentParser

_ADDRESSES = Addresses()
# Protocols that the servers behind the gateway do not speak themselves.
_GATEWAY_WIRES = ("predict", "oip-rest", "oip-grpc")


def add_options(parser: LocustArgumentParser) -> None:
    """Adds our options to Locust's parser and to its web UI, each with a TWINSERVE_* variable."""

    def option(name: str, default: str | float, help_text: str) -> None:
        variable = "TWINSERVE_" + name.upper().replace("-", "_")
        parser.add_argument(
            f"--{name}", default=default, type=type(default), help=help_text, include_in_web_ui=True, env_var=variable
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


def target_of_options(options: Namespace, protocol: Protocol, *, door: bool = False) -> Target:
    """What a user of `protocol` asks; with `door`, the gateway's of that name."""
    through_gateway = door or protocol in _GATEWAY_WIRES
    transport = "grpc" if protocol.endswith("grpc") else "rest"
    stack = options.stack if through_gateway else protocol.partition("-")[0]
    way: Path = "gateway" if through_gateway else "direct"
    pins = {}
    if through_gateway and options.endpoint:
        pins = {"x-endpoint": options.endpoint}
    elif through_gateway and options.stack:
        pins = {"x-stack": options.stack}
    return Target(
        name=" ".join(part for part in (options.model, stack, protocol, way) if part),
        protocol=protocol,
        address=getattr(options, f"gateway_{transport}" if through_gateway else protocol.replace("-", "_")),
        model=options.model,
        stack=stack,
        path=way,
        pins=pins,
    )
