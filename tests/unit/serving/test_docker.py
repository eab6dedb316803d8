"""The launcher with Docker: what it makes of compose's file and the SDK's answers. The engine: `make test-docker`."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from serving.docker import OPTIONAL, ContainerStats, _as_environment, _state, _stats
from serving.settings import LaunchSettings, Ports

ROOT = Path(__file__).resolve().parents[3]


def container(status: str, code: int = 0, **more: Any) -> Any:
    return SimpleNamespace(
        labels={"com.docker.compose.service": "torchserve"},
        attrs={"State": {"Status": status, "ExitCode": code, **more}, "Config": {"Image": "twinserve/torchserve"}},
        stats=lambda stream: {
            "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000}},
            "memory_stats": {"usage": 300, "stats": {"inactive_file": 100}},
        },
    )


@pytest.mark.parametrize(
    ("given", "state", "health"),
    [
        (container("running", Health={"Status": "starting"}), "running", "starting"),
        (container("running"), "running", "none"),
        (container("exited", 0), "done", "none"),
        (container("exited", 137), "failed", "none"),
    ],
)
def test_a_container_that_ended_well_has_done_its_work(given: Any, state: str, health: str) -> None:
    """A one-shot service may end, any other may not."""
    found = _state(given)
    assert (found.state, found.health) == (state, health)


def test_memory_is_told_without_the_page_cache_and_processor_time_in_seconds() -> None:
    """As `docker stats` counts."""
    assert _stats(container("running")) == ContainerStats(
        "torchserve", "running", "none", "twinserve/torchserve", 2.5, 200
    )


def test_built_models_are_mounted_and_a_volume_is_used_where_there_are_none(tmp_path: Path) -> None:
    """What the environment says goes before both."""
    settings, ports = LaunchSettings(artifacts=tmp_path), Ports()
    assert "MODELS" not in _as_environment(settings, ports, {})
    (tmp_path / "models").mkdir()
    assert _as_environment(settings, ports, {})["MODELS"] == str(tmp_path / "models")
    assert "MODELS" not in _as_environment(settings, ports, {"MODELS": "elsewhere"})


def test_every_service_is_bounded_hardened_and_its_logs_rotate() -> None:
    """What the engine is asked for; what it does is tested where there is one."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    assert set(services) >= OPTIONAL
    for name, service in services.items():
        if name == "savedmodel-server":
            continue  # only built
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"mem_limit", "cpus", "pids_limit", "logging"} <= set(service), name
        assert all("${BIND_ADDRESS:-127.0.0.1}" in port for port in service.get("ports", [])), name
        assert not any("docker.sock" in volume for volume in service.get("volumes", [])), name


def test_what_serves_says_whether_it_is_healthy_without_curl() -> None:
    """The public images have none."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    for name in ("gateway", "torchserve", "tfserving", "prometheus", "grafana"):
        assert services[name]["healthcheck"]["test"][0] == "CMD", name
        assert "curl" not in services[name]["healthcheck"]["test"], name


def test_a_shell_in_front_of_tensorflow_serving_keeps_no_signal_from_it() -> None:
    """The public image's entrypoint is one: as the first process it would not heed SIGTERM."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    assert services["tfserving"]["init"] is True


def test_the_model_servers_are_on_a_network_without_a_way_out() -> None:
    """And publish nothing."""
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    assert document["networks"]["backends"] == {"internal": True}
    for name in ("torchserve", "tfserving"):
        assert document["services"][name]["networks"] == ["backends"]
        assert "ports" not in document["services"][name]


def test_the_file_for_gpus_only_adds_devices_and_says_that_it_was_not_run() -> None:
    """Its form is what can be tested without one."""
    text = (ROOT / "docker-compose.gpu.yml").read_text("utf-8")
    assert "Not run on a GPU" in text
    services = yaml.safe_load(text)["services"]
    for name in ("torchserve", "tfserving"):
        devices = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    exporter = services["dcgm-exporter"]
    assert exporter["read_only"]
    assert exporter["security_opt"] == ["no-new-privileges:true"]
    assert (exporter["cap_drop"], exporter["cap_add"]) == (["ALL"], ["SYS_ADMIN"])
    assert {"mem_limit", "cpus", "pids_limit", "logging"} <= set(exporter)


def test_prometheus_reads_the_gpus_where_the_file_for_them_is_used() -> None:
    """The target that it mounts is the exporter's name and port."""
    services = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text("utf-8"))["services"]
    (volume,) = services["prometheus"]["volumes"]
    (group,) = yaml.safe_load((ROOT / volume.partition(":")[0] / "gpu.yml").read_text("utf-8"))
    assert [target.partition(":")[0] for target in group["targets"]] == ["dcgm-exporter"]
    assert "dcgm-exporter" in services


def test_whatever_compose_reads_from_the_environment_is_explained() -> None:
    """In .env.example."""
    text = "".join((ROOT / name).read_text("utf-8") for name in ("docker-compose.yml", "docker-compose.gpu.yml"))
    explained = {line.partition("=")[0] for line in (ROOT / ".env.example").read_text("utf-8").splitlines()}
    assert set(re.findall(r"\$\{([A-Z_]+)", text)) <= explained
