"""Variants that end while TorchServe loads them: dropped from what is served, each with its reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from serving import probes
from serving.models import BuiltModel
from serving.processes import LaunchError
from serving.settings import LaunchSettings, Ports

# A worker that ends while it loads is started again, for five minutes: the second time it is no accident.
LOAD_FAILURES = 2
# Of a worker's lines in TorchServe's log: the model that it has, and what it says.
LINE = re.compile(r" W-\d+-(\S+)_[^\s_]+-stdout MODEL_LOG - (.*)")
DIED = "Backend worker process died."
ERROR = re.compile(r"[\w.]*(?:Error|Exception|Unloadable)\b")


class Loading:
    """What TorchServe lacks until all its models are loaded; variants that end while they load are dropped.

    `names` are the models' on the server, `droppable` those of them that are variants. `report` is told of each that is
    dropped.
    """

    def __init__(
        self,
        settings: LaunchSettings,
        ports: Ports,
        names: Iterable[str],
        droppable: Iterable[str] = (),
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._host, self._management, self._report = settings.host, ports.torchserve_management_port, report
        self._log = settings.run_dir / "logs" / "torchserve.log"
        self._names, self._droppable = list(names), frozenset(droppable)
        self._waits_for = probes.torchserve_waits_for(
            self._host, ports.torchserve_rest_port, self._management, self._names
        )
        self.dropped: dict[str, str] = {}
        """Why each that was dropped is not served, by its name on the server."""

    def waiting_for(self) -> str | None:
        """What is still missing, None where nothing is; raises LaunchError where a default variant does not load."""
        missing = self._waits_for()
        if missing is None:
            return None
        for name, reason in failed(self._log):
            if name not in self._names or probes.torchserve_has_worker(self._host, self._management, name):
                continue
            if name not in self._droppable:
                raise LaunchError(f"TorchServe: '{name}' ends while it loads: {reason}; more is in {self._log}")
            self._drop(name, f"it ends while TorchServe loads it: {reason}")
        return missing

    def _drop(self, name: str, reason: str) -> None:
        self._names.remove(name)
        self.dropped[name] = reason
        self._report(f"left out: {name}: {reason}; more is in {self._log}")
        # Else its worker would be started again and again.
        probes.ask(self._host, self._management, f"/models/{name}?min_worker=0&max_worker=0", "PUT")


def failed(log: Path) -> Iterator[tuple[str, str]]:
    """The models whose worker has ended LOAD_FAILURES times while it loaded, each with the error that it told."""
    deaths, errors, last_words = dict[str, int](), dict[str, str](), dict[str, str]()
    for line in log.read_text(errors="replace").splitlines() if log.is_file() else ():
        found = LINE.search(line)
        if found is None:
            continue
        name, text = found.groups()
        if text == DIED:
            deaths[name] = deaths.get(name, 0) + 1
        elif ERROR.match(text):
            words = text.strip(" .")
            if name not in deaths:
                errors[name] = words
            else:
                # Without an error before it, the first one behind its end is the traceback of what ended it.
                last_words.setdefault(name, words)
    for name, count in deaths.items():
        if count >= LOAD_FAILURES:
            yield name, errors.get(name) or last_words.get(name) or "no error is in its log"


def without(models: Iterable[BuiltModel], dropped: Mapping[str, str]) -> list[BuiltModel]:
    """The models with what was dropped, by its name on the server, among what is unavailable."""
    return [
        replace(
            model,
            variants=tuple(one for one in model.variants if one.served_name not in dropped),
            unavailable={
                **model.unavailable,
                **{one.name: dropped[one.served_name] for one in model.variants if one.served_name in dropped},
            },
        )
        for model in models
    ]
