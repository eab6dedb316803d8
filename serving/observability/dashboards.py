"""Grafana's dashboards as code: `python -m serving.observability.dashboards` writes them to `grafana/dashboards`.

The written files are checked in, so that Grafana needs no Python; a test tells where they differ from what this module
gives.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, stat, table, timeseries
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).parent / "grafana" / "dashboards"
_SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
# What counts against the objectives, as in rules/recording.yml.
FAILURES = (
    "overloaded",
    "not_ready",
    "upstream_unreachable",
    "upstream_lost",
    "upstream_bad_reply",
    "upstream_failed",
    "deadline",
    "internal",
)
_FAILED = f'outcome=~"{"|".join(FAILURES)}"'
# A line named "none" where nothing tells of a GPU: an empty panel could not be told from a broken one.
NO_GPU = '(label_replace(vector(0), "gpu", "none", "", "") unless on() count(DCGM_FI_DEV_GPU_UTIL))'
# Grafana's grid has 24 columns.
_THIRD, _HALF, _WHOLE = 8, 12, 24

Query = tuple[str, str]


def _queries(queries: Iterable[Query]) -> list[Dataquery]:
    letters = "ABCDEFGH"
    return [
        Dataquery().expr(expression).legend_format(legend).ref_id(letter)
        for letter, (expression, legend) in zip(letters, queries, strict=False)
    ]


def _lines(title: str, unit: str, *queries: Query, span: int = _THIRD, description: str = "") -> timeseries.Panel:
    """Lines over time; a legend with the last value and the largest."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .unit(unit)
        .span(span)
        .height(8)
        .min(0)
        .fill_opacity(8)
        .line_width(2)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    for query in _queries(queries):
        panel = panel.with_target(query)
    return panel


def _number(title: str, unit: str, expression: str, *, span: int = 4, description: str = "") -> stat.Panel:
    """One number, the newest."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .unit(unit)
        .span(span)
        .height(5)
        .with_target(Dataquery().expr(expression).legend_format("").ref_id("A").instant())
    )


def _servers() -> table.Panel:
    """Which program really answers at each endpoint. Every dashboard shows it: a stand-in must be seen as one."""
    return (
        table.Panel()
        .title("What answers at each endpoint")
        .description("A server marked as a stand-in is not TensorFlow Serving: nothing here compares the stacks then.")
        .datasource(_SOURCE)
        .span(_WHOLE)
        .height(5)
        .with_target(
            Dataquery()
            .expr("sum by (endpoint, stack, server, stand_in) (gateway_endpoint_info)")
            .format(PromQueryFormat.TABLE)
            .instant()
            .ref_id("A")
        )
    )


def _board(uid: str, title: str, description: str) -> dashboard.Dashboard:
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["twinserve"])
        .timezone("browser")
        .time("now-30m", "now")
        .refresh("10s")
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_panel(_servers())
    )


def _quantiles(
    title: str, metric: str, by: str, legend: str, shares: Iterable[float], unit: str = "s"
) -> list[timeseries.Panel]:
    """One panel for each share of requests; quantiles of a histogram are estimates within its buckets."""
    return [
        _lines(
            f"{title}, p{share * 100:g}",
            unit,
            (f"histogram_quantile({share}, sum by ({by}, le) (rate({metric}_bucket[1m])))", legend),
            description="Estimated within the histogram's buckets; a load test gives exact ones.",
        )
        for share in shares
    ]


def _requests_in_one_call(span: int = _THIRD) -> timeseries.Panel:
    return _lines(
        "Requests in one call",
        "short",
        (
            "sum by (endpoint) (rate(gateway_batch_requests_sum[1m]))"
            " / (sum by (endpoint) (rate(gateway_batch_requests_count[1m])) > 0)",
            "{{endpoint}}",
        ),
        span=span,
    )


def _gpus() -> list[timeseries.Panel]:
    """What NVIDIA's exporter tells of the GPUs, which both servers share; docker-compose.gpu.yml starts it."""
    return [
        _lines(title, unit, (f"{expression} or {NO_GPU}", "{{gpu}}"), description="0 where no GPU is watched.")
        for title, unit, expression in (
            ("GPU, busy", "percentunit", "max by (gpu) (DCGM_FI_DEV_GPU_UTIL) / 100"),
            ("GPU, memory", "bytes", "max by (gpu) (DCGM_FI_DEV_FB_USED) * 1024 * 1024"),
            ("GPU, power", "watt", "max by (gpu) (DCGM_FI_DEV_POWER_USAGE)"),
        )
    ]


