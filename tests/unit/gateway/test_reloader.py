"""A reading of the configuration, and what comes of it, with a fleet in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from gateway.core.observer import NullObserver
from gateway.fleet import Changes
from gateway.plan import Configuration
from gateway.reload import Reloader, Source
from gateway.settings import Settings, SettingsError


class FakeFleet:
    """Takes a configuration, or says why it cannot."""

    def __init__(self, refuses: str = "") -> None:
        self.configuration = Configuration(settings("info"), {})
        self._refuses = refuses

    async def apply(self, configuration: Configuration) -> Changes:
        if self._refuses:
            raise SettingsError(self._refuses)
        self.configuration = configuration
        return Changes()


def settings(log_level: str) -> Settings:
    return Settings(endpoints={"a": {"stack": "noop"}}, log_level=log_level)


@pytest.fixture
def logs() -> Iterator[logging.Logger]:
    """The logger whose level is set, as it is before and after."""
    root = logging.getLogger()
    before = root.level
    root.setLevel("INFO")
    yield root
    root.setLevel(before)


async def test_another_log_level_takes_effect(logs: logging.Logger) -> None:
    """With the rest of the configuration."""
    done = await Reloader(FakeFleet(), Source(lambda: settings("error")), NullObserver()).reload("file")
    assert done.outcome == "ok"
    assert logs.level == logging.ERROR


async def test_what_cannot_be_applied_changes_no_log_level(logs: logging.Logger) -> None:
    """All or nothing."""
    fleet = FakeFleet(refuses="worker 2: endpoint a cannot be connected")
    done = await Reloader(fleet, Source(lambda: settings("error")), NullObserver()).reload("file")
    assert (done.outcome, done.error) == ("invalid", "worker 2: endpoint a cannot be connected")
    assert logs.level == logging.INFO
