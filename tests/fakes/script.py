"""What a fake model server is told to do next, and what it tells afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gateway.core.messages import TensorSpec

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class FakeModel:
    """A model of a fake server. `compute` maps input arrays to output arrays; BYTES are object arrays of `bytes`."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    compute: Callable[[Arrays], Arrays]
    versions: tuple[int, ...] = (1,)
    labels: Mapping[str, int] = field(default_factory=dict)
    others: Mapping[str, FakeModel] = field(default_factory=dict)
    """What it is under other signatures than the default one, where the server knows signatures."""


def echo(datatype: str, name: str | None = None, versions: tuple[int, ...] = (1,)) -> FakeModel:
    """`y` is `x`, [-1, 2] of `datatype`; the model is called `echo_<datatype>` unless it is given a name."""
    return FakeModel(
        name or f"echo_{datatype.lower()}",
        (TensorSpec("x", datatype, (-1, 2)),),
        (TensorSpec("y", datatype, (-1, 2)),),
        lambda arrays: {"y": arrays["x"]},
        versions,
    )


def double(name: str = "double", versions: tuple[int, ...] = (1,)) -> FakeModel:
    """`y` is twice `x` and `sum` the sum of each row; FP32 [-1, 2] in, [-1, 2] and [-1] out."""
    return FakeModel(
        name,
        (TensorSpec("x", "FP32", (-1, 2)),),
        (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("sum", "FP32", (-1,))),
        lambda arrays: {"y": arrays["x"] * np.float32(2), "sum": arrays["x"].sum(axis=1, dtype=np.float32)},
        versions,
    )


class Behaviour:
    """One way to treat an inference call."""


@dataclass(frozen=True, slots=True)
class Compute(Behaviour):
    """Answers with what the model computes."""


@dataclass(frozen=True, slots=True)
class Refuse(Behaviour):
    """The model refuses the input, in the server's own form."""

    text: str = "Matrix size-incompatible: In[0]: [1,3], In[1]: [2,1]"


@dataclass(frozen=True, slots=True)
class Fail(Behaviour):
    """The model's code fails."""


@dataclass(frozen=True, slots=True)
class QueueFull(Behaviour):
    """The server's own queue has no room."""


@dataclass(frozen=True, slots=True)
class Lose(Behaviour):
    """The connection is cut after the request was read."""


@dataclass(frozen=True, slots=True)
class Garbage(Behaviour):
    """An answer with the status of success and bytes that do not decode."""

    data: bytes = b"\xff\xff\xff\xff{"


@dataclass(frozen=True, slots=True)
class Oversized(Behaviour):
    """An answer of `size` bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class Hang(Behaviour):
    """Never answers; ends when the caller goes away."""


@dataclass(frozen=True, slots=True)
class Hold(Behaviour):
    """Sets `reached`, waits for `release`, then answers with what the model computes."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> None:
        """Returns once the test lets the call go on."""
        self.reached.set()
        await self.release.wait()


@dataclass(frozen=True, slots=True)
class Paced(Hold):
    """A server of scripted capacity: each call waits for one of the `turns` that the test gives, then answers."""

    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def wait(self) -> None:
        """Returns once it is this call's turn; calls take turns in the order in which they came."""
        self.reached.set()
        await self.turns.acquire()


@dataclass(frozen=True, slots=True)
class Takes(Hold):
    """A server of known speed: each call takes so many `seconds`, and answers."""

    seconds: float = 0.0

    async def wait(self) -> None:
        """Returns when they are over."""
        self.reached.set()
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True, slots=True)
class Status(Behaviour):
    """A status of the transport's own, HTTP number or gRPC code name, with a text; `kind` is TorchServe's type."""

    status: int | str
    text: str = ""
    kind: str = "InternalServerException"


class Gauge:
    """A number that a test can wait for; `most` is the largest that it ever was."""

    def __init__(self) -> None:
        self.value = 0
        self.most = 0
        self._changed = asyncio.Event()

    def add(self, change: int) -> None:
        """Changes the number and wakes whoever waits."""
        self.value += change
        self.most = max(self.most, self.value)
        self._changed.set()

    async def reaches(self, number: int) -> None:
        """Returns when the number is `number`; fails after 5 s."""
        async with asyncio.timeout(5):
            while self.value != number:
                self._changed.clear()
                await self._changed.wait()


class Script:
    """Behaviours for the inference calls to come, and what became of all calls.

    `calls` counts by kind of call: `predict`, `status`, `metadata`, `describe`, `server`; `in_flight` holds the
    inference calls being served; `heard` has the headers of each, by names in lower case; over gRPC
    the metadata of any call.
    """

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.otherwise: Behaviour = Compute()
        self.calls: Counter[str] = Counter()
        self.in_flight = Gauge()
        self._next: deque[Behaviour] = deque()

    def then(self, *behaviours: Behaviour) -> None:
        """The next inference calls, one behaviour each; after them `otherwise` again."""
        self._next.extend(behaviours)

    def hear(self, headers: Iterable[tuple[str, Any]] | None) -> None:
        """Keeps the headers or metadata of one call."""
        self.heard.append({name.lower(): value for name, value in headers or ()})

    @contextmanager
    def serving(self) -> Iterator[Behaviour]:
        """One inference call: counted, given its behaviour, in flight until the body ends."""
        self.calls["predict"] += 1
        self.in_flight.add(1)
        try:
            yield self._next.popleft() if self._next else self.otherwise
        finally:
            self.in_flight.add(-1)


async def forever() -> None:
    """Waits until it is cancelled."""
    await asyncio.Event().wait()
