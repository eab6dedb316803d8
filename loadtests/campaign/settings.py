"""The content of campaign.yaml: the only place that knows its fields, their limits and their defaults.

Every field's docstring is its line in docs/benchmarking.md; a test holds the two together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from loadtests.cell_spec import Kind, Path, Protocol

Tier = Literal["demo", "quick", "run"]
Name = Annotated[str, Field(min_length=1, max_length=80)]

# How long a cell measures and is warmed up where the scenario does not say, in seconds.
DURATION_S: dict[Tier, float] = {"demo": 3.0, "quick": 5.0, "run": 60.0}
WARM_UP_S: dict[Tier, float] = {"demo": 1.0, "quick": 3.0, "run": 30.0}

_LOAD = ("duration_s", "warm_up_s", "warm_up_requests", "rows", "timeout_s")
_OPEN = (*_LOAD, "rate", "arrivals", "slo_ms", "workers", "max_in_flight")
# Which fields each kind takes beside `name` and `kind`, and which it cannot do without.
FIELDS: dict[Kind, tuple[str, ...]] = {
    "single_stream": (*_LOAD, "slo_ms"),
    "multi_stream": (*_LOAD, "slo_ms"),
    "server": _OPEN,
    "offline": (*_LOAD, "concurrency"),
    "curve": (*(name for name in _OPEN if name != "rate"), "rates"),
    "overload": _OPEN,
    "burst": (*_OPEN, "cv"),
    "mixed": _OPEN,
    "cold": ("duration_s", "rows", "timeout_s"),
    "soak": _OPEN,
}
REQUIRED: dict[Kind, tuple[str, ...]] = {
    "curve": ("rates",),
    "overload": ("rate",),
    "burst": ("rate",),
    "mixed": ("rate",),
    "soak": ("rate",),
}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ScenarioSettings(_Strict):
    """How requests arrive. `FIELDS` has the fields that each kind takes."""

    name: Name
    """What the scenario is called in the report."""
    kind: Kind
    """What is done; see the table of kinds."""
    rate: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Requests a second. `server` without it searches for the highest rate that meets `slo_ms`."""
    rates: Annotated[tuple[Annotated[float, Field(gt=0, le=1_000_000)], ...], Field(min_length=1)] | None = None
    """`curve`: requests a second of each step up; the same steps follow back down."""
    arrivals: Literal["poisson", "constant", "gamma"] | None = None
    """How an open loop's arrivals are spread: `poisson` unless given, `gamma` for `burst`."""
    cv: Annotated[float, Field(gt=0, le=10)] = 3.0
    """`burst`: the coefficient of variation of the gaps; 1 is Poisson."""
    duration_s: Annotated[float, Field(gt=0, le=604_800)] | None = None
    """How long is measured; of `curve` and `overload` each step. 60 unless given, 5 in a quick campaign."""
    warm_up_s: Annotated[float, Field(ge=0, le=3600)] | None = None
    """How long requests are sent before they count. 30 unless given, 3 in a quick campaign."""
    warm_up_requests: Annotated[int, Field(ge=0)] | None = None
    """How many requests are sent, at least, before they count: 1000, in a quick campaign 1, unless given."""
    rows: PositiveInt | tuple[PositiveInt, ...] | None = None
    """Golden rows in each request; a list makes a scenario of each. 1 unless given, 8 for `multi_stream`."""
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 32
    """`offline`: how many requests are under way at once."""
    slo_ms: PositiveFloat | None = None
    """The latency objective of this scenario; the campaign's unless given."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """How many processes generate the load."""
    max_in_flight: Annotated[int, Field(ge=1, le=100_000)] = 2000
    """Arrivals beyond so many unanswered requests are dropped by the generator, counted, and misses."""
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """After how many seconds a request counts as a timeout."""

    @model_validator(mode="after")
    def _fields_of_the_kind(self) -> Self:
        given = self.model_fields_set - {"name", "kind"}
        allowed = FIELDS[self.kind]
        if wrong := sorted(given - set(allowed)):
            raise PydanticCustomError(
                "wrong_field",
                "{kind} takes no {wrong}; it takes: {allowed}",
                {"kind": self.kind, "wrong": ", ".join(wrong), "allowed": ", ".join(allowed), "field": wrong[0]},
            )
        missing = [name for name in REQUIRED.get(self.kind, ()) if getattr(self, name) is None]
        if missing:
            raise PydanticCustomError(
                "missing_field", "{kind} needs {missing}", {"kind": self.kind, "missing": ", ".join(missing)}
            )
        if self.arrivals == "gamma" and self.kind != "burst":
            raise PydanticCustomError(
                "wrong_field", "gamma arrivals are for kind burst; here: poisson, constant", {"field": "arrivals"}
            )
        return self


class TargetSettings(_Strict):
    """What is measured: a configured stack (`stack`), or any address that speaks a protocol (`address`).

    A string is short for a stack: `torchserve-rest`, `torchserve-grpc`, `tfserving-rest`, `tfserving-grpc`, each also
    as `gateway/torchserve-rest`; `all` is all eight.
    """

    name: Name | None = None
    """What the target is called in the report; made of the other fields unless given."""
    stack: Literal["torchserve", "tfserving"] | None = None
    """A stack that `twinserve up` runs, started where it does not run. With `address`: which stack answers there."""
    transport: Literal["rest", "grpc"] = "rest"
    """With `stack`: which of the stack's protocols is spoken, through the gateway: by the gateway."""
    pin: Literal["endpoint", "stack"] = "endpoint"
    """With `path: gateway` and no `address`: `stack` leaves it to the gateway how it speaks to the stack."""
    path: Path = "direct"
    """`gateway` asks the stack through the gateway; beside `address` it says that a gateway answers there."""
    protocol: Protocol | None = None
    """What the generator speaks. With `stack`: its own, through the gateway `predict` or `oip-grpc`, unless given."""
    address: str | None = None
    """`host:port` or `http://host:port` of a server that you run."""
    model: Name | None = None
    """With `address`: the model it serves; every model of the campaign unless given."""
    served_as: Name | None = None
    """With `address`: the name by which the server knows the model, where that is another than `model`."""
    variant: str | None = None
    """With `address`: which export of the model it serves, such as `torchscript`, where you know."""
    server: str = ""
    """With `address`: what the server is, such as `Triton 2.60`. Targets of one server are given the same one."""
    upstream: Protocol | None = None
    """With `address` and `path: gateway`: what the gateway there speaks to the server, where you know."""
    config: Literal["default", "tuned"] = "default"
    """Whether the server runs as it comes, or was tuned; the report keeps the two apart."""
    tuning_trials: PositiveInt | None = None
    """With `config: tuned`: how many configurations were tried for it. Two that are compared had as many each."""
    parity: bool | None = None
    """Whether its answers are compared with the golden ones; the campaign's unless given."""
    price_per_hour: NonNegativeFloat | None = None
    """What the server costs an hour, in any currency; the campaign's unless given."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:  # noqa: ANN401 - whatever the file holds
        return SHORT_FORMS.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if self.stack is None and self.address is None:
            raise PydanticCustomError("target", "expected either `stack` or `address`")
        if self.address is not None and self.protocol is None:
            raise PydanticCustomError("target", "a target with `address` needs `protocol`")
        own = {"model", "served_as", "variant", "server", "upstream"} & self.model_fields_set
        if self.configured is not None and (given := sorted(own)):
            raise PydanticCustomError(
                "wrong_field",
                "`{field}` goes with `address`; of a configured stack it is known",
                {"field": given[0]},
            )
        if "pin" in self.model_fields_set and (self.address is not None or self.path == "direct"):
            raise PydanticCustomError(
                "wrong_field", "`pin` goes with `path: gateway` and without `address`", {"field": "pin"}
            )
        if self.tuning_trials is not None and self.config == "default":
            raise PydanticCustomError(
                "wrong_field", "`tuning_trials` goes with `config: tuned`", {"field": "tuning_trials"}
            )
        if self.upstream is not None and self.path == "direct":
            raise PydanticCustomError("wrong_field", "`upstream` goes with `path: gateway`", {"field": "upstream"})
        if self.address is not None and "transport" in self.model_fields_set:
            raise PydanticCustomError(
                "wrong_field", "`transport` goes without `address`; `protocol` says it there", {"field": "transport"}
            )
        return self

    @property
    def configured(self) -> Literal["torchserve", "tfserving"] | None:
        """The stack of `twinserve up` that is asked; None of a server at an address."""
        return self.stack if self.address is None else None


SHORT_FORMS: dict[str, dict[str, Any]] = {
    f"{prefix}{stack}-{transport}": {"stack": stack, "transport": transport, "path": path}
    for prefix, path in (("", "direct"), ("gateway/", "gateway"))
    for stack in ("torchserve", "tfserving")
    for transport in ("rest", "grpc")
}


class Campaign(_Strict):
    """A whole campaign: every scenario on every target with every model, `rounds` times."""

    name: Name = "campaign"
    """What the campaign is called in the report and in the name of its folder; the file's name unless given."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides the order of the cells and every arrival; the same seed gives the same schedule."""
    rounds: Annotated[int, Field(ge=1, le=1000)] = 10
    """How often everything is repeated; the round is the unit of the statistics, and a verdict needs 6 or more."""
    tier: Tier = "run"
    """How strict the validity rules are, and how long cells last by default: only `run` gives a verdict."""
    slo_ms: PositiveFloat | None = None
    """The latency objective: 99 % of the requests within so many milliseconds of their scheduled instant."""
    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Built models, by name: their golden inputs are the questions that are asked."""
    variants: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Which exports of the models are measured, such as `torchscript, aotinductor`; each stack's own unless given."""
    parity: bool = True
    """Whether answers are compared with the golden ones, before and during the run; a target may say otherwise."""
    scenarios: Annotated[tuple[ScenarioSettings, ...], Field(min_length=1)]
    """What is done with each target."""
    targets: Annotated[tuple[TargetSettings, ...], Field(min_length=1)]
    """What is measured."""
    price_per_hour: NonNegativeFloat | None = None
    """What a server costs an hour, in any currency: gives the cost of a million requests."""
    utilisation: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Which share of its highest rate a server is planned to run at; for the cost."""
    cool_down_s: Annotated[float, Field(ge=0, le=600)] | None = None
    """How long nothing is sent between two cells: 5, in a quick campaign 0, unless given."""

    @model_validator(mode="before")
    @classmethod
    def _all_targets(cls, value: Any) -> Any:  # noqa: ANN401 - whatever the file holds
        if isinstance(value, dict) and value.get("targets") in ("all", ["all"]):
            return {**value, "targets": list(SHORT_FORMS)}
        return value

    def duration_of(self, scenario: ScenarioSettings) -> float:
        """Seconds that a cell, or a step of one, measures."""
        return scenario.duration_s if scenario.duration_s is not None else DURATION_S[self.tier]

    def slo_of(self, scenario: ScenarioSettings) -> float | None:
        """The scenario's latency objective in milliseconds; None where it is about throughput or the start alone."""
        if scenario.kind in ("offline", "cold"):
            return None
        return scenario.slo_ms if scenario.slo_ms is not None else self.slo_ms
