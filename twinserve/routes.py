"""`twinserve routes`: where a running gateway sends requests, and why, as its operator's port tells it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(name="routes", help="Show where a running gateway sends requests, and why.", no_args_is_help=True)

TIMEOUT_S = 10.0

Admin = Annotated[
    str | None,
    typer.Option(help="The gateway's operator's port, a URL. Default: that of the gateway that `twinserve up` runs."),
]
Artifacts = Annotated[Path, typer.Option(envvar="TWINSERVE_ARTIFACTS", help="Where the record of `twinserve up` is.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as it came, as JSON.")]


class RoutesError(Exception):
    """Raised where the gateway did not answer, or refused; the text is for people."""


@app.command("list")
def list_routes(admin: Admin = None, artifacts: Artifacts = Path("artifacts"), as_json: AsJson = False) -> None:
    """List every model: its policy, its targets, and how each of them is."""
    told = _told(admin or _running_admin(artifacts), "/routes")
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    typer.echo(f"gateway at {told['doors']['rest']} and grpc://{told['doors']['grpc']}")
    table = Table("Model", "Policy", "Target", "Weight", "State", "Breaker", "Busy / queued")
    for model, route in told["routes"].items():
        for number, target in enumerate(route["targets"]):
            head = (model, route["policy"]) if number == 0 else ("", "")
            table.add_row(*map(escape, head), *_cells(target))
        if route["mirror"]:
            mirror = route["mirror"]
            share = f"{mirror['share'] * 100:g} % mirrored"
            table.add_row("", "", *_cells(mirror)[:1], share, *_cells(mirror)[2:])
    Console().print(table)
    for model, reason in told["unrouted"].items():
        typer.echo(f"{model}: cannot be answered: {reason}")
    for model, reason in told["left_out"].items():
        typer.echo(f"{model}: {reason}")


@app.command()
def explain(
    model: Annotated[str, typer.Argument(help="The model that a request would be for.")],
    stack: Annotated[str | None, typer.Option(help="The stack that it would name: torchserve, tfserving, oip.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="The endpoint that it would name.")] = None,
    variant: Annotated[str | None, typer.Option(help="The variant that it would name.")] = None,
    version: Annotated[int | None, typer.Option(help="The version that it would name.")] = None,
    label: Annotated[str | None, typer.Option(help="The version label that it would name.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="A header of it, as name=value, for policy sticky; may be given again.")
    ] = None,
    admin: Admin = None,
    artifacts: Artifacts = Path("artifacts"),
    as_json: AsJson = False,
) -> None:
    """Say where a request would go now, and why; nothing is sent to a model server."""
    asked = {
        "model": model,
        "stack": stack,
        "endpoint": endpoint,
        "variant": variant,
        "version": version,
        "label": label,
    }
    query = [(name, str(value)) for name, value in asked.items() if value is not None]
    query += [("header", item) for item in header or ()]
    told = _told(admin or _running_admin(artifacts), f"/routes/explain?{urlencode(query)}")
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    version_text = "" if told["version"] is None else f", version {told['version']}"
    typer.echo(f"{told['model']}{version_text}: policy {told['policy']}: {told['rule']}")
    table = Table("Order", "Target", "Weight", "State", "Breaker", "Busy / queued", "Why")
    for number, target in enumerate(told["order"], start=1):
        table.add_row(str(number), *_cells(target), escape(target["standing"]))
    Console().print(table)


def _cells(target: dict[str, Any]) -> tuple[str, ...]:
    """Where, weight, state, breaker and slots of a target, for a table."""
    version = "" if target["version"] is None else f" version {target['version']}"
    if target["label"] is not None:
        version += f" '{target['label']}'"
    if target["by_name"]:
        version += f" variant {target['variant']}" if target["variant"] else " by name"
    server = f" ({target['server']})" if target["server"] else ""
    slots = target["slots"]
    cells = (
        f"{target['endpoint']}{version}{server}",
        f"{target['weight']:g}",
        target["status"],
        target["breaker"],
        f"{slots['busy']}/{slots['all']} / {slots['queued']}",
    )
    return tuple(map(escape, cells))


def _told(base_url: str, path: str) -> Any:  # noqa: ANN401 - JSON
    """What the operator's port answers; a failure is told in words, with status 1."""
    try:
        return _asked(base_url, path)
    except RoutesError as exc:
        typer.echo(f"twinserve routes: {exc}", err=True)
        raise typer.Exit(1) from exc


def _asked(base_url: str, path: str) -> Any:  # noqa: ANN401 - JSON
    if not base_url.startswith(("http://", "https://")):
        raise RoutesError(f"'{base_url}' is no URL of a gateway's operator's port; expected http://HOST:PORT")
    try:
        with urllib.request.urlopen(f"{base_url.rstrip('/')}{path}", timeout=TIMEOUT_S) as reply:  # noqa: S310 - above
            return json.loads(reply.read())
    except urllib.error.HTTPError as exc:
        raise RoutesError(_detail(exc, base_url)) from exc
    except (OSError, ValueError) as exc:
        raise RoutesError(
            f"no operator's port of a gateway answers at {base_url} ({exc}). Does the gateway run, and is its "
            "server.admin_port on? `twinserve up` starts one; --admin URL names another, as its log says at the start"
        ) from exc


def _detail(error: urllib.error.HTTPError, base_url: str) -> str:
    with error:
        try:
            return str(json.loads(error.read())["detail"])
        except (ValueError, KeyError, TypeError, OSError):
            return f"{base_url} answers with status {error.code}; is it a gateway's operator's port?"


def _running_admin(artifacts: Path) -> str:
    """The operator's port of the gateway of `twinserve up`; where none is recorded, the usual one."""
    from serving.settings import LaunchSettings, Ports
    from serving.state import RunState

    state = RunState.load(LaunchSettings(artifacts=artifacts).run_dir)
    if state is not None and state.runs() and state.gateway_admin:
        return state.gateway_admin
    return f"http://127.0.0.1:{Ports().gateway_admin_port}"
