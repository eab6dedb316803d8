"""What an Open Inference Protocol server says of its models."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import oip_json, oip_json_client, oip_proto, oip_proto_client
from gateway.codecs.oip_server import MAX_VERSIONS, served_model, version_of
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import ModelMetadata, TensorSpec
from tests.unit.gateway.codecs.tensors import SPECS, WORDS, cause_of, untimed

X = (TensorSpec("x", "FP32", (-1,)),)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), ("1.0", 1), ("007", 7), ("", None), ("v1", None), ("1.1", None), ("-1", None), ("9" * 19, None)],
)
def test_a_version_is_a_whole_number_or_none(text: str, number: int | None) -> None:
    """Digits, and what TorchServe's archiver writes for 1; every other spelling is no version of ours."""
    assert version_of(text) == number


def test_a_models_versions_keep_their_spelling() -> None:
    """Versions that are whole numbers are found by number, newest first in metadata; others are left out."""
    model = served_model("m", ["1.0", "v2", "12", "1"], "p", X, X)
    assert model.versions == {1: "1.0", 12: "12"}
    assert model.metadata is not None
    assert model.metadata.versions == (12, 1)


def test_only_so_many_versions_of_a_model_are_known() -> None:
    """The newest, since each costs a question at every check."""
    model = served_model("m", map(str, range(2 * MAX_VERSIONS)), "", X, X)
    assert sorted(model.versions) == list(range(MAX_VERSIONS, 2 * MAX_VERSIONS))
    assert model.metadata is not None
    assert len(model.metadata.versions) == MAX_VERSIONS


def test_a_model_without_whole_numbers_is_version_1() -> None:
    """A model that lists none, or only names, has one version."""
    for listed in ([], ["blue"]):
        model = served_model("m", listed, "", X, X)
        assert not model.versions
        assert model.metadata is not None
        assert model.metadata.versions == (1,)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (TensorSpec("x", "COMPLEX64", (-1,)), "tensor 'x' with the datatype 'COMPLEX64'"),
        (TensorSpec("x", "FP32", (-1,) * 33), "tensor 'x' with 33 dimensions; at most 32"),
        (TensorSpec("x", "FP32", (-1, 2**63)), "tensor 'x' with a dimension beyond 64 bits"),
    ],
)
def test_a_tensor_that_no_request_could_have_is_told_by_name(spec: TensorSpec, told: str) -> None:
    """Its model cannot be answered, and the reason is its server's."""
    for inputs, outputs in ((X, (spec,)), ((spec,), X)):
        with pytest.raises(GatewayError, match=told) as caught:
            served_model("m", ["1"], "", inputs, outputs)
        assert caught.value.cause is Cause.UPSTREAM_BAD_REPLY


def test_a_model_that_describes_no_tensors_has_no_metadata() -> None:
    """A custom runtime may say nothing, or only half of it: then the contract is not compared."""
    assert served_model("m", ["1"], "", (), ()).metadata is None
    assert served_model("m", ["1"], "", X, ()).metadata is None


@untimed
@given(WORDS.filter(bool), st.sets(st.integers(0, 10**18 - 1), min_size=1, max_size=3), SPECS, SPECS)
def test_any_metadata_survives(
    name: str, versions: set[int], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """What our door tells of a model our client reads, over REST and gRPC."""
    newest_first = tuple(sorted(versions, reverse=True))
    metadata = ModelMetadata(name, newest_first, "twinserve", inputs, outputs)
    for found in (
        oip_json_client.decode_model_metadata(oip_json.encode_model_metadata(metadata)),
        oip_proto_client.decode_model_metadata(oip_proto.encode_model_metadata(metadata)),
    ):
        assert found.metadata == metadata
        assert found.versions == {version: str(version) for version in versions}


@untimed
@given(st.binary(max_size=64))
def test_any_bytes_are_metadata_or_a_bad_reply(data: bytes) -> None:
    """Of a server or a model, over either transport."""
    for decode in (
        oip_json_client.decode_server_metadata,
        oip_json_client.decode_model_metadata,
        oip_proto_client.decode_server_metadata,
        oip_proto_client.decode_model_metadata,
    ):
        assert cause_of(lambda decode=decode: decode(data)) in (None, Cause.UPSTREAM_BAD_REPLY)  # type: ignore[misc]
