"""The versions of every model: their states, who uses them, and what is to be loaded and unloaded next.

`plan` decides without touching anything (AvailabilityPreservingPolicy: an old version goes only once a new one can
take its place); `Versions` is the thread-safe table that both doors resolve their requests in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from grpc import StatusCode
from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from serving.tfserving.savedmodel_server.errors import ServingError, invalid
from serving.tfserving.savedmodel_server.executor import Servable

_State = get_model_status_pb2.ModelVersionStatus


class State(IntEnum):
    """A version's life, numbered as on the wire."""

    START = _State.START
    LOADING = _State.LOADING
    AVAILABLE = _State.AVAILABLE
    UNLOADING = _State.UNLOADING
    END = _State.END


@dataclass(slots=True)
class Version:
    """One version of one model, and the requests that use it now."""

    model: str
    number: int
    path: Path
    state: State = State.START
    error: ServingError | None = None
    servable: Servable | None = None
    in_flight: int = 0
    aspired: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next for one model, in this order."""

    load: tuple[int, ...] = ()
    unload: tuple[int, ...] = ()


def plan(aspired: frozenset[int], known: Mapping[int, Version]) -> Plan:
    """What brings a model to its aspired versions.

    A version that failed is not tried again as long as it stays aspired; one that comes back later is.
    """
    load = [number for number in sorted(aspired) if number not in known or _may_load_again(known[number])]
    available = {number for number, version in known.items() if version.state is State.AVAILABLE}
    replaced = not aspired or bool(available & aspired)
    return Plan(tuple(load), tuple(sorted(available - aspired)) if replaced else ())


def _may_load_again(version: Version) -> bool:
    return version.state is State.END and (version.error is None or not version.aspired)


class Versions:
    """Which versions there are; every method may be called from any thread.

    `on_drained` is called, once and outside the lock, with a version that is unloading and no longer used.
    """

    def __init__(self, on_drained: Callable[[Version], None]) -> None:
        # None until the first configuration.
        self._labels: Mapping[str, Mapping[str, int]] | None = None
        self._on_drained = on_drained
        self._models: dict[str, dict[int, Version]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def using(self, spec: model_pb2.ModelSpec) -> Iterator[tuple[int, Servable]]:
        """The version that a ModelSpec asks for, kept from unloading meanwhile.

        Raises INVALID_ARGUMENT for an empty name or an unknown label, NOT_FOUND for an unknown model or version, and
        UNAVAILABLE for a label before there is any configuration.
        """
        version, servable = self._enter(spec)
        try:
            yield version.number, servable
        finally:
            with self._lock:
                version.in_flight -= 1
                drained = version.state is State.UNLOADING and version.in_flight == 0
            if drained:
                self._on_drained(version)

    def of(self, model: str) -> dict[int, Version]:
        """A copy of what is known of a model, newest version first; empty for an unknown one."""
        with self._lock:
            known = self._models.get(model, {})
            return {number: known[number] for number in sorted(known, reverse=True)}

    def labelled(self, model: str, label: str) -> int | None:
        """The version of a model that a label names; None where there is no such label."""
        with self._lock:
            return (self._labels or {}).get(model, {}).get(label)

    def relabel(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Replaces the labels of all models."""
        with self._lock:
            self._labels = labels

    def add(self, version: Version) -> None:
        """Puts a version into the table, or a new life of it in the old one's place."""
        with self._lock:
            self._models.setdefault(version.model, {})[version.number] = version

    def aspire(self, model: str, aspired: Iterable[int]) -> None:
        """Notes which versions of a model are wanted now."""
        wanted = frozenset(aspired)
        with self._lock:
            for number, version in self._models.get(model, {}).items():
                version.aspired = number in wanted

    def loading(self, version: Version) -> None:
        """The version is being loaded."""
        with self._lock:
            version.state = State.LOADING

    def available(self, version: Version, servable: Servable) -> None:
        """The version may be used from now on."""
        with self._lock:
            version.servable, version.state = servable, State.AVAILABLE

    def ended(self, version: Version, error: ServingError | None = None) -> None:
        """The version is gone, or never came, because of `error`."""
        with self._lock:
            version.servable, version.state, version.error = None, State.END, error

    def unload(self, version: Version) -> None:
        """Hands the version out no more; it ends once it is no longer used."""
        with self._lock:
            version.state = State.UNLOADING
            drained = version.in_flight == 0
        if drained:
            self._on_drained(version)

    def _enter(self, spec: model_pb2.ModelSpec) -> tuple[Version, Servable]:
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        number: int | None = None
        match spec.WhichOneof("version_choice"):
            case "version":
                number = spec.version.value
            case "version_label":
                if self._labels is None:
                    raise ServingError(StatusCode.UNAVAILABLE, "Model labels does not init yet.")
                number = self.labelled(spec.name, spec.version_label)
                if number is None:
                    raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        with self._lock:
            known = self._models.get(spec.name, {})
            usable = [version for version in known.values() if version.state is State.AVAILABLE]
            if number is not None:
                usable = [version for version in usable if version.number == number]
            chosen = max(usable, key=lambda version: version.number, default=None)
            if chosen is None or chosen.servable is None:
                asked = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
                raise ServingError(StatusCode.NOT_FOUND, f"Servable not found for request: {asked}")
            chosen.in_flight += 1
            return chosen, chosen.servable
