"""Where a client wants its request answered, from whichever places may say so: fields, parameters, headers.

The same word twice is fine; two different words are INVALID_INPUT, so that no client is answered from elsewhere than
it believes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from gateway.codecs.fields import choice, shown
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import ANYWHERE, InferenceRequest, ModelSpec, Parameter, Selection

# Open Inference Protocol request parameters that are the gateway's own, and never reach a model.
SELECTION_PARAMETERS = ("stack", "endpoint", "variant", "label", "signature_name", "version")

_VERSION = re.compile(r"[0-9]{1,18}")
_PLACES = ("stack", "endpoint", "variant")


def version_number(value: object, model: str) -> int:
    """A version as an integer or its decimal digits; raises VERSION_NOT_FOUND for another text or number.

    18 digits keep it inside TF Serving's int64. Raises INVALID_INPUT for what is neither integer nor text.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise GatewayError(Cause.INVALID_INPUT, "version: expected a whole number or its digits")
    text = str(value)
    if not _VERSION.fullmatch(text):
        raise GatewayError(
            Cause.VERSION_NOT_FOUND, f"model '{shown(model)}' has no such version; versions are whole numbers"
        )
    return int(text)


def split_parameters(
    model: ModelSpec, parameters: Mapping[str, Parameter]
) -> tuple[ModelSpec, Selection, dict[str, Parameter]]:
    """Takes the gateway's own parameters out of an Open Inference Protocol request's.

    Raises INVALID_INPUT where they contradict `model` or each other, VERSION_NOT_FOUND for what is no version.
    """
    rest = dict(parameters)
    if not rest:
        return model, ANYWHERE, rest
    own = {name: rest.pop(name) for name in SELECTION_PARAMETERS if name in rest}
    selection = Selection(**{name: choice(name, own[name]) for name in _PLACES if name in own})
    if "version" in own:
        version = version_number(own["version"], model.name)
        _agree("the request's model version", model.version, "parameter 'version'", version)
        model = replace(model, version=version)
    if "label" in own:
        model = _labelled(model, choice("label", own["label"]), "parameter 'label'")
    if "signature_name" in own:
        model = replace(model, signature_name=choice("signature_name", own["signature_name"]))
    return model, selection, rest


def merge_selection(
    request: InferenceRequest,
    *,
    stack: str | None = None,
    endpoint: str | None = None,
    variant: str | None = None,
    label: str | None = None,
) -> InferenceRequest:
    """The request with what the headers or gRPC metadata `x-stack`, `x-endpoint`, `x-variant`, `x-label` choose.

    Raises INVALID_INPUT where the request itself says something else.
    """
    chosen: dict[str, str] = {}
    for name, value in zip(_PLACES, (stack, endpoint, variant), strict=True):
        if value is not None:
            chosen[name] = choice(f"x-{name}", value)
            _agree(f"'{name}' of the request", getattr(request.selection, name), f"x-{name}", value)
    if chosen:
        request = replace(request, selection=replace(request.selection, **chosen))
    if label is not None:
        request = replace(request, model=_labelled(request.model, choice("x-label", label), "x-label"))
    return request


def addressed(model: ModelSpec, chosen: Mapping[str, str]) -> tuple[ModelSpec, Selection]:
    """A model that is asked about, not inferred with, where headers or metadata choose as for `merge_selection`."""
    request = merge_selection(InferenceRequest(model, ()), **chosen)
    return request.model, request.selection


def _labelled(model: ModelSpec, label: str, source: str) -> ModelSpec:
    _agree("the request's label", model.label, source, label)
    if model.version is not None:
        raise GatewayError(
            Cause.INVALID_INPUT, f"{source} and the request's model version exclude each other; expected one of them"
        )
    return replace(model, label=label)


def _agree(one: str, value: object, other: str, other_value: object) -> None:
    if value is not None and value != other_value:
        raise GatewayError(
            Cause.INVALID_INPUT,
            f"{one} is '{shown(str(value))}', but {other} says '{shown(str(other_value))}'; expected one word",
        )
