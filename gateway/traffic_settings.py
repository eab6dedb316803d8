"""How a model's requests are spread, as `gateway.yaml` says it: policy, stickiness, batching, mirror, retry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

Share = Annotated[float, Field(ge=0, le=1)]
PolicyName = Literal["failover", "pinned", "weighted", "sticky", "round_robin", "least_request", "fastest", "compare"]


class Frozen(BaseModel):
    """A part of the configuration: immutable, with no field but those that are described."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class StickySettings(Frozen):
    """What policy `sticky` holds on to."""

    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
    """The header, or gRPC metadata, whose value decides; a request without it goes by its own digest."""


class BatchingSettings(Frozen):
    """How requests are coalesced while an endpoint is busy; both are capped by the model's contract."""

    max_size: PositiveInt = 64
    """The most rows that one call carries; 1 turns batching off."""
    max_bytes: PositiveInt = 16_777_216
    """The most bytes of inputs that one call carries."""


class MirrorSettings(Frozen):
    """A second endpoint that gets copies of live requests, whose answers are only compared."""

    endpoint: str
    """The name of an entry under `endpoints`."""
    share: Share
    """Which share of the requests is copied."""
    model: str | None = None
    """The model's name there, where it differs."""
    version: int | None = None
    """The version to ask there; without it the one that the client's request names, or the server's newest."""
    label: str | None = None
    """The version to ask there by its name under the model's `labels`, in place of `version`."""
    names: dict[str, str] = {}
    """The server's own tensor names, by the contract's, where they differ."""
    keep_payloads: bool = False
    """Whether the worst mismatches are kept with inputs and answers, which may be confidential."""


class RetrySettings(Frozen):
    """When a request that was certainly not processed is tried at another endpoint."""

    max_attempts: Annotated[int, Field(ge=1, le=5)] = 2
    """Tries per request, the first included; 1 turns retrying off."""
    budget: Share = 0.1
    """Retries at most, as a share of all requests to the model."""


class TrafficSettings(Frozen):
    """The part of a model's route that says how its requests are spread."""

    policy: PolicyName = "failover"
    """How a target is chosen; see docs/routing.md."""
    cross_stack: bool = False
    """Whether retry and failover may go to another stack than the policy chose: only where parity has passed."""
    sticky: StickySettings | None = None
    """What policy `sticky` holds on to; without it the request's own digest."""
    batching: BatchingSettings | Literal[False] | None = None
    """How requests are coalesced; false turns it off. Without it, models with a contract are, by the defaults."""
    mirror: MirrorSettings | None = None
    """Where copies go."""
    retry: RetrySettings = RetrySettings()
    """When a second try is made."""
