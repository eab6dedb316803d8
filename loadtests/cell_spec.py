"""What one measured cell is: one target, one model, one scenario, in one round. Plain data, shared by all that measure.

The words are those of docs/glossary.md; times are seconds, rates are requests a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from loadtests.errors import LoadTestError

Protocol = Literal[
    "predict", "oip-rest", "oip-grpc", "tfserving-rest", "tfserving-grpc", "torchserve-rest", "torchserve-grpc"
]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
Path = Literal["direct", "gateway"]
Transport = Literal["rest", "grpc"]
TRANSPORTS: tuple[Transport, ...] = get_args(Transport)
STACKS = ("torchserve", "tfserving")
# The mark that the SavedModel server puts into its own name; nothing is said between the stacks where it answered.
STAND_IN = "(stand-in)"
Kind = Literal[
    "single_stream",
    "multi_stream",
    "server",
    "offline",
    "curve",
    "overload",
    "burst",
    "mixed",
    "cold",
    "soak",
]
Arrivals = Literal["poisson", "constant", "gamma", "closed"]
# What a p99 needs, with a few late ones among them: MLPerf's early stopping asks 838 with two.
TRY_REQUESTS = 850
LONGEST_TRY_S = 120.0


@dataclass(frozen=True, slots=True)
class Target:
    """An address that answers a protocol.

    `stack` tells servers apart: `torchserve`, `tfserving`, what the user calls the server, or empty where the target is
    a thing of its own. `path` says whether a gateway is between; `upstream_protocol` is what that speaks to the server
    where it is known. `pins` are the HTTP headers (or gRPC metadata) that send a request to one endpoint of a gateway.
    `served_as` is the name by which the server knows the model, where that is another than ours.
    `parity` is off for a server that cannot answer the golden inputs, an oracle for example: then replies count by
    their status alone.
    """

    name: str
    protocol: Protocol
    address: str
    model: str
    variant: str = ""
    stack: str = ""
    path: Path = "direct"
    upstream_protocol: str = ""
    server: str = ""
    pins: Mapping[str, str] = field(default_factory=dict)
    parity: bool = True
    served_as: str = ""

    @property
    def asked_for(self) -> str:
        """The model's name in a request."""
        return self.served_as or self.model

    @property
    def transport(self) -> Transport:
        """What the client speaks."""
        return "grpc" if self.protocol.endswith("grpc") else "rest"


@dataclass(frozen=True, slots=True)
class Step:
    """`seconds` of arrivals at `rate` requests a second; `rate` 0 is a pause."""

    rate: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Load:
    """How requests arrive.

    Open loop (`poisson`, `constant`, `gamma` with its coefficient of variation `cv`): `steps` say when, whatever the
    server does. `closed`: `concurrency` clients that each wait for their answer, for the `seconds` of the steps, whose
    rate is 0. `max_in_flight` guards the generator's memory: an arrival beyond it is dropped, counted and a miss.
    """

    kind: Kind
    arrivals: Arrivals
    steps: tuple[Step, ...]
    warm_up_seconds: float = 30.0
    warm_up_requests: int = 1000
    concurrency: int = 1
    rows: int = 1
    cv: float = 1.0
    max_in_flight: int = 2000
    timeout_seconds: float = 10.0
    workers: int = 1
    # Connections of each worker over gRPC; over REST each request under way has one of its own.
    channels: int = 4

    @property
    def seconds(self) -> float:
        """How long arrivals last, warm-up and stragglers not counted."""
        return sum(step.seconds for step in self.steps)


@dataclass(frozen=True, slots=True)
class CellSpec:
    """One cell in one round. `scenario` names the scenario of the campaign, `scenario_index` seeds it.

    The schedule's seed is made of `campaign_seed`, `scenario_index`, `round`, step and worker: the target is not in it,
    so two targets get the same instants and the same questions.
    """

    slug: str
    target: Target
    scenario: str
    load: Load
    campaign_seed: int = 0
    scenario_index: int = 0
    round: int = 0
    order_in_round: int = 0
    slo_ms: float | None = None
    # Asked beside `target` in a cell of mixed models, each arrival by an equal draw.
    others: tuple[Target, ...] = ()
    # The A/A control measures one target twice under two names; `control` holds the other's slug.
    control: str = ""

    @property
    def targets(self) -> tuple[Target, ...]:
        """All that the cell asks."""
        return (self.target, *self.others)

    def to_json(self) -> dict[str, Any]:
        """As `from_json` takes it."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], source: str = "cell") -> CellSpec:
        """The cell of `to_json`; raises LoadTestError naming `source` where it is not one."""
        try:
            load = dict(document["load"])
            load["steps"] = tuple(Step(**step) for step in load["steps"])
            targets = Target(**document["target"]), tuple(Target(**other) for other in document.get("others", ()))
            return cls(**{**document, "target": targets[0], "others": targets[1], "load": Load(**load)})
        except (KeyError, TypeError) as exc:
            raise LoadTestError(f"{source}: not a cell: {exc}") from exc


def at_rate(cell: CellSpec, rate: float, attempt: int) -> CellSpec:
    """One try of a search; at a low rate it lasts longer, so that its requests suffice to tell."""
    steps = tuple(Step(rate, max(step.seconds, min(TRY_REQUESTS / rate, LONGEST_TRY_S))) for step in cell.load.steps)
    return replace(cell, slug=f"{cell.slug}-try{attempt:02}", load=replace(cell.load, steps=steps))
