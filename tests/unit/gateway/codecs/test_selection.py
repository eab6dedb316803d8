"""Where a request wants to be answered: parameters, headers, and their contradictions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.selection import SELECTION_PARAMETERS, merge_selection, split_parameters, version_number
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, ModelSpec, Parameter, Selection
from tests.unit.gateway.codecs.tensors import cause_of, untimed

VALUES = st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["1", "stable"])
REQUEST = InferenceRequest(ModelSpec("m"), ())


@pytest.mark.parametrize(("value", "version"), [("1", 1), ("01", 1), (0, 0), (7, 7), ("9" * 18, 10**18 - 1)])
def test_versions_are_whole_numbers(value: object, version: int) -> None:
    """Integers and decimal digits name a version."""
    assert version_number(value, "m") == version


@pytest.mark.parametrize("value", ["", "-1", "1.0", "latest", "9" * 19, "٣", " 1", -1, 2**63])
def test_anything_else_is_no_version(value: object) -> None:
    """What is no version number is VERSION_NOT_FOUND, naming the model."""
    with pytest.raises(GatewayError, match="model 'm'") as caught:
        version_number(value, "m")
    assert caught.value.cause is Cause.VERSION_NOT_FOUND


@pytest.mark.parametrize("value", [1.0, True, None, ["1"]])
def test_a_version_of_another_type_is_a_mistake(value: object) -> None:
    """What is neither an integer nor text is INVALID_INPUT."""
    with pytest.raises(GatewayError, match="version: expected a whole number") as caught:
        version_number(value, "m")
    assert caught.value.cause is Cause.INVALID_INPUT


def test_own_parameters_are_taken_out_and_others_stay() -> None:
    """All six of the gateway's parameters choose, and never reach the model."""
    model, selection, rest = split_parameters(
        ModelSpec("m"),
        {"stack": "tfserving", "endpoint": "tf", "variant": "xla", "label": "stable", "signature_name": "s", "k": 1},
    )
    assert model == ModelSpec("m", label="stable", signature_name="s")
    assert selection == Selection("tfserving", "tf", "xla")
    assert rest == {"k": 1}


@pytest.mark.parametrize("version", [3, "3"])
def test_a_version_parameter_may_repeat_the_path(version: Parameter) -> None:
    """The same version twice is fine, as a number or as digits."""
    assert split_parameters(ModelSpec("m"), {"version": version})[0].version == 3
    assert split_parameters(ModelSpec("m", 3), {"version": version})[0].version == 3


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (ModelSpec("m", 2), {"version": 3}),
        (ModelSpec("m", 2), {"label": "stable"}),
        (ModelSpec("m"), {"version": 1, "label": "stable"}),
        (ModelSpec("m"), {"stack": 1}),
        (ModelSpec("m"), {"stack": ""}),
        (ModelSpec("m"), {"endpoint": True}),
        (ModelSpec("m"), {"variant": 1.5}),
        (ModelSpec("m"), {"signature_name": ""}),
    ],
)
def test_contradictory_and_malformed_parameters_are_invalid_input(
    model: ModelSpec, parameters: dict[str, Parameter]
) -> None:
    """Two different words for one thing, and words that are none, are refused."""
    with pytest.raises(GatewayError) as caught:
        split_parameters(model, parameters)
    assert caught.value.cause is Cause.INVALID_INPUT


def test_a_version_parameter_that_is_none_is_not_found() -> None:
    """A version that is no number is VERSION_NOT_FOUND, as it is in a path."""
    with pytest.raises(GatewayError) as caught:
        split_parameters(ModelSpec("m"), {"version": "latest"})
    assert caught.value.cause is Cause.VERSION_NOT_FOUND


def test_headers_choose_where_the_request_is_silent() -> None:
    """Each header fills its own place, and none touches the others."""
    merged = merge_selection(REQUEST, stack="torchserve", label="stable")
    assert merged.selection == Selection(stack="torchserve")
    assert merged.model == ModelSpec("m", label="stable")
    assert merge_selection(merged, endpoint="ts", variant="v").selection == Selection("torchserve", "ts", "v")
    assert merge_selection(REQUEST) is REQUEST


def test_the_same_word_twice_is_fine() -> None:
    """A header may repeat what the request says."""
    request = replace(REQUEST, model=ModelSpec("m", label="a"), selection=Selection("s", "e", "v"))
    assert merge_selection(request, stack="s", endpoint="e", variant="v", label="a").selection == request.selection


@pytest.mark.parametrize("name", ["stack", "endpoint", "variant"])
def test_a_contradiction_names_both_words(name: str) -> None:
    """Request and header are both quoted."""
    request = replace(REQUEST, selection=Selection(**{name: "one"}))
    with pytest.raises(GatewayError, match=rf"'{name}' of the request is 'one', but x-{name} says 'two'") as caught:
        merge_selection(request, **{name: "two"})
    assert caught.value.cause is Cause.INVALID_INPUT


@pytest.mark.parametrize(
    ("model", "label"), [(ModelSpec("m", label="a"), "b"), (ModelSpec("m", version=1), "b"), (ModelSpec("m"), "")]
)
def test_label_headers_contradict_versions_and_other_labels(model: ModelSpec, label: str) -> None:
    """A label excludes another label and any version, and must be a word."""
    with pytest.raises(GatewayError, match="label") as caught:
        merge_selection(replace(REQUEST, model=model), label=label)
    assert caught.value.cause is Cause.INVALID_INPUT


@untimed
@given(VALUES | st.lists(st.integers()))
def test_any_version_is_a_number_or_refused(value: object) -> None:
    """Of 18 digits at most, so that TF Serving's int64 holds it."""
    cause = cause_of(lambda: version_number(value, "m"))
    assert cause in (None, Cause.VERSION_NOT_FOUND, Cause.INVALID_INPUT)
    assert cause is not None or 0 <= version_number(value, "m") < 10**18


@untimed
@given(st.dictionaries(st.sampled_from([*SELECTION_PARAMETERS, "k"]), VALUES), st.none() | st.integers(0, 9))
def test_any_parameters_choose_or_are_refused(parameters: dict[str, Parameter], version: int | None) -> None:
    """None of the gateway's own ever goes on to a model."""
    cause = cause_of(lambda: split_parameters(ModelSpec("m", version), parameters))
    assert cause in (None, Cause.VERSION_NOT_FOUND, Cause.INVALID_INPUT)
    if cause is not None:
        return
    model, _, rest = split_parameters(ModelSpec("m", version), parameters)
    assert rest == {name: value for name, value in parameters.items() if name == "k"}
    assert version is None or model.version == version
