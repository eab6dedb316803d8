"""The main job, end to end: one trained model, both serving stacks, one gateway, one table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtests.campaign.lock import LOCK, sole_campaign
from loadtests.cells import Addresses, Cell, demo_cells
from loadtests.errors import LoadTestError
from loadtests.golden import Golden, load_golden
from loadtests.report.page import write_report
from loadtests.results import CellResult
from loadtests.run import run_cell
from loadtests.summary import build_summary, write_summary
from loadtests.table import results_table
from serving.interrupts import Interrupts
from serving.local import LocalStack, check_ports
from serving.models import build_command, build_models
from serving.processes import LaunchError
from serving.servers import every_port
from serving.settings import LaunchSettings, Ports
from twinserve.client import Answer, PredictError, Question, predict_grpc, predict_rest
from twinserve.steps import Note, Steps

MODELS = ("simplenn", "digits")
BUILD_STEPS = {"train": "Train", "convert": "Convert", "export": "Export", "verify": "Verify"}
STACKS = ("torchserve", "tfserving")
# Serve, predict, load and report.
OTHER_STEPS = 4


class DemoFailedError(Exception):
    """Raised where a step failed; the text says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """How the demo is run. `seconds` is what each load cell measures, with `users` users in a closed loop."""

    artifacts: Path
    framework: str
    seconds: float
    users: int
    lock: Path = LOCK


def run(options: DemoOptions, console: Console) -> None:
    """Does all steps; raises DemoFailedError. No process that it started is left, however it ends."""
    began = time.perf_counter()
    steps = Steps(console, total=len(MODELS) * len(BUILD_STEPS) + OTHER_STEPS)
    try:
        # A campaign on this host would be measured with the demo's load, and the demo with the campaign's.
        with sole_campaign("twinserve demo", options.lock):
            with Interrupts():
                # Before minutes of work, not after them.
                check_ports(every_port(Ports()), LaunchSettings().host)
                _build(options, steps)
            with _served(options, steps) as stack:
                _predict(options, steps, stack)
                results = _load(options, steps, stack)
            _report(options, steps, results, console)
    except (LaunchError, LoadTestError, PredictError) as exc:
        raise DemoFailedError(str(exc)) from exc
    console.print(
        f"Done in {time.perf_counter() - began:.0f} s. `twinserve up` starts the same stack and leaves it on."
    )


def _build(options: DemoOptions, steps: Steps) -> None:
    command = [*build_command(options.artifacts / "models"), "--framework", options.framework]
    for name in MODELS:
        command += ["--model", name]
    note: Note = str
    with ExitStack() as still_open:

        def show(event: dict[str, Any]) -> None:
            nonlocal note
            if event["status"] == "start":
                note = still_open.enter_context(steps.step(f"{BUILD_STEPS[event['step']]} {event['model']}"))
            else:
                note(event.get("detail") or event["status"])
                still_open.pop_all().close()

        build_models(command, show)


@contextmanager
def _served(options: DemoOptions, steps: Steps) -> Iterator[LocalStack]:
    with ExitStack() as running:
        with steps.step("Serve") as note:
            settings = LaunchSettings(artifacts=options.artifacts, models=",".join(MODELS), variants="default")
            stack = running.enter_context(LocalStack(settings, Ports(), report=note))
            note(" · ".join(stack.servers.values()))
        yield stack


def _predict(options: DemoOptions, steps: Steps, stack: LocalStack) -> None:
    with steps.step("Predict") as note:
        count = 0
        for model in MODELS:
            golden = load_golden(options.artifacts, model)
            rows = min(golden.rows, golden.contract.batch_cap or 1)
            inputs = {name: array[:rows] for name, array in golden.inputs.items()}
            for name in STACKS:
                question = Question(model, inputs, stack=name)
                for protocol in ("rest", "grpc"):
                    note(f"{model} on {name} over {protocol}")
                    _compare(golden, rows, question, protocol, _ask(stack, question, protocol))
                    count += rows
        note(f"{count} golden rows through the gateway, on both stacks, over REST and gRPC: all right")


def _ask(stack: LocalStack, question: Question, protocol: str) -> Answer:
    stack.check()
    try:
        if protocol == "rest":
            return predict_rest(stack.gateway_rest, question)
        return predict_grpc(stack.gateway_grpc, question)
    except PredictError:
        # A server that died explains the error better than the gateway can.
        stack.check()
        raise


def _compare(golden: Golden, rows: int, question: Question, protocol: str, answer: Answer) -> None:
    fault = golden.fault(0, rows, answer.outputs)
    if fault is not None:
        raise DemoFailedError(
            f"{question.model} on {question.stack} over {protocol} answered wrongly: {fault}"
            f" (served by {answer.served_by})"
        )


def _load(options: DemoOptions, steps: Steps, stack: LocalStack) -> list[CellResult]:
    ports = stack.ports
    host = stack.settings.host
    addresses = Addresses(
        **{
            f"{server}_{transport}": f"{host}:{getattr(ports, f'{server}_{transport}_port')}"
            for server in ("gateway", *STACKS)
            for transport in ("rest", "grpc")
        }
    )
    cells = demo_cells(MODELS, servers={name: stack.servers[name] for name in STACKS}, addresses=addresses)
    with steps.step("Load") as note:
        results = [
            _measure(options, stack, cell, lambda text, at=number: note(f"{at}/{len(cells)} {text}"))
            for number, cell in enumerate(cells, 1)
        ]
        failures = sum(result.failures for result in results)
        note(f"{len(cells)} cells, {sum(result.requests for result in results)} requests, {failures} failures")
    return results


def _measure(options: DemoOptions, stack: LocalStack, cell: Cell, note: Note) -> CellResult:
    note(cell.label)
    try:
        return run_cell(
            cell,
            artifacts=options.artifacts,
            users=options.users,
            seconds=options.seconds,
            out_dir=options.artifacts / "demo" / "cells",
        )
    finally:
        # A server that died in the middle of a cell ends the demo with its own last words.
        stack.check()


def _report(options: DemoOptions, steps: Steps, results: list[CellResult], console: Console) -> None:
    folder = options.artifacts / "demo"
    with steps.step("Report") as note:
        summary = build_summary(results, artifacts=options.artifacts)
        write_summary(summary, folder / "summary.json")
        write_report(summary, results, folder / "report.html")
        note(f"{folder / 'summary.json'} and {folder / 'report.html'}")
    console.print(results_table(summary))
    worst = max(results, key=lambda result: result.failures)
    if worst.failures:
        raise DemoFailedError(
            f"requests failed, the most in {worst.cell.label}: {dict(worst.outcomes)}; {dict(worst.examples)}\n"
            f"The samples and logs of each cell are in {folder / 'cells'}"
        )
