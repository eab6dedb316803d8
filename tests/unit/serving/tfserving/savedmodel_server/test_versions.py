"""The table of versions, and the decisions on what to load and unload."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorflow_serving.apis import model_pb2

from serving.tfserving.savedmodel_server.errors import ServingError, invalid
from serving.tfserving.savedmodel_server.versions import Plan, State, Version, Versions, plan
from tests.unit.serving.tfserving.savedmodel_server.fakes import FakeServable


def version(number: int, state: State, *, aspired: bool = True, error: ServingError | None = None) -> Version:
    """A version of model m."""
    return Version("m", number, Path("/m") / str(number), state, aspired=aspired, error=error)


def spec(name: str = "m", number: int | None = None, label: str | None = None) -> model_pb2.ModelSpec:
    """A ModelSpec with a version, a label or neither."""
    message = model_pb2.ModelSpec(name=name)
    if number is not None:
        message.version.value = number
    if label is not None:
        message.version_label = label
    return message


BROKEN = invalid("broken")


@pytest.mark.parametrize(
    ("aspired", "known", "expected"),
    [
        ({1}, [], Plan(load=(1,))),
        ({1, 2}, [], Plan(load=(1, 2))),
        ({2}, [version(1, State.AVAILABLE)], Plan(load=(2,))),
        ({2}, [version(1, State.AVAILABLE), version(2, State.LOADING)], Plan()),
        ({2}, [version(1, State.AVAILABLE), version(2, State.AVAILABLE)], Plan(unload=(1,))),
        ({2}, [version(1, State.AVAILABLE), version(2, State.END, error=BROKEN)], Plan()),
        ({2}, [version(2, State.END, error=BROKEN, aspired=False)], Plan(load=(2,))),
        ({2}, [version(2, State.UNLOADING, aspired=False)], Plan()),
        ({2}, [version(2, State.END)], Plan(load=(2,))),
        (set(), [version(1, State.AVAILABLE)], Plan(unload=(1,))),
        ({1}, [version(1, State.AVAILABLE)], Plan()),
    ],
)
def test_a_version_goes_only_once_another_has_come(aspired: set[int], known: list[Version], expected: Plan) -> None:
    """Failed ones are not tried again while they stay; those that come back are."""
    assert plan(frozenset(aspired), {entry.number: entry for entry in known}) == expected


class Table:
    """Versions 1 and 2 of model m, both available, with version 1 labelled `stable`, 9 labelled `gone`."""

    def __init__(self) -> None:
        self.drained: list[int] = []
        self.versions = Versions(lambda drained: self.drained.append(drained.number))
        self.versions.relabel({"m": {"stable": 1, "gone": 9}})
        for number in (1, 2):
            entry = version(number, State.START)
            self.versions.add(entry)
            self.versions.available(entry, FakeServable())


def used(versions: Versions, request: model_pb2.ModelSpec) -> int:
    """The version that a request gets."""
    with versions.using(request) as (number, _):
        return number


def test_a_request_gets_the_latest_or_what_it_names() -> None:
    """By default, by version and by label."""
    versions = Table().versions
    assert [used(versions, wish) for wish in (spec(), spec(number=1), spec(label="stable"))] == [2, 1, 1]


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        (spec(""), "INVALID_ARGUMENT: ModelSpec has no name specified."),
        (spec("other"), "NOT_FOUND: Servable not found for request: Latest(other)"),
        (spec(number=99), "NOT_FOUND: Servable not found for request: Specific(m, 99)"),
        (spec(label="gone"), "NOT_FOUND: Servable not found for request: Specific(m, 9)"),
        (spec(label="x"), "INVALID_ARGUMENT: Unrecognized servable version label: x"),
        (spec("other", label="x"), "INVALID_ARGUMENT: Unrecognized servable version label: x"),
    ],
)
def test_what_is_not_there_is_named(wish: model_pb2.ModelSpec, text: str) -> None:
    """TensorFlow Serving's codes and texts."""
    with pytest.raises(ServingError) as caught:
        used(Table().versions, wish)
    assert str(caught.value) == text


def test_a_version_in_use_is_drained_first() -> None:
    """It is handed out no more, and done with once the last request has ended."""
    table = Table()
    newest = table.versions.of("m")[2]
    with table.versions.using(spec()), table.versions.using(spec(number=2)):
        table.versions.unload(newest)
        assert used(table.versions, spec()) == 1
        assert table.drained == []
    assert table.drained == [2]


def test_a_version_that_nobody_uses_is_drained_at_once() -> None:
    """There is nothing to wait for."""
    table = Table()
    table.versions.unload(table.versions.of("m")[1])
    assert table.drained == [1]
    with pytest.raises(ServingError, match="NOT_FOUND"):
        used(table.versions, spec(number=1))


def test_a_failing_request_ends_its_use() -> None:
    """Otherwise a version could never unload again."""
    table = Table()

    def fail() -> None:
        with table.versions.using(spec()):
            raise BROKEN

    with pytest.raises(ServingError):
        fail()
    assert table.versions.of("m")[2].in_flight == 0


def test_labels_come_with_the_first_configuration() -> None:
    """Before, a label is not wrong but early; afterwards the labels are replaced all at once."""
    versions = Versions(lambda _: None)
    with pytest.raises(ServingError, match="UNAVAILABLE: Model labels does not init yet"):
        used(versions, spec(label="x"))
    versions.relabel({"m": {"x": 1}})
    assert versions.labelled("m", "x") == 1
    versions.relabel({"m": {"y": 1}})
    assert versions.labelled("m", "x") is None
