"""Tests of gateway.backends.registry: which values make which backend."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.backends.null import Null
from gateway.backends.oip_grpc import OipGrpc
from gateway.backends.oip_rest import OipRest
from gateway.backends.registry import FACTORIES, connect
from gateway.backends.tfserving_grpc import TfServingGrpc
from gateway.backends.tfserving_rest import TfServingRest
from gateway.backends.torchserve_grpc import TorchServeGrpc
from gateway.backends.torchserve_rest import TorchServeRest

ADDRESSES: dict[str, Any] = {
    "grpc": "127.0.0.1:1",
    "rest": "http://127.0.0.1:1",
    "management": "http://127.0.0.1:1",
}


@pytest.mark.parametrize(
    ("stack", "transport", "kind"),
    [
        ("torchserve", "rest", TorchServeRest),
        ("torchserve", "grpc", TorchServeGrpc),
        ("tfserving", "rest", TfServingRest),
        ("tfserving", "grpc", TfServingGrpc),
        ("oip", "rest", OipRest),
        ("oip", "grpc", OipGrpc),
        ("noop", "rest", Null),
        ("noop", "grpc", Null),
    ],
)
async def test_each_combination_makes_its_backend(stack: str, transport: str, kind: type) -> None:
    """Stack and transport choose the class; a server need not be there yet."""
    assert (stack, transport) in FACTORIES
    backend = connect(stack=stack, transport=transport, **ADDRESSES)
    assert isinstance(backend, kind)
    await backend.close()


async def test_the_table_is_covered() -> None:
    """No combination is left out of the test above."""
    assert len(FACTORIES) == 8


@pytest.mark.parametrize(("stack", "transport"), [("triton", "grpc"), ("torchserve", "carrier-pigeon"), ("", "")])
async def test_an_unknown_combination_lists_those_there_are(stack: str, transport: str) -> None:
    """The message names what was given and every allowed pair."""
    with pytest.raises(
        ValueError, match="torchserve/rest, torchserve/grpc, tfserving/rest, tfserving/grpc, oip/rest, oip/grpc"
    ):
        connect(stack=stack, transport=transport, **ADDRESSES)


@pytest.mark.parametrize(
    ("stack", "transport", "missing"),
    [
        ("torchserve", "rest", "rest"),
        ("torchserve", "rest", "management"),
        ("torchserve", "grpc", "grpc"),
        ("torchserve", "grpc", "rest"),
        ("torchserve", "grpc", "management"),
        ("tfserving", "rest", "rest"),
        ("tfserving", "grpc", "grpc"),
        ("oip", "rest", "rest"),
        ("oip", "grpc", "grpc"),
    ],
)
async def test_a_missing_address_is_named(stack: str, transport: str, missing: str) -> None:
    """Each combination says which address it lacks, before anything is opened."""
    with pytest.raises(ValueError, match=f"{stack} over {transport} needs the address '{missing}'"):
        connect(stack=stack, transport=transport, **{**ADDRESSES, missing: None})
