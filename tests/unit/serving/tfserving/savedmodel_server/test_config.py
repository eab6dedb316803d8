"""ModelServerConfig: what is served of it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.tfserving import savedmodel_server
from serving.tfserving.savedmodel_server.config import (
    ModelConfig,
    VersionPolicy,
    check_platforms,
    from_file,
    from_message,
    single,
)
from serving.tfserving.savedmodel_server.errors import ServingError

EXAMPLE = Path(savedmodel_server.__file__).parents[1] / "models.config"


def listed(inner: str) -> str:
    """A configuration of one model with more settings."""
    return f'model_config_list {{ config {{ name: "m" base_path: "/m" model_platform: "tensorflow" {inner} }} }}'


def from_text(text: str) -> tuple[ModelConfig, ...] | None:
    """The models of a configuration in text format."""
    return from_message(text_format.Parse(text, model_server_config_pb2.ModelServerConfig()))


def test_the_example_is_read() -> None:
    """The file beside the server names both models of the project."""
    assert {model.name: str(model.base_path) for model in from_file(EXAMPLE) or ()} == {
        "simplenn": "/models/simplenn/savedmodel",
        "digits": "/models/digits/savedmodel",
    }


def test_policies_and_labels() -> None:
    """Latest 1 by default; all, several latest, or specific ones; labels by name."""
    found = frozenset({1, 2, 3})
    for inner, aspired in {
        "": {3},
        "model_version_policy { latest { num_versions: 2 } }": {2, 3},
        "model_version_policy { latest {} }": {3},
        "model_version_policy { all {} }": {1, 2, 3},
        "model_version_policy { specific { versions: 1 versions: 9 } }": {1},
    }.items():
        (model,) = from_text(listed(inner)) or ()
        assert model.policy.aspired(found) == aspired
    (model,) = from_text(listed('version_labels { key: "stable" value: 1 }')) or ()
    assert model == ModelConfig("m", Path("/m"), VersionPolicy(), {"stable": 1})


def test_one_model_by_flags() -> None:
    """Its policy is the default one."""
    assert single("m", "/m") == (ModelConfig("m", Path("/m")),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            listed('} config { name: "m" base_path: "/n" model_platform: "tensorflow"'),
            "INVALID_ARGUMENT: Illegal to list model m multiple times in config list",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" } }',
            "INVALID_ARGUMENT: Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform.",
        ),
        (listed("model_type: TENSORFLOW"), "INVALID_ARGUMENT: Illegal setting both ModelServerConfig::model_type"),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_type: OTHER } }',
            "INVALID_ARGUMENT: ModelServerConfig::model_type choice 2 not supported.",
        ),
        ('model_config_list { config { base_path: "/m" model_platform: "tensorflow" } }', "has no name"),
        (
            'model_config_list { config { name: "m" base_path: "m" model_platform: "tensorflow" } }',
            "INVALID_ARGUMENT: Expected model m to have an absolute path or URI; got base_path()=m",
        ),
        (
            'model_config_list { config { name: "m" base_path: "s3://b/m" model_platform: "tensorflow" } }',
            "the stand-in serves local folders only; got base_path()=s3://b/m",
        ),
        (listed("logging_config {}"), "logging_config is not supported"),
        (listed("model_version_policy { specific {} }"), "names no version"),
        ("custom_model_config {}", "FAILED_PRECONDITION: Cannot transition to requested config."),
    ],
)
def test_what_cannot_be_served_is_named(text: str, reason: str) -> None:
    """TensorFlow Serving's codes and texts; what the stand-in lacks is named with the model."""
    with pytest.raises(ServingError) as caught:
        from_text(text)
    assert reason in str(caught.value)


def test_nothing_is_no_list() -> None:
    """An empty configuration changes nothing; an empty list serves nothing."""
    assert from_text("") is None
    assert from_text("model_config_list {}") == ()


def test_the_deprecated_type_is_a_platform() -> None:
    """Old configurations name the type by number."""
    (model,) = from_text('model_config_list { config { name: "m" base_path: "/m" model_type: TENSORFLOW } }') or ()
    assert model == ModelConfig("m", Path("/m"))


def test_a_platform_stays_and_is_one_that_is_served() -> None:
    """A change is told before a platform that is unknown."""
    one, other = ModelConfig("m", Path("/m")), ModelConfig("m", Path("/m"), platform="other")
    check_platforms([one], [one])
    with pytest.raises(ServingError) as caught:
        check_platforms([one], [other])
    assert caught.value.message == (
        "Illegal to change a model's platform. For model m platform was tensorflow and new platform requested is other"
    )
    with pytest.raises(ServingError, match="INVALID_ARGUMENT: Model m requests unsupported platform other"):
        check_platforms([], [other])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """So is the flag, and the place of a mistake; an empty file is no models."""
    with pytest.raises(ServingError, match=r"--model_config_file: .*nothing\.config"):
        from_file(tmp_path / "nothing.config")
    file = tmp_path / "models.config"
    file.write_text("nonsense: 1")
    with pytest.raises(ServingError, match=r"INVALID_ARGUMENT: Invalid protobuf file: '.*models\.config'"):
        from_file(file)
    file.write_text("")
    assert from_file(file) is None
