"""The gateway's configuration: one file, `gateway.yaml`, and the only reader of it and of the environment.

Every field can be set in the environment too, as `GATEWAY_SERVER__REST_PORT=8000`; the environment wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    Field,
    JsonValue,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.process_settings import LimitSettings, ServerSettings, TelemetrySettings
from gateway.traffic_settings import Frozen, MirrorSettings, TrafficSettings


class SettingsError(ValueError):
    """Raised for a configuration that cannot be used; the text names the file, the field and what is allowed."""


class HandlerSettings(Frozen):
    """How a TorchServe handler is spoken to: on an endpoint for all its models, on a target for one model."""

    payload: Literal["framed", "json", "raw"] | None = None
    """What a TorchServe handler takes: our own handler's frame (`framed`, the default), a JSON body, or raw bytes."""
    template: JsonValue = None
    """The JSON body, with placeholders such as `$inputs.image` and `$rows`; `{"inputs": "$inputs"}` unless given."""
    reply: JsonValue = None
    """Where the outputs stand in a handler's reply, with placeholders; the usual forms are recognised without."""
    batch: Literal["whole", "rows"] | None = None
    """Whether a batch is one TorchServe request (`whole`, the default of json) or one per row (the default of raw)."""
    content_type: Annotated[str, Field(pattern=r"^[\w.+-]+/[\w.+-]+(; ?[\w-]+=[\w.-]+)*$")] | None = None
    """The content type of a raw body, such as image/jpeg; application/octet-stream unless given."""
    grpc_key: Literal["data", "body"] | None = None
    """The key that a json or raw body has in a gRPC request's map; `data` unless given."""

    def handler_fields(self) -> dict[str, Any]:
        """The fields of this class that are given."""
        values = {name: getattr(self, name) for name in HandlerSettings.model_fields}
        return {name: value for name, value in values.items() if value is not None}


# Which payloads each field of HandlerSettings is for.
_PAYLOADS_WITH = {
    "template": ("json",),
    "reply": ("json", "raw"),
    "batch": ("json", "raw"),
    "content_type": ("raw",),
    "grpc_key": ("json", "raw"),
}


class EndpointSettings(HandlerSettings):
    """One address of a model server."""

    stack: Literal["torchserve", "tfserving", "oip", "noop"]
    """What speaks there; `oip` is any server of that protocol v2, `noop` answers zeros from the contract."""
    transport: Literal["rest", "grpc"] = "rest"
    """Which of the server's two protocols requests travel by."""
    rest: str | None = None
    """The base URL of the REST port, such as http://127.0.0.1:8080."""
    grpc: str | None = None
    """The address of the gRPC port, such as 127.0.0.1:7070."""
    management: str | None = None
    """TorchServe's management URL, such as http://127.0.0.1:8081: read only, for readiness and versions."""
    token_file: Path | None = None
    """TorchServe's key_file.json, where its token authorization is on; read again whenever it changes."""
    server: str | None = None
    """What to call a server that does not say its name or version, such as `TensorFlow Serving 2.20.0`."""
    models: tuple[str, ...] | None = None
    """The models to take from here that are not under `models` of the file; without it all that the server lists."""
    slots: PositiveInt = 4
    """How many calls may run there at once."""
    queue: Annotated[int, Field(ge=0)] = 256
    """How many calls may wait for a slot; the next one is refused."""

    @model_validator(mode="after")
    def _has_addresses(self) -> Self:
        needed = {
            "torchserve": ("rest", "management"),
            "tfserving": (self.transport,),
            "oip": (self.transport,),
            "noop": (),
        }[self.stack]
        if self.stack == "torchserve" and self.transport == "grpc":
            needed = (*needed, "grpc")
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"stack {self.stack} over {self.transport} also needs: {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _speaks_to_handlers(self) -> Self:
        given = [*self.handler_fields(), *(["token_file"] if self.token_file is not None else [])]
        if given and self.stack != "torchserve":
            raise ValueError(f"{given[0]} is for stack torchserve, not {self.stack}; leave it out")
        return self


