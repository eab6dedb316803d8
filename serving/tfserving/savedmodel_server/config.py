"""Which models to serve: from the flags, or from a ModelServerConfig in protobuf's text format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from google.protobuf import text_format
from tensorflow_serving.config import file_system_storage_path_source_pb2, model_server_config_pb2

ServableVersionPolicy: TypeAlias = (
    file_system_storage_path_source_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy
)
PLATFORM = "tensorflow"


class ConfigError(Exception):
    """The configuration cannot be served; the text names the setting."""


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which of the versions on disk to serve: the `latest` newest, or those in `specific`, or all."""

    latest: int | None = 1
    specific: frozenset[int] | None = None

    def aspired(self, found: frozenset[int]) -> frozenset[int]:
        """The versions to serve, of those that were found."""
        if self.specific is not None:
            return found & self.specific
        return found if self.latest is None else frozenset(sorted(found, reverse=True)[: self.latest])


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model: its name, its folder of numbered versions, and the labels of some of them."""

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)


def single(name: str, base_path: str) -> tuple[ModelConfig, ...]:
    """The configuration that `--model_name` and `--model_base_path` mean; raises ConfigError."""
    return (ModelConfig(name, _absolute(name, base_path)),)


def from_file(path: Path) -> tuple[ModelConfig, ...]:
    """The models of `--model_config_file`; raises ConfigError naming what cannot be served."""
    try:
        text = path.read_text()
    except OSError as exc:
        raise ConfigError(f"--model_config_file: {exc}") from exc
    return from_text(text)


def from_text(text: str) -> tuple[ModelConfig, ...]:
    """The models of a ModelServerConfig in text format; raises ConfigError naming what cannot be served."""
    message = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as exc:
        raise ConfigError(f"Invalid protobuf file: {exc}") from exc
    if not message.HasField("model_config_list"):
        raise ConfigError("ModelServerConfig: expected a model_config_list")
    models: dict[str, ModelConfig] = {}
    for entry in message.model_config_list.config:
        if entry.name in models:
            raise ConfigError(f"Illegal to list model {entry.name} multiple times in config list")
        models[entry.name] = _model(entry)
    return tuple(models.values())


def _model(entry: model_server_config_pb2.ModelConfig) -> ModelConfig:
    if not entry.name:
        raise ConfigError("a model of the config list has no name")
    if entry.model_platform != PLATFORM:
        raise ConfigError(f"model {entry.name}: model_platform is '{entry.model_platform}'; expected '{PLATFORM}'")
    if entry.HasField("logging_config"):
        raise ConfigError(f"model {entry.name}: logging_config is not supported by the stand-in")
    return ModelConfig(
        entry.name,
        _absolute(entry.name, entry.base_path),
        _policy(entry.name, entry.model_version_policy),
        dict(entry.version_labels),
    )


def _policy(name: str, policy: ServableVersionPolicy) -> VersionPolicy:
    match policy.WhichOneof("policy_choice"):
        case None:
            return VersionPolicy()
        case "latest":
            # Not stated is 0 on the wire, and means 1 (file_system_storage_path_source.cc).
            return VersionPolicy(latest=policy.latest.num_versions or 1)
        case "all":
            return VersionPolicy(latest=None)
        case "specific":
            versions = frozenset(policy.specific.versions)
            if not versions:
                raise ConfigError(f"model {name}: a specific model_version_policy names no version")
            return VersionPolicy(latest=None, specific=versions)
        case other:
            raise ConfigError(f"model {name}: model_version_policy '{other}' is not supported by the stand-in")


def _absolute(name: str, base_path: str) -> Path:
    path = Path(base_path)
    if not path.is_absolute():
        raise ConfigError(f"Expected model {name} to have an absolute path or URI; got base_path()={base_path}")
    return path
