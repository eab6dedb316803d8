"""Prometheus' rules and Grafana's dashboards: valid, up to date, and about series that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from gateway.core.errors import Cause
from gateway.telemetry.histogram import Registry
from gateway.telemetry.metrics import PrometheusObserver, WorkerMetrics
from serving.observability import dashboards
from serving.observability.process_exporter import ServerProcesses

FOLDER = Path(dashboards.__file__).parent
RUNBOOK = Path(__file__).parents[4] / "docs" / "runbook.md"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian's package prometheus)")
_SERIES = re.compile(r"\b((?:gateway|server)_[a-z_]+)")


def promtool(*arguments: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    """As Prometheus itself would read them."""
    promtool("check", "config", "prometheus.yml")


@needs_promtool
def test_the_rules_do_what_their_own_tests_say() -> None:
    """Series in, alerts out, on Prometheus' own clock."""
    promtool("test", "rules", "rules/tests.yml")


def test_the_dashboards_checked_in_are_what_the_code_gives() -> None:
    """Nobody has edited the one without the other."""
    assert {path.name: path.read_text("utf-8") for path in dashboards.FOLDER.glob("*.json")} == dashboards.rendered()


@pytest.mark.parametrize("name", sorted(dashboards.rendered()))
def test_every_dashboard_shows_which_server_answers(name: str) -> None:
    """A stand-in is seen as one wherever figures are."""
    assert any("gateway_endpoint_info" in query for _, query in dashboards.queries(dashboards.rendered()[name]))


@needs_promtool
@pytest.mark.parametrize(
    ("series", "samples"),
    [
        (["up 1"], [{"labels": '{gpu="none"}', "value": 0}]),
        (
            ['DCGM_FI_DEV_GPU_UTIL{gpu="0",Hostname="a"} 55', 'DCGM_FI_DEV_GPU_UTIL{gpu="1",Hostname="a"} 5'],
            [{"labels": '{gpu="0"}', "value": 0.55}, {"labels": '{gpu="1"}', "value": 0.05}],
        ),
    ],
)
def test_a_gpu_is_shown_where_there_is_one_and_none_as_none(
    tmp_path: Path, series: list[str], samples: list[dict[str, object]]
) -> None:
    """By what NVIDIA's exporter tells."""
    asked = dict(dashboards.queries(dashboards.rendered()["stacks.json"]))
    given = [dict(zip(("series", "values"), one.rsplit(" ", 1), strict=True)) for one in series]
    case = {
        "input_series": given,
        "promql_expr_test": [{"expr": asked["GPU, busy"], "eval_time": "0m", "exp_samples": samples}],
    }
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"tests": [case]}), "utf-8")
    promtool("test", "rules", str(file))


def known_series() -> set[str]:
    registry = Registry()
    PrometheusObserver(registry)
    WorkerMetrics(registry)
    families = [*registry.collect(), *ServerProcesses(list).collect()]
    names = {family.name for family in families}
    return names | {f"{name}{suffix}" for name in names for suffix in ("_bucket", "_count", "_sum", "_total")}


def rules() -> list[dict[str, str]]:
    files = [yaml.safe_load((FOLDER / "rules" / name).read_text("utf-8")) for name in ("recording.yml", "alerts.yml")]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def test_rules_and_dashboards_ask_only_for_series_that_exist() -> None:
    """A renamed metric is noticed here, not on call."""
    asked = [rule["expr"] for rule in rules()]
    asked += [query for text in dashboards.rendered().values() for _, query in dashboards.queries(text)]
    # Recorded series have colons, which the pattern ends at: they are left out by what stands in front.
    names = {name for query in asked for name in _SERIES.findall(re.sub(r"\b\w+:\w+:\w+", "", query))}
    assert names - known_series() == set()


def test_failures_are_the_causes_that_are_not_the_clients() -> None:
    """Every cause is on one side or the other."""
    clients = {
        "unparseable", "invalid_input", "unsupported_datatype", "unauthenticated", "forbidden", "route_not_found",
        "method_not_allowed", "model_not_found", "version_not_found", "label_not_found", "signature_not_found",
        "media_type", "client_too_slow", "too_large", "rate_limited", "upstream_rejected", "client_gone",
    }  # fmt: skip
    assert set(dashboards.FAILURES) | clients == {cause.value for cause in Cause}
    text = (FOLDER / "rules" / "recording.yml").read_text("utf-8")
    assert set(re.findall(r'outcome=~"([^"]+)"', text)) == {"|".join(dashboards.FAILURES)}


def test_every_alert_is_raised_in_a_test_of_the_rules() -> None:
    """By promtool, with what it says."""
    cases = yaml.safe_load((FOLDER / "rules" / "tests.yml").read_text("utf-8"))["tests"]
    raised = {test["alertname"] for case in cases for test in case.get("alert_rule_test", ()) if test["exp_alerts"]}
    assert {rule["alert"] for rule in rules() if "alert" in rule} == raised


def test_every_alert_has_a_section_in_the_runbook() -> None:
    """Whoever is woken finds what to do."""
    headings = {
        line.lstrip("# ").strip().lower() for line in RUNBOOK.read_text("utf-8").splitlines() if line[:1] == "#"
    }
    alerts = [rule for rule in rules() if "alert" in rule]
    assert alerts
    missing = [rule["alert"] for rule in alerts if rule["annotations"]["runbook"].partition("#")[2] not in headings]  # type: ignore[index, attr-defined]
    assert missing == []
