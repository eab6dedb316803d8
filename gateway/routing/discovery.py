"""From what the model servers say that they have to the table of routes. No I/O: the health watch asks.

A model of the configuration keeps its targets; where it has no contract, that is made of its servers' own metadata. A
model that the configuration does not list is routed to every endpoint that has it: the first of them to describe its
tensors gives the contract, and the others have to agree with it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from gateway.core.backend import ModelState
from gateway.core.clock import Clock, SystemClock
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.routing.endpoint import Target, in_contract_names
from gateway.routing.table import DEFAULT_TRAFFIC, MAX_SHOWN_NAME, Route, RouteTable, Traffic
from gateway.routing.wanted import Wanted

logger = logging.getLogger(__name__)

# Models taken from one endpoint unasked, and all names that ever were: each becomes label values of metrics, for good.
MAX_TAKEN = 256
MAX_NAMES = 1024

Answer = ModelState | GatewayError

_SKELETON = {
    "schema": 1,
    "name": "",
    "version": 1,
    "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 2]}],
    "batch_cap": 64,
    "finite": "allowed",
}


@dataclass(frozen=True, slots=True)
class Listed:
    """A model of the configuration; without a contract it is made of the targets' own metadata."""

    contract: ModelContract | None
    targets: tuple[Target, ...]
    labels: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    traffic: Traffic = DEFAULT_TRAFFIC
    unavailable: Mapping[str, str] = field(default_factory=dict)

    @property
    def watched(self) -> tuple[Target, ...]:
        """The targets whose servers have to be asked about it: its own, and its mirror's."""
        mirror = self.traffic.mirror
        return self.targets if mirror is None else (*self.targets, mirror.target)


# Of dimension 0 of a tensor that only its server describes nobody has said that it is a batch.
UNLISTED = Listed(None, (), traffic=Traffic(batching=None))


@dataclass(frozen=True, slots=True)
class Plan:
    """What the configuration says of models.

    `take` has every endpoint in order, with the names of the models to take from it: None for all that it lists.
    """

    listed: Mapping[str, Listed]
    take: Mapping[str, tuple[str, ...] | None]
    hints: Mapping[str, str] = field(default_factory=dict)
    """By endpoint, what else has to be written for a model there whose tensors are not described."""


