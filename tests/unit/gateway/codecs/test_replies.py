"""Whose fault a reply is that does not decode."""

from __future__ import annotations

import pytest

from gateway.codecs.replies import bad_reply, reading_reply
from gateway.core.errors import Cause, GatewayError


@pytest.mark.parametrize("cause", [Cause.UNPARSEABLE, Cause.INVALID_INPUT, Cause.UNSUPPORTED_DATATYPE])
def test_a_reply_never_blames_the_client(cause: Cause) -> None:
    """Decoders' errors become UPSTREAM_BAD_REPLY and speak of outputs."""
    with pytest.raises(GatewayError, match="output 'y' is ragged") as caught, reading_reply("TF Serving"):
        raise GatewayError(cause, "input 'y' is ragged")
    assert caught.value.cause is Cause.UPSTREAM_BAD_REPLY


def test_other_causes_pass() -> None:
    """What the server itself said is left as it is."""
    error = GatewayError(Cause.UPSTREAM_FAILED, "out of memory")
    with pytest.raises(GatewayError) as caught, reading_reply("TorchServe"):
        raise error
    assert caught.value is error


def test_long_texts_are_capped() -> None:
    """Whatever a server's names are, the message stays short."""
    assert len(bad_reply("TorchServe", "x" * 10_000).detail) == 512
