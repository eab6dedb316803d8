"""Parameters of extensions that are not spoken."""

from __future__ import annotations

import pytest

from gateway.codecs.oip_parameters import refuse_reserved
from gateway.core.errors import Cause, GatewayError


def test_what_would_change_the_answer_is_not_ignored() -> None:
    """A reserved parameter is named; a client's own pass."""
    refuse_reserved("input 'x'", ["content_type", "binary_data"])
    with pytest.raises(GatewayError, match="input 'x': parameter 'classification'") as caught:
        refuse_reserved("input 'x'", ["k", "classification"])
    assert caught.value.cause is Cause.INVALID_INPUT
