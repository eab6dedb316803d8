"""Random logical requests: whichever door they come through, REST or gRPC, answer and error are the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse
from tests.contract.frontend_doors import DOORS, Asked, Input
from tests.contract.stream_door import OipStream
from tests.contract.test_frontends import Case, answering, in_front_of, reported

ROWS = st.integers(1, 8)
FLOATS = st.floats(-(2.0**126), 2.0**126, width=32)
WORDS = st.text("abcdefghij", min_size=4, max_size=8).filter(lambda word: word not in ("doubler", "stable"))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@dataclass(frozen=True)
class Logical:
    """A request, what is wrong with it, what it should give otherwise, and doors that cannot say it.

    `fails`: it reaches a model server, which fails by the cause.
    """

    asked: Asked
    cause: Cause | None = None
    outputs: Any = None
    without: tuple[str, ...] = ()
    fails: bool = False


def nest(values: list[Any], shape: tuple[int, ...]) -> Any:
    """A flat list as deep as its shape."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape).tolist()


@st.composite
def sound(draw: st.DrawFn) -> Logical:
    """A request that is answered: any values, rows, place and version."""
    rows = draw(ROWS)
    choices = {
        "version": draw(st.sampled_from([None, 1])),
        "headers": draw(
            st.sampled_from([{}, {"x-stack": "tfserving"}, {"x-endpoint": "ts"}, {"x-variant": "savedmodel"}])
        ),
        "fields": draw(st.sampled_from([{}, {"label": "stable"}])),
    }
    if choices["fields"]:
        choices["version"] = None
    if draw(st.booleans()):
        values = draw(st.lists(FLOATS, min_size=2 * rows, max_size=2 * rows))
        asked = Asked((Input("x", nest(values, (rows, 2)), (rows, 2)),), **choices)
        return Logical(asked, outputs={"y": [2 * value for value in values]})
    numbers = draw(st.lists(st.integers(-(2**24), 2**24), min_size=rows, max_size=rows))
    texts = draw(st.lists(TEXTS.map(str.encode), min_size=rows, max_size=rows))
    inputs = (Input("a", numbers, (rows,), "INT64"), Input("b", texts, (rows,), "BYTES"))
    asked = Asked(draw(st.permutations(inputs).map(tuple)), model="pair", answers=("c",), **choices)
    return Logical(asked, outputs={"c": numbers})


def other_model(asked: Asked, word: str) -> Logical:
    # Of a label of no model TF Serving says that there is no such label.
    return Logical(replace(asked, model=word, fields={}), Cause.MODEL_NOT_FOUND)


def other_version(asked: Asked, word: str) -> Logical:
    return Logical(replace(asked, version=1 + len(word), fields={}), Cause.VERSION_NOT_FOUND)


def other_label(asked: Asked, word: str) -> Logical:
    return Logical(replace(asked, version=None, fields={"label": word}), Cause.LABEL_NOT_FOUND)


def other_signature(asked: Asked, word: str) -> Logical:
    return Logical(replace(asked, fields={"signature_name": word}), Cause.SIGNATURE_NOT_FOUND, without=("predict",))


def other_stack(asked: Asked, word: str) -> Logical:
    return Logical(replace(asked, headers={"x-stack": word}), Cause.MODEL_NOT_FOUND)


def no_stack(asked: Asked, _word: str) -> Logical:
    return Logical(replace(asked, headers={"x-stack": ""}), Cause.INVALID_INPUT)


def other_output(asked: Asked, word: str) -> Logical:
    return Logical(replace(asked, wanted=(word,)), Cause.INVALID_INPUT)


def output_twice(asked: Asked, _word: str) -> Logical:
    name = "c" if asked.model == "pair" else "y"
    return Logical(replace(asked, wanted=(name, name)), Cause.INVALID_INPUT)


def other_name(asked: Asked, word: str) -> Logical:
    first, *rest = asked.inputs
    return Logical(replace(asked, inputs=(replace(first, name=word), *rest)), Cause.INVALID_INPUT)


