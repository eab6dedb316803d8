"""Tests of tests.matrix.handlers: which models a body without a description can be."""

from __future__ import annotations

import pytest

from gateway.codecs.torchserve_payloads import payload_of
from gateway.core.contract import ModelContract
from tests.matrix import handlers
from tests.matrix.cases import identities, models

CONTRACTS = models(identities())


@pytest.mark.parametrize("its", CONTRACTS, ids=[its.name for its in CONTRACTS])
def test_what_raw_bytes_cannot_carry_is_refused_at_the_start(its: ModelContract) -> None:
    """So that the page leaves out what a user cannot configure, and nothing else."""
    settings = {"payload": "raw", "reply": "$body"}
    if handlers.raw_can_carry(its):
        payload_of(its, **settings)
    else:
        with pytest.raises(ValueError, match="payload raw sends one"):
            payload_of(its, **settings)
