"""The files that say where the Prometheus page is and what secures gRPC."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.tfserving.savedmodel_server.door_files import credentials, monitoring_path
from serving.tfserving.savedmodel_server.errors import ServingError


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('prometheus_config { enable: true, path: "/here" }', "/here"),
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
        ('prometheus_config { path: "/here" }', None),
        ("", None),
    ],
)
def test_the_page_is_where_the_file_says(tmp_path: Path, text: str, path: str | None) -> None:
    """Only where it is enabled."""
    file = tmp_path / "monitoring.config"
    file.write_text(text)
    assert monitoring_path(str(file)) == path


def test_without_a_file_there_is_neither() -> None:
    """No page, no TLS."""
    assert monitoring_path("") is None
    assert credentials("") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "needs the PEM texts server_key and server_cert"),
        ('server_key: "k" server_cert: "c" client_verify: true', "with client_verify needs the PEM text custom_ca"),
        ("key: 1", "Invalid protobuf file: "),
    ],
)
def test_tls_without_its_texts_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    """By what is missing."""
    file = tmp_path / "ssl.config"
    file.write_text(text)
    with pytest.raises(ServingError, match=reason):
        credentials(str(file))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Is named."""
    with pytest.raises(ServingError, match=r"NOT_FOUND: .*/none"):
        monitoring_path(str(tmp_path / "none"))
