"""One campaign from its file to its report: nothing is measured before everything that can be checked is."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import psutil
from rich.console import Console

from loadtests.addresses import Endpoints
from loadtests.campaign import lock, manifest
from loadtests.campaign.asking import check_listening
from loadtests.campaign.fleet import Fleet, addresses_of, build_where_missing, choose_ports, fleet_of, variants_of
from loadtests.campaign.folder import RunFolder, State, Status, read_json, write_json
from loadtests.campaign.gpu import gpu_meter
from loadtests.campaign.interrupt import StoppedError, TwoStage
from loadtests.campaign.ledger import Sources, key_of, ledger_of
from loadtests.campaign.measure import Costs, Measurer
from loadtests.campaign.null import NULL_S
from loadtests.campaign.options import Options
from loadtests.campaign.outcome import Outcome, outcome_of
from loadtests.campaign.parity import Parity, gate, warning
from loadtests.campaign.plan import Plan, check_memory, cool_down_of, plan_of, plan_text, seconds_of
from loadtests.campaign.progress import Bar, spoken
from loadtests.campaign.reading import campaign_of
from loadtests.campaign.resources import Meter, meters_of
from loadtests.campaign.sameness import differences
from loadtests.campaign.seams import RunCell, Seams
from loadtests.campaign.served import refuse_unserved
from loadtests.campaign.settings import Campaign, TargetSettings
from loadtests.campaign.targets import beside_default, needed_stacks, targets_of
from loadtests.cell_spec import CellSpec, Target
from loadtests.disk import DiskFullError, telling_full
from loadtests.errors import LoadTestError
from loadtests.golden import load_golden
from serving.interrupts import Terminated
from serving.settings import LaunchSettings
from serving.state import ProcessId

Targets = Mapping[str, Sequence[tuple[Target, TargetSettings]]]


def run(text: str, name: str, source: str, options: Options, console: Console, seams: Seams | None = None) -> Outcome:
    """Runs the campaign that `text` describes, from the beginning; raises LoadTestError before anything is measured."""
    console_say = _says(console)
    # Mistakes before anything else; where no model is built at all, they may be built yet.
    campaign_of(text, source, name=name, built_models=variants_of(options.artifacts / "models") or None)
    with nullcontext() if options.plan_only or options.host else lock.sole_campaign(name, options.lock):
        campaign = _checked(text, name, source, options, console_say)
        plan = _planned(campaign, options)
        for line in plan_text(campaign, plan):
            console_say(line)
        if options.plan_only:
            return Outcome(None, 0, "")
        with _ready(campaign, options, console_say) as ready:
            folder = RunFolder.create(options.runs, campaign.name)
            try:
                _open(folder, text, campaign, ready, options)
            except BaseException:
                shutil.rmtree(folder.path, ignore_errors=True)
                raise
            console_say(f"Run {folder.path}")
            return _Session(campaign, folder, ready, options, console, seams or Seams.real()).finish()


def resume(run_name: str, options: Options, console: Console, seams: Seams | None = None) -> Outcome:
    """Goes on with an interrupted run; what was measured stays. Raises LoadTestError where it is complete already."""
    say = _says(console)
    folder = RunFolder.existing(options.runs, run_name)
    state = folder.state()
    if state.status == "complete":
        raise LoadTestError(f"{folder.path} is complete; `twinserve bench report {folder.path}` makes its report anew")
    with lock.sole_campaign(folder.id, options.lock):
        text, about = folder.campaign_file.read_text("utf-8"), read_json(folder.path / "manifest.json")
        campaign = _checked(text, str(about.get("campaign", "campaign")), str(folder.campaign_file), options, say)
        with _ready(campaign, options, say) as ready:
            _refuse_another(folder, state, ready, options)
            write_json(folder.path / "manifest.json", manifest.resumed(about, options.command))
            folder.keep_lines(state.done)
            say(f"Going on with {folder.path}: {len(state.done)} cells are done.")
            own = ProcessId.of(os.getpid())
            done = replace(state, planned=ready.plan.cells, status="running", reason="", process=own)
            folder.save(done)
            return _Session(campaign, folder, ready, options, console, seams or Seams.real()).finish()


@dataclass(frozen=True, slots=True)
class _Ready:
    """Everything that is known before the first cell."""

    plan: Plan
    fleet: Fleet
    targets: Targets
    meters: Mapping[str, Sequence[Meter]]
    parities: Mapping[str, Parity]

    def every(self) -> list[tuple[Target, TargetSettings]]:
        return [pair for pairs in self.targets.values() for pair in pairs]


class _Session:
    """The measuring of a run whose folder is there."""

    def __init__(
        self, campaign: Campaign, folder: RunFolder, ready: _Ready, options: Options, console: Console, seams: Seams
    ) -> None:
        self._campaign, self._folder, self._ready = campaign, folder, ready
        self._options, self._console, self._seams = options, console, seams

    def finish(self) -> Outcome:
        """Measures what is left, seals, reports; returns how it ended."""
        state = self._folder.state()
        left = sum(
            seconds_of(self._campaign, cell) for cell in state.planned if (cell.round, cell.slug) not in state.done
        )
        bar = Bar(self._console, self._ready.plan.seconds, self._ready.plan.seconds - left)
        with TwoStage(bar.tell, at_once=self._options.host is not None) as signals:
            measurer = self._measurer(state, signals.stop, bar)
            status: Status = "complete"
            reason = ""
            try:
                with bar, self._seams.engine() as run_cell:
                    self._null(run_cell, signals, bar)
                    self._rounds(measurer, run_cell, signals, bar)
                if self._open_cells(measurer):
                    status, reason = "interrupted", "stopped after a round"
            except StoppedError:
                status, reason = "interrupted", "stopped within a round"
            except DiskFullError as exc:
                self._end(measurer, "failed", str(exc))
                raise
            except LoadTestError as exc:
                text = f"{self._folder.full_disk()}{exc}"
                self._end(measurer, "failed", text)
                raise LoadTestError(
                    f"{text}\nWhat was measured is kept: `twinserve bench run --resume {self._folder.path}` goes on, "
                    f"`twinserve bench report {self._folder.path}` reports what there is"
                ) from exc
            except BaseException as exc:
                self._end(measurer, "failed", f"{type(exc).__name__}: {exc}")
                raise
            finally:
                measurer.gpu.close()
            self._seal(measurer, status == "complete")
            self._end(measurer, status, reason)
        if self._options.host is not None and status != "complete":
            raise KeyboardInterrupt if signals.number == signal.SIGINT else Terminated(signals.number)
        return self._reported()

    def _measurer(self, state: State, stop: threading.Event, bar: Bar) -> Measurer:
        costs = {
            key_of(target): Costs(
                settings.config,
                self._campaign.price_per_hour if settings.price_per_hour is None else settings.price_per_hour,
                self._campaign.utilisation,
            )
            for target, settings in self._ready.every()
        }
        controls = {
            key_of(cell.target): key_of(_by_slug(state.planned, cell.control).target)
            for cell in state.planned
            if cell.control
        }

        def with_controls(found: Mapping[str, Any]) -> dict[str, Any]:
            return {**found, **{alias: found[key] for alias, key in controls.items() if key in found}}

        return Measurer(
            folder=self._folder,
            state=state,
            seams=self._seams,
            artifacts=self._options.artifacts,
            fleet=self._ready.fleet,
            meters=with_controls(self._ready.meters),
            gpu=gpu_meter(time.perf_counter),
            parities=with_controls(self._ready.parities),
            costs=with_controls(costs),
            tier=self._campaign.tier,
            stop=stop,
            say=bar.tell,
        )

    def _null(self, run_cell: RunCell, signals: TwoStage, bar: Bar) -> None:
        bar.now("A server that answers at once", NULL_S)
        self._seams.measure_null(
            self._folder.path, run_cell, self._options.artifacts, self._campaign.seed, signals.stop
        )
        bar.add(NULL_S)

    def _rounds(self, measurer: Measurer, run_cell: RunCell, signals: TwoStage, bar: Bar) -> None:
        plan, cool_down = self._ready.plan, cool_down_of(self._campaign)
        for number in range(plan.rounds):
            cells = [cell for cell in plan.round(number) if not measurer.finished(cell)]
            for cell in cells:
                what = f"Round {number + 1}/{plan.rounds}: {cell.target.model} {cell.scenario} on {cell.target.name}"
                bar.now(what, seconds_of(self._campaign, cell))
                if self._options.host is not None:
                    self._options.host.tell(what)
                signals.check()
                measurer.measure(cell, run_cell)
                signals.stop.wait(cool_down)
                bar.add(seconds_of(self._campaign, cell))
            if number not in measurer.state.sealed:
                self._seams.seal_round(self._folder.path, number)
                measurer.state = replace(measurer.state, sealed=(*measurer.state.sealed, number))
                self._folder.save(measurer.state)
            if cells and not self._console.is_terminal:
                left = f", {spoken(bar.left_s())} left" if number + 1 < plan.rounds else ""
                bar.tell(f"Round {number + 1} of {plan.rounds} is done{left}.")
            if signals.finish:
                return

    def _open_cells(self, measurer: Measurer) -> bool:
        return not all(measurer.finished(cell) for cell in self._ready.plan.cells)

    def _seal(self, measurer: Measurer, complete: bool) -> None:
        """Of a round that was cut short, what there is: sealing again later adds the rest."""
        numbers = {number for number, _ in measurer.state.done} - set(measurer.state.sealed)
        for number in sorted(numbers):
            if complete or any(self._folder.streams(number).glob("*.arrow")):
                self._seams.seal_round(self._folder.path, number)

    def _end(self, measurer: Measurer, status: Status, reason: str) -> None:
        if status == "failed":
            self._folder.drop_partial(measurer.state.done)
        self._folder.save(replace(measurer.state, status=status, reason=reason))
        if status == "complete":
            self._folder.ballast.unlink(missing_ok=True)

    def _reported(self) -> Outcome:
        lines = self._folder.cells()
        try:
            formats = self._options.formats
            written = self._seams.write_report(self._folder.path, formats) if lines and formats else []
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Interrupted while the report was written; everything measured is in {self._folder.path}: "
                f"`twinserve bench report {self._folder.path}` writes it"
            ) from None
        outcome = outcome_of(self._folder.path, lines, written)
        say = _says(self._console)
        if self._folder.state().status != "complete":
            say(f"Interrupted; `twinserve bench run --resume {self._folder.path}` goes on.")
        for line in outcome.text.splitlines():
            say(line)
        return outcome


def _checked(text: str, name: str, source: str, options: Options, say: Callable[[str], None]) -> Campaign:
    models_dir = options.artifacts / "models"
    campaign = campaign_of(text, source, name=name)
    if needed_stacks(campaign):
        build_where_missing(models_dir, say)
    return campaign_of(text, source, name=campaign.name, built_models=variants_of(models_dir))


def _planned(campaign: Campaign, options: Options) -> Plan:
    if options.host is not None:
        state, ports = None, options.host.stack.ports
    else:
        state, ports = choose_ports(options.artifacts)
    addresses = addresses_of(state, ports, LaunchSettings(artifacts=options.artifacts).host)
    targets = targets_of(campaign, variants_of(options.artifacts / "models"), addresses, {}, endpoints=Endpoints())
    plan = plan_of(campaign, _only_targets(targets))
    check_memory(plan, psutil.virtual_memory().total)
    for model, pairs in targets.items():
        if any(target.parity for target, _ in pairs):
            golden = load_golden(options.artifacts, model)
            for rows in {cell.load.rows for cell in plan.round(0)}:
                golden.questions(rows)
    for target, settings in (pair for pairs in targets.values() for pair in pairs):
        if settings.address is not None and not options.plan_only:
            check_listening(target)
    return plan


@contextmanager
def _ready(campaign: Campaign, options: Options, say: Callable[[str], None]) -> Iterator[_Ready]:
    needed = needed_stacks(campaign)
    stack = options.host.stack if options.host else None
    more = beside_default(campaign, variants_of(options.artifacts / "models"))
    with fleet_of(
        options.artifacts, needed=bool(needed), report=say, stack=stack, variants=more, models=campaign.models
    ) as fleet:
        if fleet.stack is None and needed and any(scenario.kind == "cold" for scenario in campaign.scenarios):
            raise LoadTestError(
                "`cold` restarts servers that the campaign started itself, and `twinserve up` runs: "
                "`twinserve down` first"
            )
        variants = variants_of(options.artifacts / "models")
        if fleet.stack is None and needed:
            needs = {
                model: {name: own for name, own in variants.get(model, {}).items() if own in needed}
                for model in campaign.models
            }
            refuse_unserved(fleet, needs, more)
        targets = targets_of(campaign, variants, fleet.addresses, fleet.servers, endpoints=Endpoints())
        plan = plan_of(campaign, _only_targets(targets))
        pairs = [pair for of_model in targets.values() for pair in of_model]
        meters = {
            key_of(target): meters_of([target], fleet.pids, configured=settings.configured is not None)
            for target, settings in pairs
        }
        rows = sorted({cell.load.rows for cell in plan.round(0)})
        parities: dict[str, Parity] = {}
        for target, settings in pairs:
            if settings.address is not None:
                check_listening(target)
            if target.parity:
                found = gate(target, load_golden(options.artifacts, target.model, target.variant), *rows)
                parities[key_of(target)] = found
                if (told := warning(target, found)) is not None:
                    say(told)
        if parities:
            good = sum(not found.bad and found.whole for found in parities.values())
            say(f"Parity: {good} of {len(parities)} targets answer every golden input within the contract's tolerance.")
        yield _Ready(plan, fleet, targets, meters, parities)


def _open(folder: RunFolder, text: str, campaign: Campaign, ready: _Ready, options: Options) -> None:
    with telling_full(folder.path):
        folder.campaign_file.write_text(text, "utf-8")
    launched = ready.fleet.stack is not None
    about = manifest.manifest_of(
        campaign,
        ready.plan,
        folder.path,
        options.command,
        ready.fleet.servers,
        launched=launched,
        hosted=options.host is not None,
    )
    write_json(folder.path / "manifest.json", about)
    parities = {key: found.to_json() for key, found in ready.parities.items()}
    write_json(folder.path / "parity.json", {"schema": 1, "targets": parities})
    write_json(folder.path / "ledger.json", _ledger(ready, options))
    folder.save(State(planned=ready.plan.cells, process=ProcessId.of(os.getpid())))


def _ledger(ready: _Ready, options: Options) -> dict[str, Any]:
    settings = LaunchSettings(artifacts=options.artifacts)
    sources = Sources(settings.models_dir, settings.run_dir, ready.fleet.management)
    rows = sorted({cell.load.rows for cell in ready.plan.round(0)})
    return ledger_of(ready.every(), ready.parities, ready.meters, sources, rows)


def _refuse_another(folder: RunFolder, state: State, ready: _Ready, options: Options) -> None:
    """Rounds of two experiments are no rounds of one: raises LoadTestError."""
    stored, now = read_json(folder.path / "ledger.json"), _ledger(ready, options)
    found = differences((state.planned, ready.plan.cells), (stored.get("targets", {}), now["targets"]))
    if found:
        lines = "".join(f"\n  {text}" for text in found)
        raise LoadTestError(
            f"{folder.path}: going on would measure something else than it began with:{lines}\n"
            "Bring that back and resume again, or begin a new run; "
            f"`twinserve bench report {folder.path}` reports what was measured"
        )


def _only_targets(targets: Targets) -> dict[str, list[Target]]:
    return {model: [target for target, _ in pairs] for model, pairs in targets.items()}


def _by_slug(cells: Sequence[CellSpec], slug: str) -> CellSpec:
    return next(cell for cell in cells if cell.slug == slug)


def _says(console: Console) -> Callable[[str], None]:
    def say(text: str) -> None:
        if text:
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    return say
