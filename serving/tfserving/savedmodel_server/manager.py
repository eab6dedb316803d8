"""Keeps the versions in memory in step with the configuration and the folders on disk.

It looks, loads, then unloads what was replaced. A start is the first reload (server_core.cc): both check the labels,
tear down what is no longer configured, and return once every new model answers.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from grpc import StatusCode

from serving.tfserving.savedmodel_server.config import ModelConfig, check_platforms
from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.executor import Servable
from serving.tfserving.savedmodel_server.versions import State, Version, Versions, plan

log = logging.getLogger(__name__)

_VERSION = re.compile(r"[0-9]+", re.ASCII)
_MAX_VERSION = 2**63 - 1
# What a server that still waits for its new versions looks for at least this often, whatever it polls later.
STARTING_POLL_S = 0.2

Load: TypeAlias = Callable[[Path], Servable]


@dataclass(frozen=True, slots=True)
class LoadPolicy:
    """How versions are looked for and loaded; the defaults are the command line's (model_servers/server.h).

    `poll_s`: seconds between two looks; 0 looks until every model is there, then never. A version that fails to load is
    tried `retries` times more, `retry_interval_s` apart. `any_label`: a label that is not in use may name a version
    that is not available.
    """

    poll_s: float = 1
    retries: int = 5
    retry_interval_s: float = 60
    any_label: bool = False


class Manager:
    """Serves the configured models; its methods belong to one event loop.

    `load` may block and raise ServingError; it runs in `loader`, and what frees a version in `unloader`, each of which
    runs as many at once as it has threads.
    """

    def __init__(self, load: Load, loader: Executor, unloader: Executor, policy: LoadPolicy = LoadPolicy()) -> None:
        self._load = load
        self._loader = loader
        self._unloader = unloader
        self._policy = policy
        self._models: tuple[ModelConfig, ...] = ()
        self._said: dict[str, str] = {}
        self._reloading = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._loads: set[asyncio.Task[None]] = set()
        self._unwanted: dict[tuple[str, int], asyncio.Event] = {}
        self._closing: set[Future[None]] = set()
        self.versions = Versions(self._close_later)

    @property
    def models(self) -> tuple[ModelConfig, ...]:
        """The configuration in force."""
        return self._models

    async def start(self, models: Sequence[ModelConfig], starter: Executor | None = None) -> None:
        """Returns once every configured model has an available version; until then `starter` loads, where given.

        A base path or version that is missing is waited for, without end. Raises FAILED_PRECONDITION for a label of a
        version that is not available, and UNKNOWN where a model can never become available.
        """
        later, self._loader = self._loader, starter or self._loader
        try:
            await self._apply(models, "servable(s)")
        finally:
            self._loader = later

    async def reload(self, models: Sequence[ModelConfig]) -> None:
        """Replaces the whole configuration: models left out are unloaded; returns once the new ones are available.

        Models that stay change in the background. One reload at a time; the next one waits. Raises as `start` does, and
        INVALID_ARGUMENT where a model would change its platform; a refused configuration leaves the old one in force.
        """
        await self._apply(models, "model(s)")

    async def keep_up(self) -> None:
        """Looks for new versions until cancelled; returns at once where polling is off."""
        while self._policy.poll_s:
            await asyncio.sleep(self._policy.poll_s)
            try:
                await self._look()
            except Exception:
                log.exception("looking for versions failed; the versions in memory stay")

    async def poll(self) -> None:
        """One look at every model's folder; returns once everything that follows from it is done."""
        await self._look()
        while self._loads:
            await asyncio.wait(self._loads)
        while self._closing:
            await asyncio.wait([asyncio.wrap_future(closing) for closing in tuple(self._closing)])

    async def stop(self) -> None:
        """Gives up what is being loaded; a load under way ends in its thread, and nobody waits for it."""
        for load in self._loads:
            load.cancel()
        await asyncio.gather(*self._loads, return_exceptions=True)

    async def _apply(self, models: Sequence[ModelConfig], word: str) -> None:
        async with self._reloading:
            check_platforms(self._models, models)
            self._relabel(models)
            known = {model.name for model in self._models}
            self._models = tuple(models)
            names = {model.name for model in models}
            for gone in known - names:
                self._aspire(gone, frozenset())
            await self._until_available([model.name for model in models if model.name not in known], word)

    def _relabel(self, models: Sequence[ModelConfig]) -> None:
        """Puts the labels of a configuration in force; raises FAILED_PRECONDITION as the policy on labels says."""
        for model in models:
            known = self.versions.of(model.name)
            for label, number in model.labels.items():
                unused = self.versions.labelled(model.name, label) in {None, number}
                if self._policy.any_label and unused:
                    continue
                version = known.get(number)
                if version is None or version.state is not State.AVAILABLE:
                    raise ServingError(
                        StatusCode.FAILED_PRECONDITION,
                        f"Request to assign label to version {number} of model {model.name}, which is not currently "
                        "available for inference",
                    )
        self.versions.relabel({model.name: model.labels for model in models})

    async def _until_available(self, names: Sequence[str], word: str) -> None:
        while True:
            await self._look()
            failed = [self._failure(name) for name in names]
            if None not in failed:
                break
            wait = min(self._policy.poll_s or STARTING_POLL_S, STARTING_POLL_S)
            if self._loads:
                await asyncio.wait(self._loads, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(wait)
        reasons = [reason for reason in failed if reason]
        if reasons:
            text = "".join(f"{{{reason}}}, " for reason in reasons)
            raise ServingError(StatusCode.UNKNOWN, f"{len(reasons)} {word} did not become available: {{{text}}}")

    def _failure(self, model: str) -> str | None:
        """Why no version of a model can become available: "" where one is, None where that is not known yet."""
        known = self.versions.of(model)
        if any(version.state is State.AVAILABLE for version in known.values()):
            return ""
        failed = [version for version in known.values() if version.error is not None and version.aspired]
        if not failed or any(version.state is not State.END for version in known.values()):
            return None
        newest = failed[0]
        return f"{{name: {model} version: {newest.number}}} due to error: {newest.error}"

    async def _look(self) -> None:
        # One at a time: what an earlier look saw must not be followed after what a later one saw.
        async with self._looking:
            for model in self._models:
                found, trouble = await asyncio.to_thread(_find, model)
                # The configuration may have been replaced meanwhile.
                if model in self._models:
                    self._say(model.name, trouble)
                    if found is not None:
                        self._follow(model, found)

    def _follow(self, model: ModelConfig, found: dict[int, Path]) -> None:
        aspired = model.policy.aspired(frozenset(found))
        loads = plan(aspired, self.versions.of(model.name)).load
        for number in loads:
            version = Version(model.name, number, found[number])
            self.versions.add(version)
            task = asyncio.create_task(self._bring(version), name=f"load {model.name} {number}")
            self._loads.add(task)
            task.add_done_callback(self._loads.discard)
        self._aspire(model.name, aspired)

    def _aspire(self, model: str, aspired: frozenset[int]) -> None:
        """Notes which versions of a model are wanted, unloads what is replaced, and retries nothing in vain."""
        self.versions.aspire(model, aspired)
        for (name, number), unwanted in self._unwanted.items():
            if name == model and number not in aspired:
                unwanted.set()
        known = self.versions.of(model)
        for number in plan(aspired, known).unload:
            log.info("model %s version %d: unloading", model, number)
            self.versions.unload(known[number])

    async def _bring(self, version: Version) -> None:
        """Loads a version, with retries; then the ones that it replaces may go."""
        unwanted = self._unwanted[version.model, version.number] = asyncio.Event()
        started = time.perf_counter()
        self.versions.loading(version)
        try:
            servable = await self._load_with_retries(version, unwanted)
        except ServingError as exc:
            self.versions.ended(version, exc)
        except Exception as exc:
            log.exception("model %s version %d: loading failed", version.model, version.number)
            self.versions.ended(version, ServingError(StatusCode.INTERNAL, f"{type(exc).__name__}: {exc}"))
        else:
            self.versions.available(version, servable)
            took = f"{time.perf_counter() - started:.2f} s"
            where = f"available after {took}, from {version.path}"
            log.info("model %s version %d: %s", version.model, version.number, where)
        finally:
            del self._unwanted[version.model, version.number]
        wanted = [number for number, entry in self.versions.of(version.model).items() if entry.aspired]
        self._aspire(version.model, frozenset(wanted))

    async def _load_with_retries(self, version: Version, unwanted: asyncio.Event) -> Servable:
        loop = asyncio.get_running_loop()
        left = self._policy.retries
        while True:
            try:
                return await loop.run_in_executor(self._loader, self._load, version.path)
            except ServingError as exc:
                log.error("model %s version %d: loading failed: %s", version.model, version.number, exc)
                if not left or unwanted.is_set():
                    raise
            left -= 1
            try:
                await asyncio.wait_for(unwanted.wait(), self._policy.retry_interval_s)
            except TimeoutError:
                log.info("model %s version %d: loading again", version.model, version.number)

    def _close_later(self, version: Version) -> None:
        """Called by whichever thread was the last to use the version; freeing it must not delay that answer."""
        closing = self._unloader.submit(self._close, version)
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _close(self, version: Version) -> None:
        if version.servable is not None:
            version.servable.close()
        self.versions.ended(version)
        log.info("model %s version %d: unloaded", version.model, version.number)

    def _say(self, model: str, trouble: str) -> None:
        """Warns once, not at every look."""
        if trouble and self._said.get(model) != trouble:
            log.warning("model %s: %s", model, trouble)
        self._said[model] = trouble


def _find(model: ModelConfig) -> tuple[dict[int, Path] | None, str]:
    """The numbered folders of a model, and what is wrong with them ("" for nothing).

    None where its base path cannot be read, so that nothing changes.
    """
    found: dict[int, Path] = {}
    try:
        for child in sorted(model.base_path.iterdir()):
            if _VERSION.fullmatch(child.name) and int(child.name) <= _MAX_VERSION and child.is_dir():
                found[int(child.name)] = child
    except OSError as exc:
        return None, f"could not find base path {model.base_path} ({exc.strerror}); looking again"
    if found:
        return found, ""
    return found, (
        f"no versions found under base path {model.base_path}; "
        "did you forget to name your leaf directory as a number (eg. '/1/')?"
    )