def one_less(asked: Asked, _word: str) -> Logical:
    return Logical(replace(asked, inputs=asked.inputs[1:]), Cause.INVALID_INPUT)


def one_dimension_more(asked: Asked, _word: str) -> Logical:
    first, *rest = asked.inputs
    deeper = replace(first, data=[first.data], shape=(1, *first.shape))
    return Logical(replace(asked, inputs=(deeper, *rest)), Cause.INVALID_INPUT)


def too_many_rows(asked: Asked, word: str) -> Logical:
    count = 5 + len(word)
    inputs = tuple(
        replace(item, data=(item.data * count)[:count], shape=(count, *item.shape[1:])) for item in asked.inputs
    )
    return Logical(replace(asked, inputs=inputs), Cause.INVALID_INPUT)


def other_kind(asked: Asked, word: str) -> Logical:
    """Strings where numbers belong, and numbers where strings do."""
    first, *rest = asked.inputs
    value, datatype = (1, "INT64") if first.datatype == "BYTES" else (word.encode(), "BYTES")
    count = int(np.prod(first.shape))
    changed = replace(first, data=nest([value] * count, first.shape), datatype=datatype)
    return Logical(replace(asked, inputs=(changed, *rest)), Cause.INVALID_INPUT)


FAULTS = [
    other_model,
    other_version,
    other_label,
    other_signature,
    other_stack,
    no_stack,
    other_output,
    output_twice,
    other_name,
    one_less,
    one_dimension_more,
    too_many_rows,
    other_kind,
]
# What a model server, or the way to it, may do to a sound request.
UPSTREAM = [
    Cause.UPSTREAM_UNREACHABLE,
    Cause.UPSTREAM_LOST,
    Cause.UPSTREAM_BAD_REPLY,
    Cause.UPSTREAM_REJECTED,
    Cause.UPSTREAM_FAILED,
    Cause.UNSUPPORTED_DATATYPE,
    Cause.OVERLOADED,
    Cause.NOT_READY,
    Cause.DEADLINE,
    Cause.INTERNAL,
]


def words(door: str, cause: Cause | None) -> str:
    """What a door says of a server's failure: its word, or what TorchServe always says."""
    return "Prediction failed" if door.startswith("torchserve") and cause is Cause.UPSTREAM_FAILED else "as told"


FAILED = st.builds(lambda good, cause: replace(good, cause=cause, fails=True), sound(), st.sampled_from(UPSTREAM))
FAULTY = st.builds(lambda good, fault, word: fault(good.asked, word), sound(), st.sampled_from(FAULTS), WORDS)


@settings(max_examples=60)
@given(logical=sound() | FAULTY | FAILED)
async def test_every_door_gives_the_same_answer_and_the_same_error(logical: Logical) -> None:
    """A sound request is answered with the same numbers everywhere, one fault is the same cause everywhere, be it the
    client's or a server's, whose word every door passes on.
    """

    def answer(request: InferenceRequest) -> InferenceResponse:
        if logical.fails and logical.cause is not None:
            raise GatewayError(logical.cause, "as told")
        return answering(request)

    case = Case("random", logical.asked)
    for door in (*DOORS, OipStream()):
        if door.name in logical.without or not case.sayable(door.name):
            continue
        world = await in_front_of(answer)
        outcome = await door.send(world, logical.asked)
        await reported(world)
        assert (door.name, world.last.cause) == (door.name, logical.cause)
        assert outcome.status == door.status(logical.cause)
        assert not logical.fails or words(door.name, logical.cause) in outcome.text
        if logical.cause is None:
            assert outcome.outputs.keys() == logical.outputs.keys()
            for name, expected in logical.outputs.items():
                found = np.array(outcome.outputs[name], np.float32).reshape(-1)
                assert found.tobytes() == np.array(expected, np.float32).tobytes()