class Discovery:
    """What each endpoint was last heard to have, and the table that follows from it and the configuration.

    What an endpoint said stays true while it is silent: its models are then known, and not ready. One that cannot list
    its models is asked about those known by name from elsewhere, and about those that clients ask for.
    """

    def __init__(self, plan: Plan, clock: Clock | None = None) -> None:
        self._plan = plan
        self._wanted = Wanted(clock or SystemClock())
        self._taken: dict[str, tuple[str, ...]] = {}
        self._states: dict[tuple[str, str], ModelState] = {}
        self._refusals: dict[str, dict[str, str]] = {}
        self._unlisting: set[str] = set()
        self._names: set[str] = set()
        self._full: set[str] = set()

    def renewed(self, plan: Plan, kept: Collection[str]) -> Discovery:
        """The same for another plan: what the `kept` endpoints were heard to have is known to it too."""
        other = Discovery(plan)
        other._wanted = self._wanted
        other._names = set(self._names)
        other._full = self._full.intersection(kept)
        other._unlisting = {name for name in self._unlisting.intersection(kept) if other.depends(name)}
        other._states = {key: state for key, state in self._states.items() if key[0] in kept}
        other._refusals = {name: dict(texts) for name, texts in self._refusals.items() if name in kept}
        for name, taken in self._taken.items():
            if name in kept:
                configured = plan.take.get(name)
                other._taken[name] = other._take(name, taken) if configured is None else configured
        return other

    def asks_for_list(self, endpoint: str) -> bool:
        """Whether all models of an endpoint are to be taken, so that it has to list them."""
        return self._plan.take.get(endpoint) is None

    def depends(self, endpoint: str) -> bool:
        """Whether nothing is known of an endpoint's use until it says what it has: no listed model names it."""
        return not self._of_listed(endpoint) and self._plan.take.get(endpoint) != ()

    def seek(self, model: str) -> tuple[str, ...]:
        """The endpoints that are asked, at their next check, for a model that a client wants and nobody listed.

        Not those of which the configuration says what they are for, and not for a name that a server could take for
        more of a path than a name: many decode a path before they route it.
        """
        if not _usable(model) or _path_like(model) or not self._wanted.want(model, sorted(self._unlisting)):
            return ()
        return tuple(name for name in sorted(self._unlisting) if model in self._wanted.names(name))

    def to_ask(self, endpoint: str, listed: tuple[str, ...] | None) -> tuple[str, ...]:
        """The models to ask an endpoint about that lists these, or None: cannot list any."""
        configured = self._plan.take.get(endpoint)
        if configured is not None:
            return self._with_listed(endpoint, configured)
        if listed is not None:
            self._unlisting.discard(endpoint)
            return self._with_listed(endpoint, listed)
        if self.depends(endpoint):
            self._unlisting.add(endpoint)
        elsewhere = [name for take in self._plan.take.values() for name in take or ()]
        elsewhere += [name for names in self._taken.values() for name in names]
        return self._with_listed(endpoint, (*elsewhere, *self._wanted.names(endpoint)))

    def known(self, endpoint: str) -> tuple[str, ...]:
        """The models to ask an endpoint about that did not say which it has: those heard of before."""
        return self._with_listed(endpoint, self._taken.get(endpoint, ()))

    def hear(self, endpoint: str, listed: tuple[str, ...] | None, answers: Mapping[str, Answer]) -> None:
        """Notes what an endpoint has, by its list as for `to_ask` and by its answer on each model of that."""
        self.hear_of(endpoint, answers)
        configured = self._plan.take.get(endpoint)
        if configured is not None:
            self._taken[endpoint] = configured
        elif listed is not None:
            self._taken[endpoint] = self._take(endpoint, listed)
        else:
            self._taken[endpoint] = self._take(endpoint, [name for name in answers if (endpoint, name) in self._states])

    def hear_of(self, endpoint: str, answers: Mapping[str, Answer]) -> None:
        """Notes an endpoint's answers on models, of those that it has as far as is known."""
        # Only of the last answers: what clients invent is refused too, and must not add up.
        self._refusals[endpoint] = {
            model: answer.detail for model, answer in answers.items() if isinstance(answer, GatewayError)
        }
        for model, answer in answers.items():
            self._hear_of(endpoint, model, answer)
        for key in [key for key in self._states if key[0] == endpoint and key[1] not in answers]:
            del self._states[key]

    def table(self) -> RouteTable:
        """The routes that follow; models without one have the reason."""
        routes: dict[str, Route] = {}
        unrouted: dict[str, str] = {}
        for name, listed in self._plan.listed.items():
            made: Route | str
            if listed.contract is not None:
                made = Route.of(
                    listed.contract,
                    listed.targets,
                    listed.labels,
                    listed.versions,
                    listed.traffic,
                    listed.unavailable,
                )
            else:
                made = self._made(name, listed.targets, listed.targets, listed)
            _sort(name, made, routes, unrouted)
        left_out: dict[str, str] = {}
        for name, targets in self._discovered().items():
            having = tuple(target for target in targets if (target.endpoint, name) in self._states)
            described = tuple(target for target in having if self._states[(target.endpoint, name)].signatures)
            _sort(name, self._made(name, described, having or targets), routes, unrouted)
            others = tuple(target for target in having if target not in described)
            if described and others:
                left_out[name] = "; ".join(self._left_out(name, described, target) for target in others)
        awaited = tuple(name for name in self._plan.take if name not in self._taken and self.depends(name))
        return RouteTable(routes, unrouted, awaited, left_out)

    def _of_listed(self, endpoint: str) -> list[str]:
        targets = (target for listed in self._plan.listed.values() for target in listed.watched)
        return [target.model for target in targets if target.endpoint == endpoint]

    def _with_listed(self, endpoint: str, names: Iterable[str]) -> tuple[str, ...]:
        own = [name for name in names if _usable(name) and name not in self._plan.listed]
        return tuple(dict.fromkeys([*self._of_listed(endpoint), *own[:MAX_TAKEN]]))

    def _hear_of(self, endpoint: str, model: str, answer: Answer) -> None:
        key = (endpoint, model)
        if isinstance(answer, GatewayError):
            if answer.cause is Cause.MODEL_NOT_FOUND:
                self._states.pop(key, None)
                self._wanted.missed(model, endpoint)
            return
        self._wanted.found(model)
        if answer.signatures or key not in self._states:
            # A server tells nothing of the tensors of a model that it is only just loading.
            self._states[key] = answer

    def _take(self, endpoint: str, names: Iterable[str]) -> tuple[str, ...]:
        """Those of `names` that become models here: within the bounds, and not listed in the configuration."""
        usable = [name for name in dict.fromkeys(names) if _usable(name) and name not in self._plan.listed]
        taken = []
        for name in usable[:MAX_TAKEN]:
            if name in self._names or len(self._names) < MAX_NAMES:
                self._names.add(name)
                taken.append(name)
        if len(taken) < len(usable) and endpoint not in self._full:
            self._full.add(endpoint)
            logger.warning(
                "endpoint %s has %d models, of which %d are taken; name those to serve by `models` of the endpoint",
                endpoint,
                len(usable),
                len(taken),
            )
        return tuple(taken)

    def _discovered(self) -> dict[str, list[Target]]:
        found: dict[str, list[Target]] = {}
        for endpoint, configured in self._plan.take.items():
            for name in self._taken.get(endpoint, configured or ()):
                if name not in self._plan.listed:
                    found.setdefault(name, []).append(Target(endpoint, name))
        return found

    def _made(
        self, name: str, targets: tuple[Target, ...], asked: Iterable[Target], listed: Listed = UNLISTED
    ) -> Route | str:
        """The route whose contracts are the metadata of the first target that has some; or why there is none."""
        for target in targets:
            state = self._states.get((target.endpoint, target.model))
            if state is not None and state.signatures:
                contracts = {
                    signature: ModelContract.of(name, in_contract_names(metadata, target.names))
                    for signature, metadata in state.signatures.items()
                }
                return Route(
                    contracts,
                    targets,
                    listed.labels,
                    listed.versions,
                    source=target.endpoint,
                    traffic=listed.traffic,
                    unavailable=listed.unavailable,
                )
        return "; ".join(self._why(name, target) for target in asked)

    def _why(self, name: str, target: Target) -> str:
        key = (target.endpoint, target.model)
        state = self._states.get(key)
        if state is not None and state.versions:
            return _contract_wanted(name, target) + self._plan.hints.get(target.endpoint, "")
        refusal = self._refusals.get(target.endpoint, {}).get(target.model)
        if refusal is None:
            refusal = "has not answered yet" if state is None else "no version of it can answer yet"
        return f"endpoint '{target.endpoint}': {refusal}"

    def _left_out(self, name: str, described: Iterable[Target], target: Target) -> str:
        entry = json.dumps({name: {"targets": [_written(name, item) for item in (*described, target)]}})
        return (
            f"endpoint '{target.endpoint}' has it too, and does not describe its tensors; if they are the same, write "
            f"in gateway.yaml: models: {entry}{self._plan.hints.get(target.endpoint, '')}"
        )


def _contract_wanted(name: str, target: Target) -> str:
    """What to write for a model whose server does not describe its tensors."""
    file = f"{name}.json"
    entry = json.dumps({name: {"contract": file, "targets": [_written(name, target)]}})
    return (
        f"endpoint '{target.endpoint}' does not describe its tensors. Write them to {file}, after this example: "
        f"{json.dumps({**_SKELETON, 'name': name})}; and in gateway.yaml, beside it: models: {entry}"
    )


def _written(name: str, target: Target) -> dict[str, str]:
    return {"endpoint": target.endpoint, **({"model": target.model} if target.model != name else {})}


def _sort(name: str, made: Route | str, routes: dict[str, Route], unrouted: dict[str, str]) -> None:
    if isinstance(made, Route):
        routes[name] = made
    else:
        unrouted[name] = made


def _usable(name: str) -> bool:
    # A name becomes part of paths, of metrics and of log lines.
    return 0 < len(name) <= MAX_SHOWN_NAME and name.isprintable()


def _path_like(name: str) -> bool:
    return name in (".", "..") or "/" in name or "\\" in name
