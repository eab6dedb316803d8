"""ModelServerConfig: what is served of it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.tfserving import savedmodel_server
from serving.tfserving.savedmodel_server.config import (
    ConfigError,
    ModelConfig,
    VersionPolicy,
    from_file,
    from_text,
    single,
)

EXAMPLE = Path(savedmodel_server.__file__).parents[1] / "models.config"


def listed(inner: str) -> str:
    """A configuration of one model with more settings."""
    return f'model_config_list {{ config {{ name: "m" base_path: "/m" model_platform: "tensorflow" {inner} }} }}'


def test_the_example_is_read() -> None:
    """The file beside the server names both models of the project."""
    assert {model.name: str(model.base_path) for model in from_file(EXAMPLE)} == {
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
        (model,) = from_text(listed(inner))
        assert model.policy.aspired(found) == aspired
    (model,) = from_text(listed('version_labels { key: "stable" value: 1 }'))
    assert model == ModelConfig("m", Path("/m"), VersionPolicy(), {"stable": 1})


def test_one_model_by_flags() -> None:
    """Its policy is the default one."""
    assert single("m", "/m") == (ModelConfig("m", Path("/m")),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense: 1", "Invalid protobuf file"),
        ("", "expected a model_config_list"),
        (listed('} config { name: "m" base_path: "/n" model_platform: "tensorflow"'), "model m multiple times"),
        ('model_config_list { config { name: "m" base_path: "/m" } }', "model_platform is ''"),
        ('model_config_list { config { base_path: "/m" model_platform: "tensorflow" } }', "has no name"),
        (
            'model_config_list { config { name: "m" base_path: "m" model_platform: "tensorflow" } }',
            "absolute path or URI; got base_path\\(\\)=m",
        ),
        (listed("logging_config {}"), "logging_config is not supported"),
        (listed("model_version_policy { specific {} }"), "names no version"),
    ],
)
def test_what_cannot_be_served_is_named(text: str, reason: str) -> None:
    """ConfigError tells the model and the setting."""
    with pytest.raises(ConfigError, match=reason):
        from_text(text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """So is the flag."""
    with pytest.raises(ConfigError, match=r"--model_config_file: .*nothing\.config"):
        from_file(tmp_path / "nothing.config")
