"""Follows `--model_config_file`: what is changed in it is a reload (Server::PollFilesystemAndReloadConfig)."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from serving.tfserving.savedmodel_server import config
from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.manager import Manager

log = logging.getLogger(__name__)


class ConfigFile:
    """The file, whose configuration is put in force again whenever a manager has another one."""

    def __init__(self, path: Path, manager: Manager) -> None:
        self._path = path
        self._manager = manager
        self._said = ""

    async def follow(self, poll_s: float) -> None:
        """Looks at the file every so many seconds, until cancelled; returns at once for 0."""
        while poll_s:
            await asyncio.sleep(poll_s)
            await self.poll()

    async def poll(self) -> None:
        """One look; what the file says is in force when it returns, unless it is refused.

        So a configuration that came by RPC lasts until the next look, as in TensorFlow Serving. A file that cannot be
        read, or is wrong, changes nothing and is logged; it is tried again at every look, since it may name what is not
        there yet.
        """
        try:
            models = await asyncio.to_thread(config.from_file, self._path)
            # An empty file says nothing: the configuration before stays, whatever it was.
            if models is not None and models != self._manager.models:
                log.info("reloading %s", self._path)
                await self._manager.reload(models)
        except ServingError as exc:
            self._say(f"failed to reload {self._path}: {exc}")
        except Exception:
            log.exception("failed to reload %s", self._path)
        else:
            self._said = ""

    def _say(self, text: str) -> None:
        """Logs once, not at every look."""
        if text != self._said:
            self._said = text
            log.error("%s", text)
