"""The Open Inference Protocol's repository index (Triton's extension_model_repository.md), as JSON and protobuf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from gateway._generated import oip_pb2
from gateway.codecs.fields import refuse_unknown
from gateway.codecs.json_document import parse_object
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import IndexEntry

# Why load and unload are refused.
READ_ONLY = (
    "the gateway does not load or unload models: its configuration names them, and their model servers load them; "
    "the repository can be listed only"
)


def decode_request(body: bytes) -> bool:
    """Whether only models that can answer are asked for; an empty body asks for all.

    Raises UNPARSEABLE, and INVALID_INPUT for fields other than a boolean `ready`.
    """
    if not body.strip():
        return False
    document = parse_object(body)
    refuse_unknown("the body", document, frozenset({"ready"}))
    ready = document.get("ready", False)
    if not isinstance(ready, bool):
        raise GatewayError(Cause.INVALID_INPUT, "field 'ready': expected true or false")
    return ready


def encode_index(entries: Sequence[IndexEntry]) -> bytes:
    """The answer to `POST /v2/repository/index`."""
    return orjson.dumps([_entry(entry) for entry in entries])


def decode_message(message: oip_pb2.RepositoryIndexRequest) -> bool:
    """Whether only models that can answer are asked for; raises INVALID_INPUT for a repository by name."""
    if message.repository_name:
        raise GatewayError(Cause.INVALID_INPUT, "field 'repository_name': expected none; there is one repository only")
    return message.ready


def encode_message(entries: Sequence[IndexEntry]) -> bytes:
    """A serialised RepositoryIndexResponse; a model that cannot answer has the version ''."""
    return oip_pb2.RepositoryIndexResponse(
        models=[
            oip_pb2.RepositoryIndexResponse.ModelIndex(
                name=entry.name,
                version="" if entry.version is None else str(entry.version),
                state=entry.state,
                reason=entry.reason,
            )
            for entry in entries
        ]
    ).SerializeToString()


def _entry(entry: IndexEntry) -> dict[str, Any]:
    version = {} if entry.version is None else {"version": str(entry.version)}
    return {"name": entry.name, **version, "state": entry.state, "reason": entry.reason}
