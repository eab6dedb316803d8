"""The REST API against its own description: schemathesis sends what `/openapi.json` allows, and what it does not.

The same requests in every run, through the whole application and no socket.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from gateway.core.contract import ModelContract
from gateway.core.messages import InferenceRequest, InferenceResponse, TensorSpec
from gateway.core.tensor import Tensor
from tests.builders import contract
from tests.contract.test_frontends import answering
from tests.unit.gateway.frontends.world import World

READER = contract("reader", inputs=(TensorSpec("text", "BYTES", (-1,)),), outputs=(TensorSpec("back", "BYTES", (-1,)),))

CONFIG: dict[str, Any] = {
    "seed": 1,
    "continue-on-failure": True,
    "generation": {"deterministic": True, "max-examples": 12, "database": "none", "mode": "all"},
    # Nothing is created here, so that no call makes another one possible.
    "phases": {"stateful": {"enabled": False}},
    "checks": {
        # Valid by the description is not yet valid: which tensors a model takes, and which models there are.
        "positive_data_acceptance": {"enabled": False},
        "negative_data_rejection": {"expected-statuses": ["400", "404", "413", "415", "422"]},
        "ignored_auth": {"enabled": False},
    },
    # TF Serving answers 400 to another method.
    "operations": [{"include-path-regex": "^/v1/", "checks": {"unsupported_method": {"enabled": False}}}],
}
# A deadline of a few milliseconds would be a rightful 504, or not, as the machine is busy.
PARAMETERS = {"header.x-request-timeout-ms": "30000"}


def echoing(asked: InferenceRequest) -> InferenceResponse:
    """The reader gives its input back."""
    if asked.model.name != "reader":
        return answering(asked)
    return InferenceResponse("reader", 1, (Tensor("back", "BYTES", asked.inputs[0].array),))


@pytest.mark.parametrize(
    ("model", "answer", "known"),
    [
        (None, answering, {}),
        (None, answering, {"path.model": "doubler", "path.label": "stable"}),
        pytest.param(
            *(None, answering, {"path.model": "pair", "path.label": "stable", "path.version": "1"}),
            marks=pytest.mark.clients,
        ),
        pytest.param(
            *(READER, echoing, {"path.model": "reader", "path.label": "stable", "path.version": "1"}),
            marks=pytest.mark.clients,
        ),
    ],
    ids=["any model", "a model of one input", "a model of two inputs", "a model of bytes"],
)
def test_the_api_does_what_its_description_says(
    model: ModelContract | None, answer: Callable[[InferenceRequest], InferenceResponse], known: dict[str, str]
) -> None:
    """No server error, no status, content type, header or body that is not described, and no nonsense accepted."""
    world = asyncio.run(World.started(model=model))
    for backend in world.backends.values():
        backend.answer = answer
    config = SchemathesisConfig.from_dict({**CONFIG, "parameters": {**PARAMETERS, **known}})
    api = schemathesis.openapi.from_asgi("/openapi.json", world.app(), config=config)
    failures: list[str] = []
    answered: Counter[str] = Counter()
    for event in from_schema(api).execute():
        assert not isinstance(event, events.FatalError | events.NonFatalError), event
        if not isinstance(event, events.ScenarioFinished):
            continue
        told = event.recorder
        for identity, results in told.checks.items():
            for result in results:
                if result.failure_info is not None:
                    failures.append(f"{told.label}: {result.name}\n{result.failure_info.code_sample}")
            interaction = told.interactions.get(identity)
            if interaction is not None and interaction.response is not None:
                answered[told.label] += interaction.response.status_code == 200
    assert failures == []
    if known:
        assert [label for label, count in answered.items() if count == 0] == []
