"""What TF Serving's doors tell of a model, read again by our own client of TF Serving."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import tfserving_json, tfserving_proto
from gateway.codecs.tfserving_documents import (
    VersionState,
    check_metadata_fields,
    metadata_json,
    metadata_message,
    status_json,
    status_message,
)
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import ModelMetadata, TensorSpec
from gateway.core.tensor import DATATYPES
from tests.unit.gateway.codecs.tensors import SPECS, WORDS, untimed

STATES = [VersionState(12, True), VersionState(3, False), VersionState(2, True)]
ANY_RANK = TensorSpec("any", "INT64", (-1,), ranked=False)
EVERY = tuple(TensorSpec(f"{datatype} é", datatype, (-1, 0, 3)) for datatype in sorted(DATATYPES))


def test_only_versions_that_answer_are_available() -> None:
    """As JSON and as a message."""
    assert tfserving_json.decode_status(status_json(STATES)) == (12, 2)
    assert tfserving_proto.decode_status(status_message(STATES)) == (12, 2)


def test_every_signature_datatype_shape_and_name_is_told() -> None:
    """The same in both forms; a scalar has a shape of no dimensions, an unknown rank none at all."""
    signatures = {
        "serving_default": ModelMetadata("m", (4,), "twinserve", EVERY, (TensorSpec("y", "FP32", ()),)),
        "other": ModelMetadata("m", (4,), "twinserve", (ANY_RANK,), (ANY_RANK, TensorSpec("z", "FP64", (2,)))),
    }
    for found in (
        tfserving_json.decode_signatures(metadata_json("m", signatures, 4)),
        tfserving_proto.decode_signatures(metadata_message("m", signatures, 4)),
    ):
        assert list(found) == ["serving_default", "other"]
        for name, metadata in found.items():
            assert (metadata.name, metadata.versions) == ("m", (4,))
            assert (metadata.inputs, metadata.outputs) == (signatures[name].inputs, signatures[name].outputs)


def test_signatures_are_the_only_metadata() -> None:
    """Nothing asked is refused too."""
    check_metadata_fields(["signature_def"])
    for fields, text in (([], "at least one metadata_field"), (["graph"], "Metadata field graph is not supported")):
        with pytest.raises(GatewayError, match=text) as caught:
            check_metadata_fields(fields)
        assert caught.value.cause is Cause.INVALID_INPUT


@untimed
@given(
    st.lists(
        st.builds(VersionState, st.integers(0, 2**63 - 1), st.booleans()), max_size=4, unique_by=lambda s: s.version
    )
)
def test_any_states_survive(states: list[VersionState]) -> None:
    """What is available comes back, newest first, from both forms."""
    available = tuple(sorted((item.version for item in states if item.available), reverse=True))
    assert tfserving_json.decode_status(status_json(states)) == available
    assert tfserving_proto.decode_status(status_message(states)) == available


@untimed
@given(WORDS.filter(bool), st.integers(0, 2**63 - 1), SPECS, SPECS)
def test_any_signature_survives(
    name: str, version: int, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """Names, datatypes and shapes come back as they were, from both forms."""
    metadata = ModelMetadata(name, (version,), "twinserve", inputs, outputs)
    for found in (
        tfserving_json.decode_signatures(metadata_json(name, {"any": metadata}, version)),
        tfserving_proto.decode_signatures(metadata_message(name, {"any": metadata}, version)),
    ):
        assert {key: replace(item, platform="twinserve") for key, item in found.items()} == {"any": metadata}
