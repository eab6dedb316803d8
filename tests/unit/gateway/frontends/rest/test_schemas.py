"""The schemas of what goes in and out, and the example bodies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.codecs import oip_json, predict_json
from gateway.core.contract import ModelContract
from gateway.core.messages import ModelSpec, TensorSpec
from gateway.core.tensor import DATATYPES
from gateway.frontends.rest.schemas import COMPONENTS, oip_example, predict_example
from tests.builders import contract


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"].rpartition("/")[2]} if "$ref" in value else set()
        return own.union(*(references(item) for item in value.values()))
    return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()


def model(datatype: str, shape: tuple[int, ...] = (-1, 2, 3)) -> ModelContract:
    return contract(inputs=(TensorSpec("x", datatype, shape),))


def test_every_reference_leads_somewhere() -> None:
    """A schema that is named is there."""
    assert references(COMPONENTS) <= set(COMPONENTS)


def test_the_schema_knows_the_fields_that_the_codec_knows() -> None:
    """Neither has a field that the other lacks."""
    assert set(COMPONENTS["PredictRequest"]["properties"]) == set(predict_json.FIELDS)


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_examples_are_requests_that_are_taken(datatype: str) -> None:
    """Each door decodes its own example, and the model's contract accepts it."""
    known = model(datatype)
    example = predict_example(known, named=True)
    decoded = predict_json.decode_request(json.dumps(example).encode(), lambda _: known)
    assert known.check_request(decoded).inputs[0].shape == (1, 2, 3)
    in_path = predict_example(known, named=False)
    assert predict_json.decode_request(json.dumps(in_path).encode(), lambda _: known, "doubler").model.name == "doubler"
    oip = oip_example(known)
    if datatype in ("FP16", "BF16"):
        assert oip is None
    else:
        spec = ModelSpec("doubler")
        assert known.check_request(oip_json.decode_request(json.dumps(oip).encode(), spec, lambda _: known))


@pytest.mark.parametrize("shape", [(-1, 224, 224, 3), (10_000,)])
def test_an_example_that_nobody_would_read_is_left_out(shape: tuple[int, ...]) -> None:
    """A wall of numbers explains nothing."""
    assert predict_example(model("FP32", shape), named=True) is None
    assert oip_example(model("FP32", shape)) is None


@pytest.mark.parametrize(("shape", "value"), [((), 0.0), ((-1,), [0.0]), ((0, 2), [])])
def test_examples_follow_the_shape(shape: tuple[int, ...], value: object) -> None:
    """Also a scalar's, and that of a tensor without elements."""
    assert predict_example(model("FP32", shape), named=False) == {"inputs": {"x": value}}
