"""The commands that run the servers: up, down, status, logs, doctor. `register` adds them to an application."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from serving.docker import DockerStack
    from serving.settings import LaunchSettings, Ports
    from serving.state import RunState

ArtifactsOption = Annotated[
    Path | None,
    typer.Option("--artifacts", help="Where models and logs are kept. Default: TWINSERVE_ARTIFACTS, else ./artifacts."),
]
RuntimeOption = Annotated[
    Literal["local", "docker"],
    typer.Option(help="local: processes of this machine; docker: the containers of docker-compose.yml."),
]
ModelsOption = Annotated[
    str | None,
    typer.Option(help="Which models to serve, such as digits,minilm. Default: TWINSERVE_MODELS, else all built ones."),
]
VariantsOption = Annotated[
    str | None,
    typer.Option(
        help="Which variants beside the default ones: all, or a list such as onnx,xla; `twinserve models list` shows "
        "them. Default: TWINSERVE_VARIANTS, else none."
    ),
]
PORTS_PANEL = "Ports (each also TWINSERVE_<NAME> in the environment)"


def _port(use: str, usual: int) -> Any:  # noqa: ANN401 - typer's own type
    return typer.Option(help=f"{use}. Default: {usual}.", min=1, max=65535, metavar="PORT", rich_help_panel=PORTS_PANEL)


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to `app`."""
    for command in (up, down, status, logs, doctor):
        app.command()(command)


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when all is ready; go on running.")] = False,
    runtime: RuntimeOption = "local",
    artifacts: ArtifactsOption = None,
    models: ModelsOption = None,
    variants: VariantsOption = None,
    brief: Annotated[bool, typer.Option("--brief", hidden=True, help="No summary when all is ready.")] = False,
    gateway_rest_port: Annotated[int | None, _port("The gateway over REST", 8000)] = None,
    gateway_grpc_port: Annotated[int | None, _port("The gateway over gRPC", 8001)] = None,
    gateway_admin_port: Annotated[int | None, _port("The gateway's operator's port", 8009)] = None,
    torchserve_rest_port: Annotated[int | None, _port("TorchServe over REST", 8080)] = None,
    torchserve_management_port: Annotated[int | None, _port("TorchServe's management", 8081)] = None,
    torchserve_metrics_port: Annotated[int | None, _port("TorchServe's metrics", 8082)] = None,
    torchserve_grpc_port: Annotated[int | None, _port("TorchServe over gRPC", 7070)] = None,
    torchserve_grpc_management_port: Annotated[int | None, _port("TorchServe's management over gRPC", 7071)] = None,
    tfserving_grpc_port: Annotated[int | None, _port("TF Serving over gRPC", 8500)] = None,
    tfserving_rest_port: Annotated[int | None, _port("TF Serving over REST", 8501)] = None,
    tfserving_nograppler_grpc_port: Annotated[int | None, _port("TF Serving without Grappler, gRPC", 8510)] = None,
    tfserving_nograppler_rest_port: Annotated[int | None, _port("TF Serving without Grappler, REST", 8511)] = None,
) -> None:
    """Start TorchServe, TF Serving (or its stand-in) and the gateway; Ctrl-C ends them all.

    Builds the models first where there are none.
    """
    given = dict(locals())
    from serving.processes import LaunchError
    from serving.run import run_attached, run_detached
    from serving.settings import Ports

    ports = Ports(**{name: given[name] for name in Ports.model_fields if given[name] is not None})
    settings = _settings(artifacts, models=models, variants=variants)
    try:
        if runtime == "docker":
            _up_in_docker(settings, ports, detach)
        elif detach:
            state = run_detached(settings, ports, typer.echo)
            typer.echo(_summary(state))
            typer.echo("`twinserve status` shows them, `twinserve logs` what they say, `twinserve down` stops them.")
        else:

            def ready(state: RunState) -> None:
                typer.echo("Ready." if brief else f"{_summary(state)}\nReady. Ctrl-C ends them all.")

            run_attached(settings, ports, typer.echo, ready)
    except LaunchError as exc:
        typer.echo(f"twinserve up: {exc}", err=True)
        raise typer.Exit(1) from exc
    except KeyboardInterrupt:
        typer.echo("Interrupted; every server was ended.")
        raise typer.Exit(130) from None


def _up_in_docker(settings: LaunchSettings, ports: Ports, detach: bool) -> None:
    from serving.docker import DockerStack
    from serving.processes import LaunchError

    if settings.variants != "default" or settings.models:
        raise LaunchError(
            "the containers serve simplenn and digits in their default variants: leave out --models and --variants "
            "(TWINSERVE_MODELS, TWINSERVE_VARIANTS), or --runtime docker"
        )
    stack = DockerStack(settings, ports, report=typer.echo)
    stack.up()
    typer.echo(
        f"Ready: the gateway is http://127.0.0.1:{ports.gateway_rest_port}, gRPC 127.0.0.1:{ports.gateway_grpc_port}."
    )
    if detach:
        typer.echo(
            "`twinserve status --runtime docker` shows the containers, `twinserve down --runtime docker` stops them."
        )
        return
    typer.echo("Ctrl-C ends them all.")
    try:
        stack.watch()
    finally:
        stack.down()


