"""What both transports to an Open Inference Protocol server share: its name, its models' versions and their readiness.

Versions are whole numbers here and free strings there, so a model's metadata is asked before it is first sent to. A
model that lists none (KServe has none, MLServer does not list the one it has) is sent no version, and counts as version
1 until an answer of its own states another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace

from gateway.backends.channel import CONTROL_TIMEOUT_S, named
from gateway.codecs.oip_server import UNVERSIONED, ServedModel, ServerMetadata
from gateway.core.backend import ModelState
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec

UNSTATED = "OIP server (version not stated)"

Describe = Callable[[str, float], Awaitable[ServedModel]]
"""A model's metadata, by its name, within seconds; raises MODEL_NOT_FOUND."""
Ready = Callable[[str, str, float], Awaitable[bool]]
"""Whether a model's version, by the server's spelling ('' for none), can answer; asked within seconds."""


def server_name(metadata: ServerMetadata, configured: str | None) -> str:
    """`<name> <version>`; as configured where the server leaves one of them out."""
    mark = f"{metadata.name} {metadata.version}" if metadata.name and metadata.version else None
    return named(mark, configured, metadata.name or UNSTATED)


class OipModels:
    """The versions of one server's models, as last heard."""

    def __init__(self, describe: Describe, ready: Ready) -> None:
        self._describe = describe
        self._ready = ready
        self._known: dict[str, ServedModel] = {}
        self._stated: dict[str, int] = {}

    async def state(self, model: str) -> ModelState:
        """The ready versions, newest first, with the tensors where the server describes them."""
        known = await self._refresh(model, CONTROL_TIMEOUT_S)
        spellings = self._spellings(model, known)
        asked = [(number, spellings[number]) for number in sorted(spellings, reverse=True)]
        versions = tuple([number for number, text in asked if await self._ready(model, text, CONTROL_TIMEOUT_S)])
        return ModelState(versions, known.metadata and replace(known.metadata, versions=versions))

    async def spelling(self, model: ModelSpec, timeout_s: float) -> str:
        """The server's own word for the version asked for, '' for none; raises VERSION_NOT_FOUND."""
        known = self._known.get(model.name) or await self._refresh(model.name, timeout_s)
        if model.version is None:
            return ""
        if model.version not in self._spellings(model.name, known):
            # It may have come since.
            known = await self._refresh(model.name, timeout_s)
        spellings = self._spellings(model.name, known)
        if model.version not in spellings:
            raise _no_version(model, sorted(spellings, reverse=True))
        return spellings[model.version]

    def completed(self, request: InferenceRequest, response: InferenceResponse) -> InferenceResponse:
        """The response with the client's id, and with the version that answered where only one can have.

        Raises VERSION_NOT_FOUND where another version than the one asked for says that it answered.
        """
        model = request.model
        known = self._known.get(model.name)
        listed = tuple(known.versions) if known is not None else ()
        if response.version is not None and not listed:
            self._stated[model.name] = response.version
        version = response.version if response.version is not None else model.version
        if model.version not in (None, version):
            raise _no_version(model, [version])
        if version is None and len(listed) <= 1:
            version = listed[0] if listed else self._stated.get(model.name, UNVERSIONED)
        return replace(response, version=version, id=request.id)

    def _spellings(self, model: str, known: ServedModel) -> Mapping[int, str]:
        return known.versions or {self._stated.get(model, UNVERSIONED): ""}

    async def _refresh(self, model: str, timeout_s: float) -> ServedModel:
        try:
            known = await self._describe(model, timeout_s)
        except GatewayError as exc:
            if exc.cause is Cause.MODEL_NOT_FOUND:
                self._known.pop(model, None)
            raise
        self._known[model] = known
        return known


def _no_version(model: ModelSpec, found: Iterable[object]) -> GatewayError:
    listed = ", ".join(map(str, found))
    return GatewayError(
        Cause.VERSION_NOT_FOUND, f"model '{model.name}' has no version {model.version}; its versions: {listed}"
    )