class TargetSettings(HandlerSettings):
    """Where a model is served."""

    endpoint: str
    """The name of an entry under `endpoints`."""
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Its share of the requests, against the other targets' weights; 0 keeps it for failover only."""
    model: str | None = None
    """The model's name there, where it differs."""
    version: int | None = None
    """The one version to use there; without it, and without `label`, the server's newest."""
    label: str | None = None
    """The version to use there by its name under the model's `labels`, in place of `version`."""
    names: dict[str, str] = Field(default_factory=dict)
    """The server's own tensor names, by the contract's, where they differ."""
    variant: str | None = None
    """The export that this server runs, where the contract does not say it."""
    by_name: bool = False
    """Whether it answers only requests that name its variant or its endpoint: never by policy, failover or retry."""
    batching: bool = True
    """Whether its requests may travel together where the model's may; false where rows of a run change each other."""
    versions: dict[str, PositiveInt] = Field(default_factory=dict)
    """Numbers for a TorchServe's versions that are none, such as `2024-05a: 3`; `N` and `N.0` are N without."""

    @field_validator("versions")
    @classmethod
    def _are_no_numbers(cls, versions: dict[str, int]) -> dict[str, int]:
        for spelling in versions:
            if spelling.removesuffix(".0").isdigit():
                raise ValueError(f"'{spelling}' is version {spelling.removesuffix('.0')} without a word; leave it out")
        if len(set(versions.values())) < len(versions):
            raise ValueError("two versions have the same number; expected a number of its own for each")
        return versions

    def handler_on(self, endpoint: EndpointSettings) -> HandlerSettings:
        """How this target's handler is spoken to: what it says itself, else what its endpoint says.

        A target with another payload than its endpoint's takes nothing else from it. Raises ValueError for fields that
        the payload has no use for.
        """
        own, shared = self.handler_fields(), endpoint.handler_fields()
        if own.get("payload", shared.get("payload")) != shared.get("payload"):
            shared = {}
        fields = {**shared, **own}
        payload = fields.get("payload", "framed")
        for name in fields:
            if name != "payload" and payload not in _PAYLOADS_WITH[name]:
                uses = " or ".join(_PAYLOADS_WITH[name])
                raise ValueError(f"{name} is for payload {uses}, and the payload is {payload}")
        return HandlerSettings(**fields)


class ModelSettings(TrafficSettings):
    """One model's route."""

    contract: Path | None = None
    """The model's contract.json; without it, made of the metadata of the first target whose server has some."""
    targets: Annotated[tuple[TargetSettings, ...], Field(min_length=1)]
    """Where it is served, the preferred one first."""
    labels: dict[str, int] = Field(default_factory=dict)
    """Version labels, such as stable: 1."""
    unavailable: dict[str, str] = Field(default_factory=dict)
    """Variants that cannot be had here, each with the reason: what a request for one is told with its 404."""

    @model_validator(mode="after")
    def _labels_exist(self) -> Self:
        for item in (*self.targets, *(() if self.mirror is None else (self.mirror,))):
            if item.label is None:
                continue
            where = f"{'mirror' if item is self.mirror else 'target'} '{item.endpoint}'"
            if item.version is not None:
                raise ValueError(f"{where} has a version and a label; leave one of them out")
            if item.label not in self.labels:
                known = ", ".join(f"'{label}'" for label in self.labels) or "none"
                raise ValueError(f"{where}: there is no label '{item.label}' under `labels`; there: {known}")
        return self

    def version_at(self, item: TargetSettings | MirrorSettings) -> int | None:
        """The version to ask at a target, or at the mirror: its own, or its label's."""
        return item.version if item.label is None else self.labels[item.label]

    def versions(self) -> dict[str, int]:
        """The numbers of the version names that TorchServe's clients may use."""
        return {spelling: number for target in self.targets for spelling, number in target.versions.items()}


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="GATEWAY_",
        env_nested_delimiter="__",
        use_attribute_docstrings=True,
    )

    server: ServerSettings = ServerSettings()
    """Where the gateway listens."""
    limits: LimitSettings = LimitSettings()
    """What clients may ask of it."""
    endpoints: Annotated[dict[str, EndpointSettings], Field(min_length=1)]
    """The model servers, by a name of your own."""
    models: dict[str, ModelSettings] = {}
    """The models, by the name that clients use."""
    telemetry: TelemetrySettings = TelemetrySettings()
    """What is told of requests beside metrics and logs."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe log line written."""

    def targets_on(self, endpoint: str) -> list[tuple[str, TargetSettings]]:
        """The targets on an endpoint, each with the model that it serves."""
        return [
            (name, target)
            for name, model in self.models.items()
            for target in model.targets
            if target.endpoint == endpoint
        ]

    def versions_on(self, endpoint: str) -> dict[str, dict[str, int]]:
        """The numbers of version names on an endpoint, by the model's name there."""
        found: dict[str, dict[str, int]] = {}
        for name, target in self.targets_on(endpoint):
            found.setdefault(target.model or name, {}).update(target.versions)
        return found

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, whose content arrives as the init source."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _targets_exist(self) -> Self:
        for name, model in self.models.items():
            for target in model.targets:
                self._check_endpoint(name, target.endpoint)
                try:
                    _check_handler(target, self.endpoints[target.endpoint])
                except ValueError as exc:
                    raise ValueError(f"models.{name}: target '{target.endpoint}': {exc}") from exc
            _check_versions(name, model.targets)
            _check_variants(name, model)
            if model.mirror is not None:
                self._check_endpoint(name, model.mirror.endpoint)
        return self

    def _check_endpoint(self, model: str, endpoint: str) -> None:
        if endpoint not in self.endpoints:
            known = ", ".join(self.endpoints)
            raise ValueError(f"models.{model}: unknown endpoint '{endpoint}'; there are {known}")