def down(artifacts: ArtifactsOption = None, runtime: RuntimeOption = "local") -> None:
    """Stop what `up` started, and wait until it has ended."""
    settings = _settings(artifacts)
    if runtime == "docker":
        _docker(settings).down()
        typer.echo("Stopped the containers; volumes stay.")
        return
    from serving.run import stop

    typer.echo(stop(settings) or f"Nothing runs (no run is recorded in {settings.run_dir}).")


def _docker(settings: LaunchSettings) -> DockerStack:
    from serving.docker import DockerStack
    from serving.processes import LaunchError
    from serving.settings import Ports

    try:
        return DockerStack(settings, Ports(), report=typer.echo)
    except LaunchError as exc:
        typer.echo(f"twinserve: {exc}", err=True)
        raise typer.Exit(1) from exc


def _containers(settings: LaunchSettings) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    found = _docker(settings).stats()
    if not found:
        typer.echo("No containers run.")
        raise typer.Exit(3)
    # Only the images wrap: eighty columns are enough.
    whole = [Column(title, no_wrap=True) for title in ("Service", "State", "Health", "CPU s", "MiB")]
    table = Table(*whole, Column("Image", overflow="fold"), box=None, padding=(0, 2, 0, 0))
    for one in found:
        memory = f"{one.memory_bytes / 2**20:.0f}"
        table.add_row(one.service, one.state, one.health, f"{one.cpu_seconds:.1f}", memory, one.image)
    Console().print(table)


def status(artifacts: ArtifactsOption = None, runtime: RuntimeOption = "local") -> None:
    """Show what runs: each server, whether it is ready, its process, its ports and its memory."""
    if runtime == "docker":
        _containers(_settings(artifacts))
        return
    from rich.console import Console
    from rich.table import Column, Table

    from serving.run import is_ready
    from serving.state import RunState

    settings = _settings(artifacts)
    state = RunState.load(settings.run_dir)
    if state is None or not state.runs():
        typer.echo(f"Nothing runs (no run is recorded in {settings.run_dir}).")
        if state is not None and state.status == "failed":
            typer.echo(f"The last run ended with an error:\n{state.message}")
        raise typer.Exit(3)
    # Only the ports wrap: eighty columns are enough.
    whole = [Column(title, no_wrap=True) for title in ("Server", "Program", "Ready", "PID", "Memory")]
    table = Table(*whole, "Ports", box=None, padding=(0, 2, 0, 0))
    for server in state.servers:
        ready = "ended" if not server.process.runs() else "yes" if is_ready(server) else "no"
        memory = f"{server.process.memory() / 2**20:.0f} MiB"
        ports = " ".join(map(str, server.ports))
        table.add_row(server.name, server.description, ready, str(server.process.pid), memory, ports)
    Console().print(table)
    typer.echo(f"Launcher: process {state.launcher.pid}, {state.status}. Logs: {settings.run_dir / 'logs'}")


def logs(
    server: Annotated[
        str | None, typer.Argument(help="torchserve, tfserving, gateway or launcher; without it all of them.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines of each to begin with.")] = 50,
    artifacts: ArtifactsOption = None,
) -> None:
    """Show the end of the servers' logs."""
    from serving.run import follow_logs

    folder = _settings(artifacts).run_dir / "logs"
    known = sorted(folder.glob("*.log"))
    chosen = [path for path in known if server in (None, path.stem)]
    if not chosen:
        names = ", ".join(path.stem for path in known) or "none"
        typer.echo(f"twinserve logs: no log of '{server or 'any server'}' in {folder}; there are: {names}", err=True)
        raise typer.Exit(1)
    try:
        for line in follow_logs(chosen, lines, follow=follow):
            typer.echo(line)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def doctor(artifacts: ArtifactsOption = None) -> None:
    """Show what is here, what is missing, and which servers would be real."""
    from rich.console import Console
    from rich.table import Table

    from serving.doctor import examine
    from serving.settings import Ports

    table = Table("", "What", "Found", show_lines=False)
    marks = {"ok": "[green]✓[/green]", "missing": "[red]✗[/red]", "note": "[dim]·[/dim]"}
    findings = examine(_settings(artifacts), Ports())
    for finding in findings:
        table.add_row(marks[finding.grade], finding.what, finding.found)
    Console().print(table)
    missing = [finding.what for finding in findings if finding.grade == "missing"]
    typer.echo(f"Missing: {', '.join(missing)}." if missing else "Nothing is missing: `twinserve demo` can run.")
    if missing:
        raise typer.Exit(1)


def _settings(artifacts: Path | None, **given: str | None) -> LaunchSettings:
    from serving.settings import LaunchSettings

    values: dict[str, Any] = {"artifacts": artifacts, **given}
    return LaunchSettings(**{name: value for name, value in values.items() if value is not None})


def _summary(state: RunState) -> str:
    names = [f"  {server.name:<11} {server.url:<28} {server.description}" for server in state.servers]
    return "\n".join([*names, f"Gateway: {state.gateway_rest} (docs at /docs), gRPC at {state.gateway_grpc}"])


app = typer.Typer(name="serving", help="Run the model servers and the gateway.", no_args_is_help=True)
register(app)
