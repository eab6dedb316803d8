"""`gateway check FILE`: whether a configuration can be used, without starting it; with `--connect` the servers too.

Every problem is told, with its path in the file; the exit status is 0 where there is none.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.core.clock import SystemClock
from gateway.core.contract import ModelContract
from gateway.core.observer import NullObserver
from gateway.flags import add_flags, settings_of
from gateway.fleet import opened
from gateway.plan import Configuration, handlers_of, load_contracts
from gateway.routing.endpoint import Endpoint, Status
from gateway.routing.health import CANNOT_LIST, HealthMonitor
from gateway.settings import EndpointSettings, ModelSettings, Settings, SettingsError

EXIT_PROBLEMS = 1


@dataclass(slots=True)
class Report:
    """What is printed: lines for the reader, and what is wrong."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def main(arguments: list[str], program: str = "python -m gateway check") -> int:
    """Checks a configuration; returns the exit status."""
    parser = argparse.ArgumentParser(prog=program, description="Validates a configuration without starting it.")
    parser.add_argument("file", metavar="FILE", type=Path, nargs="?", help="the configuration, such as gateway.yaml")
    parser.add_argument(
        "--connect", action="store_true", help="ask the servers too: what they are, have, and disagree on"
    )
    add_flags(parser)
    options = parser.parse_args(arguments)
    # What the parts would log is in the report.
    logging.getLogger("gateway").addHandler(logging.NullHandler())
    try:
        settings = settings_of(options, options.file)
    except SettingsError as exc:
        print(exc, file=sys.stderr)
        return EXIT_PROBLEMS
    contracts: Mapping[str, ModelContract] = {}
    report = Report()
    try:
        contracts = load_contracts(settings)
    except SettingsError as exc:
        report.problems += str(exc).splitlines()
    loaded = not report.problems
    for endpoint in [name for name, spec in settings.endpoints.items() if loaded and spec.stack == "torchserve"]:
        try:
            handlers_of(settings, contracts, endpoint)
        except SettingsError as exc:
            report.problems.append(str(exc))
    report.lines += _summary(settings, contracts)
    if options.connect and not report.problems:
        asyncio.run(_ask(settings, contracts, report))
    print("\n".join(report.lines))
    for problem in report.problems:
        print(f"problem: {problem}", file=sys.stderr)
    if not report.problems:
        print("no problem found" if options.connect else "no problem found; --connect asks the servers too")
    return EXIT_PROBLEMS if report.problems else 0


def _summary(settings: Settings, contracts: Mapping[str, ModelContract]) -> list[str]:
    lines = ["endpoints"]
    lines += [f"  {name}: {_endpoint(spec)}" for name, spec in settings.endpoints.items()]
    lines.append("models")
    lines += [f"  {name}: {_model(model, contracts.get(name))}" for name, model in settings.models.items()]
    return [*lines, *(f"  {text}" for text in _unlisted(settings))]


def _endpoint(spec: EndpointSettings) -> str:
    address = getattr(spec, spec.transport)
    return spec.stack if address is None else f"{spec.stack} over {spec.transport}, {address}"


def _model(model: ModelSettings, contract: ModelContract | None) -> str:
    targets = ", ".join(
        target.endpoint
        + (f" as {target.model}" if target.model else "")
        + (f" version {target.version}" if target.version is not None else "")
        + (f" label {target.label}, version {model.version_at(target)}" if target.label is not None else "")
        for target in model.targets
    )
    if model.contract is None:
        return f"on {targets}; contract made of the server's own metadata"
    return f"on {targets}; contract {model.contract}" + (f", version {contract.version}" if contract else "")


def _unlisted(settings: Settings) -> Iterable[str]:
    everything = [name for name, spec in settings.endpoints.items() if spec.models is None and spec.stack != "noop"]
    if everything:
        yield f"and every other that these list: {', '.join(everything)}"
    for name, spec in settings.endpoints.items():
        if spec.models:
            yield f"and from {name}: {', '.join(spec.models)}"


async def _ask(settings: Settings, contracts: Mapping[str, ModelContract], report: Report) -> None:
    """Asks every server once, as the running gateway would, and reports what it would do."""
    async with opened(Configuration(settings, contracts), SystemClock(), NullObserver()) as fleet:
        router, health = fleet.router, fleet.router.health
        endpoints = {name: member.endpoint for name, member in fleet.members.items()}
        for _ in range(2):
            # Again, since a server that cannot list its models is asked about those that the others have.
            await asyncio.gather(*(health.check(endpoint) for endpoint in endpoints.values()))
    report.lines.append("servers")
    for endpoint in endpoints.values():
        _tell_endpoint(endpoint, health, report)
    report.lines.append("routes")
    for name, route in router.table.routes.items():
        made = f"contract of {route.source}" if route.source else "own contract"
        report.lines.append(f"  {name}: {made}, signatures {', '.join(route.contracts)}")
        for target in route.targets:
            verdict = health.verdict(name, target)
            versions = f", versions {', '.join(map(str, verdict.versions))}" if verdict.versions else ""
            report.lines.append(f"    {target.endpoint}: {verdict.status.value}{versions}")
            if verdict.status is not Status.READY:
                where = f"models.{name}" if name in settings.models else f"model {name}"
                report.problems.append(
                    f"{where}: endpoint '{target.endpoint}' is {verdict.status.value}: {verdict.reason}"
                )
        if name in router.table.left_out:
            report.lines.append(f"    {router.table.left_out[name]}")
    for name, reason in router.table.unrouted.items():
        if name in settings.models:
            report.problems.append(f"models.{name}: {reason}")
        else:
            report.lines.append(f"  {name}: cannot be answered: {reason}")


def _tell_endpoint(endpoint: Endpoint, health: HealthMonitor, report: Report) -> None:
    trouble = health.trouble(endpoint.name)
    report.lines.append(f"  {endpoint.name}: {endpoint.server or 'does not answer'}")
    if trouble == CANNOT_LIST:
        report.lines.append(f"    {trouble}")
    elif trouble:
        report.problems.append(f"endpoints.{endpoint.name}: {trouble}")
