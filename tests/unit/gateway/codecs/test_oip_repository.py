"""The repository index, as JSON and protobuf."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway._generated import oip_pb2
from gateway.codecs import oip_repository
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import IndexEntry
from tests.unit.gateway.codecs.tensors import WORDS, cause_of, untimed

ENTRIES = (IndexEntry("m", 2), IndexEntry("n", None, "nobody answers"))


@pytest.mark.parametrize(
    ("body", "ready"), [(b"", False), (b" \n", False), (b"{}", False), (b'{"ready": false}', False)]
)
def test_all_models_are_asked_for_unless_said_otherwise(body: bytes, ready: bool) -> None:
    """An empty body is what some clients send."""
    assert oip_repository.decode_request(body) is ready
    assert oip_repository.decode_request(b'{"ready": true}') is True


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"{", Cause.UNPARSEABLE),
        (b"[]", Cause.INVALID_INPUT),
        (b'{"ready": 1}', Cause.INVALID_INPUT),
        (b'{"ready": null}', Cause.INVALID_INPUT),
        (b'{"raedy": true}', Cause.INVALID_INPUT),
    ],
)
def test_other_bodies_are_refused(body: bytes, cause: Cause) -> None:
    """A slip must not list more than was asked for."""
    with pytest.raises(GatewayError) as caught:
        oip_repository.decode_request(body)
    assert caught.value.cause is cause


def test_both_forms_say_the_same() -> None:
    """A model that cannot answer has no version, and a reason."""
    listed = orjson.loads(oip_repository.encode_index(ENTRIES))
    assert listed == [
        {"name": "m", "version": "2", "state": "READY", "reason": ""},
        {"name": "n", "state": "UNAVAILABLE", "reason": "nobody answers"},
    ]
    message = oip_pb2.RepositoryIndexResponse.FromString(oip_repository.encode_message(ENTRIES))
    for model, entry in zip(message.models, listed, strict=True):
        assert (model.name, model.version, model.state, model.reason) == (
            entry["name"],
            entry.get("version", ""),
            entry["state"],
            entry["reason"],
        )


def test_the_message_may_name_no_repository() -> None:
    """There is one, and it has no name."""
    assert oip_repository.decode_message(oip_pb2.RepositoryIndexRequest(ready=True)) is True
    with pytest.raises(GatewayError, match="repository_name"):
        oip_repository.decode_message(oip_pb2.RepositoryIndexRequest(repository_name="r"))


@untimed
@given(st.lists(st.builds(IndexEntry, WORDS, st.none() | st.integers(0, 2**63 - 1), WORDS), max_size=4))
def test_any_index_is_the_same_in_both_forms(entries: list[IndexEntry]) -> None:
    """Names, versions and reasons survive."""
    listed = orjson.loads(oip_repository.encode_index(entries))
    told = oip_repository.encode_message(entries)
    models = [
        {
            "name": item.name,
            "state": item.state,
            "reason": item.reason,
            **({"version": item.version} if item.version else {}),
        }
        for item in oip_pb2.RepositoryIndexResponse.FromString(told).models
    ]
    assert listed == models
    assert [(item["name"], item["reason"]) for item in listed] == [(entry.name, entry.reason) for entry in entries]
    versions = [None if entry.version is None else str(entry.version) for entry in entries]
    assert [item.get("version") for item in listed] == versions


@untimed
@given(st.binary(max_size=32) | st.text('{}[]":,readytrufls \\', max_size=24).map(str.encode))
def test_any_bytes_are_a_question_or_refused(body: bytes) -> None:
    """Nothing but an error of the client's."""
    cause = cause_of(lambda: oip_repository.decode_request(body))
    assert cause in (None, Cause.UNPARSEABLE, Cause.INVALID_INPUT)
