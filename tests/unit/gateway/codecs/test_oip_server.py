"""What an Open Inference Protocol server says of its models."""

from __future__ import annotations

import pytest

from gateway.codecs.oip_server import served_model, version_of
from gateway.core.messages import TensorSpec

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


def test_a_model_without_whole_numbers_is_version_1() -> None:
    """A model that lists none, or only names, has one version."""
    for listed in ([], ["blue"]):
        model = served_model("m", listed, "", X, X)
        assert not model.versions
        assert model.metadata is not None
        assert model.metadata.versions == (1,)


def test_a_model_that_describes_no_tensors_has_no_metadata() -> None:
    """A custom runtime may say nothing, or only half of it: then the contract is not compared."""
    assert served_model("m", ["1"], "", (), ()).metadata is None
    assert served_model("m", ["1"], "", X, ()).metadata is None
