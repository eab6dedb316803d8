"""Keeps the versions in memory in step with the folders on disk: looks, loads, then unloads what was replaced."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import TypeVar

from serving.tfserving.savedmodel_server.config import ModelConfig
from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.executor import Servable
from serving.tfserving.savedmodel_server.versions import State, Version, Versions, plan

log = logging.getLogger(__name__)

T = TypeVar("T")

_VERSION = re.compile(r"[0-9]+", re.ASCII)
_MAX_VERSION = 2**63 - 1
# What a server that still waits for its first versions looks for at least this often, whatever it polls later.
STARTING_POLL_S = 0.2


class StartError(Exception):
    """A configured model can never become available; the server must not start."""


class Manager:
    """Serves the configured models. `load` may block and raise ServingError; it runs in `loader`, one at a time."""

    def __init__(
        self, models: Sequence[ModelConfig], load: Callable[[Path], Servable], loader: Executor, *, poll_s: float
    ) -> None:
        self._models = models
        self._load = load
        self._loader = loader
        self._poll_s = poll_s
        self._said: dict[str, str] = {}
        self.versions = Versions({model.name: model.labels for model in models}, self._close_later)

    async def start(self) -> None:
        """Returns once every configured model has an available version; raises StartError where one cannot have.

        A base path or version that is missing is waited for, without end.
        """
        while True:
            await self.poll()
            if all(self._is_available(model) for model in self._models):
                break
            await asyncio.sleep(min(self._poll_s or STARTING_POLL_S, STARTING_POLL_S))
        for model in self._models:
            for label, number in model.labels.items():
                version = self.versions.of(model.name).get(number)
                if version is None or version.state is not State.AVAILABLE:
                    raise StartError(
                        f"Request to assign label to version {number} of model {model.name}, which is not currently "
                        f"available for inference (label {label})"
                    )

    async def keep_up(self) -> None:
        """Looks for new versions until cancelled; returns at once where polling is off."""
        while self._poll_s:
            await asyncio.sleep(self._poll_s)
            try:
                await self.poll()
            except Exception:
                log.exception("looking for versions failed; the versions in memory stay")

    async def poll(self) -> None:
        """One look at every model's folder, and everything that follows from it."""
        for model in self._models:
            found = await self._in_loader(partial(self._find, model))
            if found is not None:
                await self._follow(model, found)

    def _is_available(self, model: ModelConfig) -> bool:
        known = self.versions.of(model.name).values()
        if any(version.state is State.AVAILABLE for version in known):
            return True
        failed = [version for version in known if version.error is not None]
        if failed and all(version.state is State.END for version in known):
            reasons = ", ".join(
                f"{{name: {model.name} version: {version.number}}} due to error: {version.error}" for version in failed
            )
            raise StartError(f"{len(failed)} servable(s) did not become available: {{{reasons}}}")
        return False

    async def _follow(self, model: ModelConfig, found: dict[int, Path]) -> None:
        aspired = model.policy.aspired(frozenset(found))
        loads = plan(aspired, self.versions.of(model.name)).load
        self.versions.aspire(model.name, aspired)
        for number in loads:
            await self._load_version(Version(model.name, number, found[number]))
        known = self.versions.of(model.name)
        for number in plan(aspired, known).unload:
            log.info("model %s version %d: unloading", model.name, number)
            self.versions.unload(known[number])

    async def _load_version(self, version: Version) -> None:
        self.versions.add(version)
        self.versions.loading(version)
        started = time.perf_counter()
        try:
            servable = await self._in_loader(partial(self._load, version.path))
        except ServingError as exc:
            log.error("model %s version %d: loading failed: %s", version.model, version.number, exc)
            self.versions.ended(version, exc)
            return
        self.versions.available(version, servable)
        took = f"{time.perf_counter() - started:.2f} s"
        log.info("model %s version %d: available after %s, from %s", version.model, version.number, took, version.path)

    def _close_later(self, version: Version) -> None:
        """Called by whichever thread was the last to use the version; freeing it must not delay that answer."""
        self._loader.submit(self._close, version)

    def _close(self, version: Version) -> None:
        if version.servable is not None:
            version.servable.close()
        self.versions.ended(version)
        log.info("model %s version %d: unloaded", version.model, version.number)

    def _find(self, model: ModelConfig) -> dict[int, Path] | None:
        """The numbered folders of a model; None where its base path cannot be read, so that nothing changes."""
        found: dict[int, Path] = {}
        try:
            for child in sorted(model.base_path.iterdir()):
                if _VERSION.fullmatch(child.name) and int(child.name) <= _MAX_VERSION and child.is_dir():
                    found[int(child.name)] = child
        except OSError as exc:
            self._say(model, f"could not find base path {model.base_path} ({exc.strerror}); looking again")
            return None
        if found:
            self._said.pop(model.name, None)
        else:
            self._say(
                model,
                f"no versions found under base path {model.base_path}; "
                "did you forget to name your leaf directory as a number (eg. '/1/')?",
            )
        return found

    def _say(self, model: ModelConfig, text: str) -> None:
        """Warns once, not at every look."""
        if self._said.get(model.name) != text:
            self._said[model.name] = text
            log.warning("model %s: %s", model.name, text)

    async def _in_loader(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._loader, work)