def load(path: Path | None, flags: Mapping[str, Mapping[str, Any]] | None = None) -> Settings:
    """Reads `path`, if any, and the environment; raises SettingsError with every problem that was found.

    `flags` holds what the command line adds: fields of `server`, which win, and whole `endpoints`. Relative
    paths in the file start at its folder.
    """
    document = {} if path is None else _document(path)
    source = "the command line" if path is None else str(path)
    for section, added in (flags or {}).items():
        own = document.setdefault(section, {})
        if not isinstance(own, dict):
            raise SettingsError(f"{source}: {section}: expected a mapping")
        both = sorted(own.keys() & added.keys()) if section == "endpoints" else []
        if both:
            raise SettingsError(f"{source} has an endpoint '{both[0]}' too; rename it there, or leave the option out")
        document[section] = {**own, **added}
    try:
        return Settings(**document)
    except ValidationError as exc:
        lines = [f"  {'.'.join(map(str, error['loc'])) or 'file'}: {error['msg']}" for error in exc.errors()]
        raise SettingsError("\n".join([f"{source}: not a usable configuration", *lines])) from exc


def _document(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(
            f"{path}: {exc.strerror}; --config names another file, docs/configuration.md describes it"
        ) from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        # Beside what the parser itself finds: no UTF-8, a date or number that is none, lists without end.
        raise SettingsError(f"{path}: not YAML: {exc}") from exc
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: expected a mapping with `endpoints` and `models`")
    # A name that is no text is no argument, and pydantic's own arguments begin with an underscore.
    odd = [key for key in document if not isinstance(key, str) or key.startswith("_")]
    if odd:
        raise SettingsError(f"{path}: there is no field '{odd[0]}'; docs/configuration.md has all of them")
    _anchor_paths(document, path.parent)
    return document


def _check_handler(target: TargetSettings, endpoint: EndpointSettings) -> None:
    """Raises ValueError where a target has fields that its endpoint's stack or payload has no use for."""
    given = [*target.handler_fields(), *(["versions"] if target.versions else [])]
    if given and endpoint.stack != "torchserve":
        raise ValueError(f"{given[0]} is for stack torchserve, not {endpoint.stack}; leave it out")
    target.handler_on(endpoint)


def _check_versions(model: str, targets: Iterable[TargetSettings]) -> None:
    """Raises ValueError where targets of one model have different numbers for one version."""
    numbers: dict[str, int] = {}
    for target in targets:
        for spelling, number in target.versions.items():
            if numbers.setdefault(spelling, number) != number:
                raise ValueError(
                    f"models.{model}: version '{spelling}' is {numbers[spelling]} on one target and {number} on "
                    f"'{target.endpoint}'; expected one number"
                )


def _check_variants(name: str, model: ModelSettings) -> None:
    """Raises ValueError where nothing answers a request without a name, or a variant is both served and unavailable."""
    if all(target.by_name for target in model.targets):
        raise ValueError(
            f"models.{name}: every target is by_name, so that a request which names none has no answer; leave by_name "
            "out on the target that is to answer it"
        )
    for target in model.targets:
        if target.variant in model.unavailable:
            raise ValueError(
                f"models.{name}: variant '{target.variant}' is unavailable and served by target '{target.endpoint}'; "
                "leave one of them out"
            )


def _anchor_paths(document: Mapping[str, Any], folder: Path) -> None:
    """Makes the relative paths in `document` start at `folder`."""
    for section, field in (("models", "contract"), ("endpoints", "token_file")):
        entries = document.get(section)
        for entry in entries.values() if isinstance(entries, dict) else ():
            if isinstance(entry, dict) and isinstance(entry.get(field), str):
                entry[field] = str(folder / entry[field])
