"""Another configuration in place of the one in use: on a signal, when its file changes, or when an operator asks.

What is read is validated whole, and only then applied, in one step (`gateway.fleet`). What cannot be used changes
nothing: it is logged, counted, and told at the admin port.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from watchfiles import awatch

from gateway.core.observer import Observer
from gateway.fleet import Changes
from gateway.plan import Configuration, configuration_of
from gateway.settings import Settings, SettingsError

logger = logging.getLogger(__name__)

Outcome = Literal["ok", "invalid"]
# Of a file: where it really is, and what its folder says of it.
State = tuple[object, ...]

# A file is read once nobody has touched it for QUIET_MS; an editor that never rests is read every BUSY_MS.
QUIET_MS = 200
BUSY_MS = 2000
# Where the system does not tell of a change (network folders, a link further up), it is found by looking.
LOOK_MS = 5000
# How long to wait where the file's folder cannot be watched, in seconds.
RETRY_SECONDS = 5.0
# As many as Linux follows.
MOST_LINKS = 40


@dataclass(frozen=True, slots=True)
class Source:
    """Where a configuration comes from: `read` raises SettingsError; `file` is watched; `wanted` asks for a reload."""

    read: Callable[[], Settings]
    file: Path | None = None
    state: State | None = None
    """The file's state when it was first read, or before: what changed meanwhile is seen too."""
    wanted: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Reload:
    """One reading of the configuration. `cause` is `start`, `signal`, `file` or `admin`."""

    at: datetime
    cause: str
    outcome: Outcome
    error: str = ""
    changes: Changes = field(default_factory=Changes)
    needs_restart: tuple[str, ...] = ()
    """The fields whose new values wait for a restart."""


class Reloadable(Protocol):
    """What a reload changes: the fleet of this worker, or those of all workers."""

    @property
    def configuration(self) -> Configuration:
        """What is in effect."""

    async def apply(self, configuration: Configuration) -> Changes:
        """Makes a configuration the one in effect; raises where it cannot, and then has changed nothing."""


class Reloader:
    """Brings a fleet to what its source says; `run` is its one task. Reloads come one after the other."""

    def __init__(self, fleet: Reloadable, source: Source, observer: Observer) -> None:
        self._fleet = fleet
        self._source = source
        self._observer = observer
        self._turn = asyncio.Lock()
        self._last = Reload(
            _now(), "start", "ok", changes=Changes(connected=tuple(fleet.configuration.settings.endpoints))
        )
        self.counts: Counter[str] = Counter()

    @property
    def last(self) -> Reload:
        """The last reading; the first is that of the start."""
        return self._last

    @property
    def file(self) -> Path | None:
        """The file that is watched, if there is one."""
        return self._source.file

    async def run(self) -> None:
        """Reloads on a signal and on a change of the file, for ever; ends by cancellation."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._on_signal(), name="reload:signal")
            if self._source.file is not None:
                group.create_task(self._on_change(self._source.file), name="reload:file")

    async def reload(self, cause: str) -> Reload:
        """Reads the configuration and applies it, or says what is wrong with it."""
        async with self._turn:
            try:
                # Files are read, and contracts checked, beside the event loop.
                read = await asyncio.to_thread(lambda: configuration_of(self._source.read()))
                self._last = await self._applied(read, cause)
            except SettingsError as exc:
                self._last = Reload(_now(), cause, "invalid", str(exc))
            except Exception as exc:
                # Whatever is wrong with a file, it must not end the watch over it.
                logger.exception("reading the configuration failed")
                self._last = Reload(_now(), cause, "invalid", f"{type(exc).__name__}: {exc}")
            self.counts[self._last.outcome] += 1
            self._observer.config_reloaded(outcome=self._last.outcome)
            self._tell(self._last)
            return self._last

    async def _applied(self, read: Configuration, cause: str) -> Reload:
        now = self._fleet.configuration.settings
        wanted = read.settings
        fixed = {"server": now.server, "limits": now.limits, "telemetry": now.telemetry}
        needs_restart = tuple(
            f"{section}.{name}"
            for section, before in fixed.items()
            for name in type(before).model_fields
            if getattr(getattr(wanted, section), name) != getattr(before, name)
        )
        settings = wanted.model_copy(update=fixed)
        changes = await self._fleet.apply(Configuration(settings, read.contracts))
        if wanted.log_level != now.log_level:
            logging.getLogger().setLevel(wanted.log_level.upper())
        return Reload(_now(), cause, "ok", changes=changes, needs_restart=needs_restart)

    def _tell(self, done: Reload) -> None:
        if done.outcome == "invalid":
            logger.error("the configuration is not usable, and the one before goes on (%s): %s", done.cause, done.error)
            return
        changes = done.changes
        logger.info(
            "the configuration was reloaded (%s): endpoints kept: %s; connected: %s; closed: %s",
            done.cause,
            *(", ".join(names) or "none" for names in (changes.kept, changes.connected, changes.closed)),
        )
        if done.needs_restart:
            logger.warning("these changes wait for a restart: %s", ", ".join(done.needs_restart))

    async def _on_signal(self) -> None:
        while True:
            await self._source.wanted.wait()
            self._source.wanted.clear()
            await self.reload("signal")

    async def _on_change(self, file: Path) -> None:
        async with aclosing(changes_of(file, self._source.state)) as changes:
            async for _ in changes:
                await self.reload("file")


async def changes_of(file: Path, before: State | None = None) -> AsyncGenerator[None, None]:
    """Tells of each change of a file's content, a while after it: also where the file, or any link on the way to it, is
    replaced by another, as editors and Kubernetes' config maps do. `before` is the state that is known, now's if None.
    """
    before = before or await asyncio.to_thread(state_of, file)
    while True:
        folders = await asyncio.to_thread(_folders, file)
        watch = awatch(
            *folders,
            watch_filter=None,
            debounce=BUSY_MS,
            step=QUIET_MS,
            rust_timeout=LOOK_MS,
            yield_on_timeout=True,
            recursive=False,
        )
        try:
            async with aclosing(watch) as events:
                async for _ in events:
                    now = await asyncio.to_thread(state_of, file)
                    if now != before:
                        before = now
                        yield
                    if await asyncio.to_thread(_folders, file) != folders:
                        break
        except OSError as exc:
            logger.warning("changes of %s cannot be seen now: %s", file, exc)
            await asyncio.sleep(RETRY_SECONDS)


def state_of(file: Path) -> State:
    """What changes whenever the content of a file does; () where there is none."""
    try:
        status = file.stat()
    except OSError:
        return ()
    return file.resolve(), status.st_ino, status.st_mtime_ns, status.st_size


def _folders(file: Path) -> tuple[Path, ...]:
    """The folders in which the file, and every link that leads to it, has its name."""
    found = [file.absolute().parent.resolve()]
    hop = file.absolute()
    while hop.is_symlink() and len(found) <= MOST_LINKS:
        hop = hop.parent / hop.readlink()
        found.append(hop.parent.resolve())
    return tuple(dict.fromkeys(found))


def _now() -> datetime:
    return datetime.now(UTC)