def stacks() -> dashboard.Dashboard:
    """*Stacks side by side*: rate, errors, latency, batches and resources of both, and the GPUs."""
    requests, attempts = "gateway_request_duration_seconds", "gateway_attempt_duration_seconds"
    failed = f"rate({requests}_count{{{_FAILED}}}[1m])"
    panels = [
        _lines("Requests", "reqps", ("sum by (stack) (model_stack:gateway_requests:rate1m)", "{{stack}}")),
        _lines(
            "Failed, share of requests",
            "percentunit",
            (
                f"sum by (stack) ({failed} or 0 * rate({requests}_count[1m]))"
                f" / (sum by (stack) (rate({requests}_count[1m])) > 0)",
                "{{stack}}",
            ),
            description="Failed by the gateway or a server; what the client did wrong is not in it.",
        ),
        _lines(
            "Calls to the servers",
            "reqps",
            (f"sum by (stack) (rate({attempts}_count[1m]))", "{{stack}}"),
            description="One call carries a whole batch: fewer calls than requests is what batching gains.",
        ),
        *_quantiles("Requests", requests, "stack", "{{stack}}", (0.5, 0.95, 0.99)),
        *_quantiles("Calls to the servers", attempts, "stack", "{{stack}}", (0.5, 0.95, 0.99)),
        _requests_in_one_call(),
        _lines(
            "Processor, cores",
            "short",
            ("sum by (stack) (rate(server_cpu_seconds_total[1m]))", "{{stack}}"),
            description="Of all processes of the server.",
        ),
        _lines("Memory", "bytes", ("sum by (stack) (server_memory_bytes)", "{{stack}}")),
        *_gpus(),
    ]
    return _with(
        _board("twinserve-stacks", "Stacks side by side", "The same models on both stacks, seen from the gateway."),
        panels,
    )


def gateway() -> dashboard.Dashboard:
    """*Gateway*: its doors, its limits, its breakers and what it did about failures."""
    requests = "gateway_request_duration_seconds"
    panels = [
        _number("Requests", "reqps", f"sum(rate({requests}_count[1m]))"),
        _number(
            "In flight, of the limit",
            "percentunit",
            'sum(gateway_requests_in_flight) / sum(gateway_limit{of="requests"})',
        ),
        _number("In flight, bytes", "bytes", "sum(gateway_requests_in_flight_bytes)"),
        _number("Memory", "bytes", 'sum(server_memory_bytes{stack="gateway"})'),
        _number("Processor, cores", "short", 'sum(rate(server_cpu_seconds_total{stack="gateway"}[1m]))'),
        _number(
            "Last reload",
            "bool_yes_no",
            "min(gateway_config_last_reload_successful)",
            description="Whether the configuration in use is the one last read.",
        ),
        _lines("Requests by door", "reqps", (f"sum by (protocol) (rate({requests}_count[1m]))", "{{protocol}}")),
        _lines("Requests by outcome", "reqps", (f"sum by (outcome) (rate({requests}_count[1m]))", "{{outcome}}")),
        _lines("Requests by model", "reqps", (f"sum by (model) (rate({requests}_count[1m]))", "{{model}}")),
        *_quantiles("Requests", requests, "model", "{{model}}", (0.5, 0.99)),
        *_quantiles("Waited for a slot", "gateway_queue_duration_seconds", "endpoint", "{{endpoint}}", (0.99,)),
        _lines(
            "Slots",
            "short",
            ("sum by (endpoint) (gateway_endpoint_slots_busy)", "{{endpoint}} busy"),
            ("sum by (endpoint) (gateway_endpoint_slots_queued)", "{{endpoint}} queued"),
        ),
        _lines(
            "Circuit breakers",
            "short",
            ("max by (endpoint, model) (gateway_breaker_state)", "{{endpoint}} {{model}}"),
            description="0 closed, 1 half-open, 2 open.",
        ),
        _lines(
            "Event loop's lateness",
            "s",
            ("max(gateway_event_loop_lag_seconds)", "worst of 15 s"),
            description="Every request waits this long.",
        ),
        _lines(
            "Retries",
            "reqps",
            ("sum by (model, outcome) (rate(gateway_retries_total[1m]))", "{{model}} {{outcome}}"),
            description="Second tries that were sent, and those that the budget or a lack of candidates forbade.",
        ),
        _lines(
            "Retry budgets",
            "short",
            ("sum by (model) (gateway_retry_budget)", "{{model}}"),
            description="Retries that may be sent now, of all workers; below 1 none is.",
        ),
        *_quantiles(
            "Reading and writing",
            "gateway_codec_duration_seconds",
            "protocol, phase",
            "{{protocol}} {{phase}}",
            (0.99,),
        ),
        _lines(
            "Calls by outcome",
            "reqps",
            (
                "sum by (endpoint, outcome) (rate(gateway_attempt_duration_seconds_count[1m]))",
                "{{endpoint}} {{outcome}}",
            ),
        ),
    ]
    return _with(_board("twinserve-gateway", "Gateway", "Doors, limits, breakers and retries of the gateway."), panels)


