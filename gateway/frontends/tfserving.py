"""What TF Serving's two doors share: which model is meant, told in its words, and what is told of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gateway.codecs.selection import addressed
from gateway.codecs.tfserving_documents import VersionState
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import DEFAULT_SIGNATURE, ModelMetadata, ModelSpec
from gateway.dataplane import DataPlane

_UNKNOWN = (Cause.MODEL_NOT_FOUND, Cause.VERSION_NOT_FOUND)


def chosen_version(plane: DataPlane, spec: ModelSpec) -> ModelSpec:
    """`spec` with the version left to the gateway where it is 0 and the model has no such version.

    OpenVINO's client of this protocol writes 0 wherever its user names no version. Raises nothing: an unknown model
    is for whoever looks it up.
    """
    if spec.version != 0:
        return spec
    try:
        versions = (plane.contract(spec.name).version, *plane.model_metadata(ModelSpec(spec.name)).versions)
    except GatewayError:
        return spec
    return spec if 0 in versions else replace(spec, version=None)


def check_servable(plane: DataPlane, spec: ModelSpec, no_signature: str) -> None:
    """Whether there is such a model, version or label, then such a signature: in this order, before any input.

    `no_signature` is the transport's own text for an unknown signature. Raises MODEL_NOT_FOUND, VERSION_NOT_FOUND,
    LABEL_NOT_FOUND, SIGNATURE_NOT_FOUND.
    """
    try:
        if spec.version is None and spec.label is None:
            plane.declared_version(spec.name)
        else:
            plane.model_ready(replace(spec, signature_name=None))
    except GatewayError as exc:
        raise _in_words(exc, spec) from exc
    try:
        plane.contract(spec.name, spec.signature_name)
    except GatewayError as exc:
        if exc.cause is not Cause.SIGNATURE_NOT_FOUND:
            raise
        text = no_signature.format((spec.signature_name or DEFAULT_SIGNATURE)[:64])
        raise GatewayError(exc.cause, f"{text} ({exc.detail})") from exc


def version_states(plane: DataPlane, spec: ModelSpec, chosen: Mapping[str, str]) -> list[VersionState]:
    """A model's versions, newest first, and whether they answer where `chosen`, from headers, wants it answered.

    A label is no choice here, as TF Serving has it. Raises MODEL_NOT_FOUND, VERSION_NOT_FOUND.
    """
    asked, selection = addressed(ModelSpec(spec.name, spec.version), chosen)
    try:
        declared = plane.declared_version(spec.name)
    except GatewayError as exc:
        if exc.cause is not Cause.MODEL_NOT_FOUND:
            raise
        raise GatewayError(exc.cause, f"Could not find any versions of model {spec.name[:128]}") from exc
    versions = plane.versions(ModelSpec(spec.name)) or (declared,)
    if asked.version is not None:
        if asked.version not in versions:
            raise GatewayError(
                Cause.VERSION_NOT_FOUND, f"Could not find version {asked.version} of model {spec.name[:128]}"
            )
        versions = (asked.version,)
    return [VersionState(version, plane.model_ready(ModelSpec(spec.name, version), selection)) for version in versions]


def described(plane: DataPlane, spec: ModelSpec, chosen: Mapping[str, str]) -> tuple[dict[str, ModelMetadata], int]:
    """A model's tensors by signature, and the version they are told of; raises as `check_servable` does."""
    asked, _ = addressed(replace(spec, signature_name=None), chosen)
    try:
        signatures = plane.signatures(asked)
    except GatewayError as exc:
        raise _in_words(exc, asked) from exc
    if asked.version is not None:
        return signatures, asked.version
    if asked.label is not None:
        # Resolving a label is the router's; a label that is known leads to a version that it has found.
        return signatures, plane.resolve(asked).version or plane.declared_version(spec.name)
    return signatures, next(iter(_versions(signatures)), plane.declared_version(spec.name))


def _versions(signatures: Mapping[str, ModelMetadata]) -> tuple[int, ...]:
    # The same under every signature.
    return next(iter(signatures.values())).versions


def _in_words(error: GatewayError, spec: ModelSpec) -> GatewayError:
    name = spec.name[:128]
    if spec.label is not None and error.cause in (Cause.MODEL_NOT_FOUND, Cause.LABEL_NOT_FOUND):
        # Labels are looked up first: TF Serving says the same of an unknown model's label.
        return GatewayError(Cause.LABEL_NOT_FOUND, f"Unrecognized servable version label: {spec.label[:128]}")
    if error.cause not in _UNKNOWN:
        return error
    wanted = f"Latest({name})" if spec.version is None else f"Specific({name}, {spec.version})"
    return GatewayError(error.cause, f"Servable not found for request: {wanted}")
