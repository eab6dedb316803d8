"""The main job, end to end: one trained model, both serving stacks, one gateway, one table."""

from __future__ import annotations

import io
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtests.campaign import session
from loadtests.campaign.demo import demo_campaign
from loadtests.campaign.lock import LOCK, sole_campaign
from loadtests.campaign.options import Host, Options
from loadtests.campaign_report import write
from loadtests.cell_spec import STACKS
from loadtests.errors import LoadTestError
from loadtests.golden import Golden, load_golden
from loadtests.replies import Outcome
from loadtests.store.stored import StoredRun, target_key
from loadtests.summary import build_summary, invalid_words, write_summary
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
                measured = _load(options, steps, stack)
            _report(options, steps, measured, console)
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


def _load(options: DemoOptions, steps: Steps, stack: LocalStack) -> StoredRun:
    """A campaign of one round over every way to the stacks; returns its run."""
    folder = options.artifacts / "demo"
    # Each demo replaces the one before.
    shutil.rmtree(folder / "runs", ignore_errors=True)
    (folder / "summary.json").unlink(missing_ok=True)
    text = demo_campaign(MODELS, seconds=options.seconds, users=options.users, stacks=STACKS)
    with steps.step("Load") as note:
        # As it would be typed again.
        command = ("twinserve", *sys.argv[1:])
        own = Options(options.artifacts, folder / "runs", command, formats=(), host=Host(stack, note))
        # What a campaign prints beside its cells is for a command of its own.
        outcome = session.run(text, "demo", "the demo's campaign", own, Console(file=io.StringIO()))
        assert outcome.run is not None  # noqa: S101 - it was not asked for its plan alone
        run = StoredRun(outcome.run)
        lines = [line for line in run.cells() if not line["control"]]
        failures = sum(_failed(line) for line in lines)
        requests = sum(sum(line["outcomes"].values()) for line in lines)
        said = [f"{len(lines)} cells, {requests} requests, {failures} failures", invalid_words(lines)]
        note("; ".join(filter(None, said)))
    return run


def _report(options: DemoOptions, steps: Steps, run: StoredRun, console: Console) -> None:
    folder = options.artifacts / "demo"
    with steps.step("Report") as note:
        order = list(run.ledger())
        lines = sorted(run.cells(), key=lambda line: order.index(_key(line)))
        summary = build_summary(lines, artifacts=options.artifacts, environment=run.manifest()["environment"])
        write_summary(summary, folder / "summary.json")
        (page,) = write(run.path)
        shutil.copyfile(page, folder / "report.html")
        note(f"{folder / 'summary.json'} and {folder / 'report.html'}")
    console.print(results_table(summary))
    worst = max(lines, key=_failed)
    if _failed(worst):
        raise DemoFailedError(
            f"requests failed, the most of {worst['model']} on {worst['target']}: {worst['outcomes']}; "
            f"{worst['failures']}\nEvery request is in {run.raw}, what the generator printed in {run.path / 'logs'}"
        )


def _key(line: Mapping[str, Any]) -> str:
    return target_key(line["model"], line["target"], line["control"])


def _failed(line: Mapping[str, Any]) -> int:
    return int(sum(line["outcomes"].values()) - line["outcomes"].get(Outcome.OK, 0))
