"""Which models to serve: from the flags, from a ModelServerConfig in protobuf's text format, or from a reload's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from google.protobuf import text_format
from grpc import StatusCode
from tensorflow_serving.config import file_system_storage_path_source_pb2, model_server_config_pb2

from serving.tfserving.savedmodel_server.errors import ServingError, invalid

ServableVersionPolicy: TypeAlias = (
    file_system_storage_path_source_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy
)
PLATFORM = "tensorflow"
_SCHEME = "://"


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
    platform: str = PLATFORM


def single(name: str, base_path: str) -> tuple[ModelConfig, ...]:
    """The configuration that `--model_name` and `--model_base_path` mean; raises INVALID_ARGUMENT."""
    return (ModelConfig(name, _absolute(name, base_path)),)


def from_file(path: Path) -> tuple[ModelConfig, ...] | None:
    """The models of `--model_config_file`; None where it is empty and says nothing.

    Raises ServingError naming what cannot be served: NOT_FOUND where there is no such file, else INVALID_ARGUMENT.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise ServingError(StatusCode.NOT_FOUND, f"--model_config_file: {exc}") from exc
    message = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as exc:
        raise invalid(f"Invalid protobuf file: '{path}': {exc}") from exc
    return from_message(message)


def from_message(message: model_server_config_pb2.ModelServerConfig) -> tuple[ModelConfig, ...] | None:
    """The models of a configuration, in its order; None where it says nothing, so that nothing is to be done.

    Raises ServingError with TensorFlow Serving's code and text: INVALID_ARGUMENT for a model listed twice, a relative
    base path or no platform, FAILED_PRECONDITION for what is no list of models.
    """
    match message.WhichOneof("config"):
        case None:
            return None
        case "model_config_list":
            models: dict[str, ModelConfig] = {}
            for entry in message.model_config_list.config:
                if entry.name in models:
                    raise invalid(f"Illegal to list model {entry.name} multiple times in config list")
                models[entry.name] = _model(entry)
            return tuple(models.values())
        case _:
            raise ServingError(
                StatusCode.FAILED_PRECONDITION,
                "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to "
                "another.",
            )


def check_platforms(before: Sequence[ModelConfig], after: Sequence[ModelConfig]) -> None:
    """Raises INVALID_ARGUMENT where a model changes its platform, or has one that is not served."""
    platforms = {model.name: model.platform for model in before}
    for model in after:
        old = platforms.get(model.name, model.platform)
        if model.platform != old:
            raise invalid(
                f"Illegal to change a model's platform. For model {model.name} platform was {old} and new platform "
                f"requested is {model.platform}"
            )
    for model in after:
        if model.platform != PLATFORM:
            raise invalid(f"Model {model.name} requests unsupported platform {model.platform}")


def _model(entry: model_server_config_pb2.ModelConfig) -> ModelConfig:
    if not entry.name:
        raise invalid("a model of the config list has no name")
    base_path = _absolute(entry.name, entry.base_path)
    platform = _platform(entry)
    if entry.HasField("logging_config"):
        raise invalid(f"model {entry.name}: logging_config is not supported by the stand-in; leave it out")
    policy = _policy(entry.name, entry.model_version_policy)
    return ModelConfig(entry.name, base_path, policy, dict(entry.version_labels), platform)


def _platform(entry: model_server_config_pb2.ModelConfig) -> str:
    """`model_platform`, or what the deprecated `model_type` means (GetPlatform of server_core.cc)."""
    kind = entry.model_type
    if kind and entry.model_platform:
        raise invalid(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
        )
    if kind:
        if kind != model_server_config_pb2.TENSORFLOW:
            raise invalid(f"ModelServerConfig::model_type choice {kind} not supported.")
        return PLATFORM
    if not entry.model_platform:
        raise invalid(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
        )
    return entry.model_platform


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
                raise invalid(f"model {name}: a specific model_version_policy names no version")
            return VersionPolicy(latest=None, specific=versions)
        case other:
            raise invalid(f"model {name}: model_version_policy '{other}' is not supported by the stand-in")


def _absolute(name: str, base_path: str) -> Path:
    path = Path(base_path)
    if _SCHEME in base_path:
        # TensorFlow Serving reads such paths through TensorFlow's file systems.
        raise invalid(f"model {name}: the stand-in serves local folders only; got base_path()={base_path}")
    if not path.is_absolute():
        raise invalid(f"Expected model {name} to have an absolute path or URI; got base_path()={base_path}")
    return path
