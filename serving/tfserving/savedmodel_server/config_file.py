"""Follows `--model_config_file`: what is changed in it is a reload (Server::PollFilesystemAndReloadConfig)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from serving.tfserving.savedmodel_server import config
from serving.tfserving.savedmodel_server.config import ModelConfig
from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.manager import Manager

log = logging.getLogger(__name__)


class ConfigFile:
    """The file, and what of it is in force in a manager."""

    def __init__(self, path: Path, manager: Manager, models: Sequence[ModelConfig]) -> None:
        self._path = path
        self._manager = manager
        self._in_force: tuple[ModelConfig, ...] | None = tuple(models)
        self._said = ""

    async def follow(self, poll_s: float) -> None:
        """Looks at the file every so many seconds, until cancelled; returns at once for 0."""
        while poll_s:
            await asyncio.sleep(poll_s)
            await self.poll()

    async def poll(self) -> None:
        """One look; a changed configuration is in force when it returns, unless it is refused.

        A file that cannot be read, or is wrong, changes nothing and is logged; it is tried again at every look, since
        it may name what is not there yet.
        """
        try:
            models = await asyncio.to_thread(config.from_file, self._path)
            # An empty file says nothing: the configuration before stays, whatever it was.
            if models is None or models == self._in_force:
                return
            log.info("%s has changed: reloading", self._path)
            self._in_force = None
            await self._manager.reload(models)
        except ServingError as exc:
            self._say(f"failed to reload {self._path}: {exc}")
        except Exception:
            log.exception("failed to reload %s", self._path)
        else:
            self._in_force, self._said = models, ""

    def _say(self, text: str) -> None:
        """Logs once, not at every look."""
        if text != self._said:
            self._said = text
            log.error("%s", text)