def mirror() -> dashboard.Dashboard:
    """*Mirror and canary*: how a mirror's answers differ, and how much traffic each version gets."""
    panels = [
        _lines(
            "Mirrored requests by outcome",
            "reqps",
            (
                "sum by (endpoint, outcome) (rate(gateway_mirror_duration_seconds_count[1m]))",
                "{{endpoint}} {{outcome}}",
            ),
        ),
        _lines(
            "Mismatches",
            "reqps",
            (
                "sum by (model, endpoint) (rate(gateway_mirror_mismatches_total[1m])"
                " or 0 * rate(gateway_mirror_difference_count[1m]))",
                "{{model}} {{endpoint}}",
            ),
            description="Answers beyond the contract's tolerance.",
        ),
        *_quantiles(
            "Difference", "gateway_mirror_difference", "model, endpoint", "{{model}} {{endpoint}}", (0.99,), "sci"
        ),
        *_quantiles("Mirror's answers", "gateway_mirror_duration_seconds", "endpoint", "{{endpoint}}", (0.5, 0.99)),
        _lines(
            "Traffic by version",
            "reqps",
            (
                "sum by (model, stack, version) (rate(gateway_request_duration_seconds_count[1m]))",
                "{{model}} {{stack}} v{{version}}",
            ),
        ),
    ]
    return _with(
        _board("twinserve-mirror", "Mirror and canary", "What a copy of the traffic says of another endpoint."), panels
    )


def load_test() -> dashboard.Dashboard:
    """*Load test*: what the generator asks beside what the gateway and the servers do."""
    requests = "gateway_request_duration_seconds"
    panels = [
        _lines("Requests", "reqps", (f"sum by (protocol) (rate({requests}_count[15s]))", "{{protocol}}"), span=_HALF),
        _lines(
            "Answered within 250 ms",
            "percentunit",
            (
                f'sum(rate({requests}_bucket{{outcome="ok", le="0.25"}}[15s]))'
                f" / (sum(rate({requests}_count[15s])) > 0)",
                "share",
            ),
            span=_HALF,
            description="The service level objective's share; failures are misses.",
        ),
        *_quantiles("Requests", requests, "stack", "{{stack}}", (0.5, 0.95, 0.99)),
        _lines(
            "Processor, cores",
            "short",
            ("sum by (stack) (rate(server_cpu_seconds_total[1m]))", "{{stack}}"),
            span=_HALF,
        ),
        _requests_in_one_call(_HALF),
    ]
    return _with(_board("twinserve-load", "Load test", "To be watched while a load test runs."), panels)


def _with(board: dashboard.Dashboard, panels: Iterable[timeseries.Panel | stat.Panel]) -> dashboard.Dashboard:
    for panel in panels:
        board = board.with_panel(panel)
    return board


DASHBOARDS = {"stacks": stacks, "gateway": gateway, "mirror": mirror, "load-test": load_test}


def rendered() -> dict[str, str]:
    """Each dashboard's file name and text."""
    return {
        f"{name}.json": json.dumps(build().build(), cls=JSONEncoder, sort_keys=True, indent=1) + "\n"
        for name, build in DASHBOARDS.items()
    }


def queries(text: str) -> list[tuple[str, str]]:
    """Panel title and expression of every query in a dashboard's text."""
    document: dict[str, Any] = json.loads(text)
    return [
        (panel["title"], target["expr"]) for panel in document.get("panels", []) for target in panel.get("targets", [])
    ]


def main() -> None:
    """Writes every dashboard."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
