"""Which endpoints are fit to be sent requests, and which models they have: asked when the gateway starts, and after.

The watch follows the table of routes, which may be replaced at any time; where it is told to discover, it makes a new
table of what the servers say that they have.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Hashable, Iterable

from gateway.core.backend import ModelState
from gateway.core.errors import Cause, GatewayError
from gateway.core.observer import Observer
from gateway.routing.discovery import Answer, Discovery
from gateway.routing.endpoint import UNVERIFIED, Endpoint, Status, Target, Verdict, judge
from gateway.routing.table import Route, RouteTable

logger = logging.getLogger(__name__)

CANNOT_LIST = (
    "it has no way to list its models: they are looked for when a client first asks, whose request is answered 503, "
    "unless they are named, by --model NAME or by `models` of the endpoint"
)

Publish = Callable[[RouteTable], None]


class HealthMonitor:
    """Keeps a verdict for every (model, target) by asking the servers; `run` is its one task.

    An endpoint that does not answer is unverified and gets no requests until it answers and its metadata
    agrees with the contract. Checks never wait behind inference: they take no slot.

    The endpoints stay what they are; where they change, a new monitor takes over from the one `before` what it knows
    of those that were `kept`.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        *,
        observer: Observer,
        interval_s: float = 2.0,
        retry_interval_s: float = 0.5,
        timeout_s: float = 5.0,
        before: HealthMonitor | None = None,
        kept: Collection[str] = (),
    ) -> None:
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._observer = observer
        self._interval_s = interval_s
        self._retry_interval_s = retry_interval_s
        self._timeout_s = timeout_s
        self._table = RouteTable({})
        self._discovery: Discovery | None = None
        self._publish: Publish = self.follow
        self._verdicts: dict[tuple[Hashable, ...], Verdict] = {}
        self._answers: dict[str, dict[str, Answer]] = {}
        self._silent: dict[str, str] = {}
        self._unlisted: dict[str, str] = {}
        self._woken = {name: asyncio.Event() for name in self._endpoints}
        if before is not None:
            self._take_over(before, kept)

    @property
    def table(self) -> RouteTable:
        """The routes whose targets are watched."""
        return self._table

    def follow(self, table: RouteTable) -> None:
        """From now on the targets of this table are watched; what their servers said last is judged anew."""
        self._table = table
        kept = {
            (model, target.key): self.verdict(model, target)
            for model, route in table.routes.items()
            for target in route.watched
        }
        self._verdicts = {key: verdict for key, verdict in kept.items() if verdict is not UNVERIFIED}
        for name in self._endpoints:
            self._judge(name)

    def discover(self, discovery: Discovery, publish: Publish) -> None:
        """From now on the servers are also asked what they have; a table that follows from it goes to `publish`."""
        self._discovery = discovery
        self._publish = publish
        publish(discovery.table())

    def publish_to(self, publish: Publish) -> None:
        """From now on a table that follows from what the servers say goes to `publish`."""
        self._publish = publish

    def verdict(self, model: str, target: Target) -> Verdict:
        """The last verdict on a target of a model's route."""
        return self._verdicts.get((model, target.key), UNVERIFIED)

    def seek(self, model: str) -> bool:
        """Has a model looked for that nobody listed, at servers that cannot list theirs; returns whether it is."""
        asked = () if self._discovery is None else self._discovery.seek(model)
        for endpoint in asked:
            self._woken[endpoint].set()
        return bool(asked)

    def trouble(self, endpoint: str) -> str:
        """Why an endpoint does not answer, or does not list its models; '' where it does."""
        silence = self._silent.get(endpoint)
        return self._unlisted.get(endpoint, "") if silence is None else f"does not answer: {silence}"

    async def run(self) -> None:
        """Checks every endpoint for ever, each at its own pace; ends by cancellation."""
        async with asyncio.TaskGroup() as group:
            for endpoint in self._endpoints.values():
                group.create_task(self._watch(endpoint), name=f"health:{endpoint.name}")

    async def check_all(self) -> None:
        """Asks every endpoint once, all at the same time."""
        found = await asyncio.gather(*map(self.check, self._endpoints.values()), return_exceptions=True)
        for name, result in zip(self._endpoints, found, strict=True):
            if isinstance(result, Exception):
                logger.error("checking endpoint %s failed", name, exc_info=result)

    async def check(self, endpoint: Endpoint) -> bool:
        """Asks one endpoint what it is, has, and can answer; returns whether all its models here are ready."""
        ready = await self._check(endpoint)
        self._observer.endpoint_checked(endpoint=endpoint.name, stack=endpoint.stack, verified=ready)
        return ready

    async def _check(self, endpoint: Endpoint) -> bool:
        try:
            async with asyncio.timeout(self._timeout_s):
                server = await endpoint.backend.server()
        except (GatewayError, TimeoutError) as exc:
            self._silent[endpoint.name] = _error(exc).detail
            self._judge(endpoint.name)
            return False
        self._silent.pop(endpoint.name, None)
        if server != endpoint.server:
            logger.info("endpoint %s is %s", endpoint.name, server)
            endpoint.server = server
            self._observer.endpoint_seen(
                endpoint=endpoint.name, stack=endpoint.stack, server=server, stand_in=endpoint.stand_in
            )
        if self._discovery is not None:
            await self._explore(endpoint, self._discovery)
        else:
            await self._ask_about(endpoint, [target.model for _, _, target in self._targets(endpoint.name)])
        return self._judge(endpoint.name)

    def _take_over(self, before: HealthMonitor, kept: Collection[str]) -> None:
        self._table = before._table
        self._verdicts = {
            (model, target.key): before.verdict(model, target)
            for model, route in before._table.routes.items()
            for target in route.watched
            if target.endpoint in kept
        }
        self._answers = {name: dict(answers) for name, answers in before._answers.items() if name in kept}
        self._silent = {name: text for name, text in before._silent.items() if name in kept}
        self._unlisted = {name: text for name, text in before._unlisted.items() if name in kept}

    async def _explore(self, endpoint: Endpoint, discovery: Discovery) -> None:
        """Asks an endpoint which models it has and how they are, and publishes the table that follows, if it is new."""
        listed: tuple[str, ...] | None = ()
        if discovery.asks_for_list(endpoint.name):
            try:
                async with asyncio.timeout(self._timeout_s):
                    listed = await endpoint.backend.models()
            except (GatewayError, TimeoutError) as exc:
                self._note_unlisted(endpoint.name, f"its models cannot be listed: {_error(exc).detail}")
                discovery.hear_of(endpoint.name, await self._ask_about(endpoint, discovery.known(endpoint.name)))
                self._renew(discovery)
                return
            quiet = listed is not None or not discovery.depends(endpoint.name)
            self._note_unlisted(endpoint.name, "" if quiet else CANNOT_LIST)
        answers = await self._ask_about(endpoint, discovery.to_ask(endpoint.name, listed))
        discovery.hear(endpoint.name, listed, answers)
        self._renew(discovery)

    def _renew(self, discovery: Discovery) -> None:
        table = discovery.table()
        if table != self._table:
            _tell(self._table, table)
            self._publish(table)

    async def _ask_about(self, endpoint: Endpoint, models: Iterable[str]) -> dict[str, Answer]:
        answers = {model: await self._ask(endpoint, model) for model in dict.fromkeys(models)}
        self._answers[endpoint.name] = answers
        return answers

    def _note_unlisted(self, endpoint: str, text: str) -> None:
        if self._unlisted.get(endpoint, "") != text:
            self._unlisted[endpoint] = text
            if text:
                logger.warning("endpoint %s: %s", endpoint, text)

    async def _ask(self, endpoint: Endpoint, model: str) -> Answer:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await endpoint.backend.model_state(model)
        except (GatewayError, TimeoutError) as exc:
            return _error(exc)

    async def _watch(self, endpoint: Endpoint) -> None:
        while True:
            try:
                ready = await self.check(endpoint)
            except Exception:
                # A bug in one check must not end the watch: the endpoint would never come back.
                logger.exception("checking endpoint %s failed", endpoint.name)
                ready = False
            # At least this long, whoever wants what: it bounds what is asked of a server.
            await asyncio.sleep(self._retry_interval_s)
            if ready:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s - self._retry_interval_s):
                        await self._woken[endpoint.name].wait()
            self._woken[endpoint.name].clear()

    def _targets(self, endpoint: str) -> list[tuple[str, Route, Target]]:
        return [
            (model, route, target)
            for model, route in self._table.routes.items()
            for target in route.watched
            if target.endpoint == endpoint
        ]

    def _judge(self, endpoint: str) -> bool:
        """Gives every target at an endpoint its verdict, by what was last heard; returns whether all are ready."""
        ready = True
        for model, route, target in self._targets(endpoint):
            verdict = self._verdict_now(route, target)
            if verdict is None:
                ready = False
                continue
            before = self.verdict(model, target)
            self._verdicts[(model, target.key)] = verdict
            ready = ready and verdict.status is Status.READY
            if before.status is not verdict.status:
                level = logging.INFO if verdict.status is Status.READY else logging.WARNING
                logger.log(level, "endpoint %s, model %s: %s %s", endpoint, model, verdict.status.value, verdict.reason)
        return ready

    def _verdict_now(self, route: Route, target: Target) -> Verdict | None:
        silence = self._silent.get(target.endpoint)
        if silence is not None:
            return Verdict(Status.UNVERIFIED, f"does not answer: {silence}")
        answer = self._answers.get(target.endpoint, {}).get(target.model)
        if isinstance(answer, ModelState):
            return judge(route.contracts, target, answer, route.source)
        if answer is None:
            return None
        known = answer.cause in (Cause.MODEL_NOT_FOUND, Cause.NOT_READY)
        return Verdict(Status.NOT_READY if known else Status.UNVERIFIED, answer.detail)


def _error(exc: GatewayError | TimeoutError) -> GatewayError:
    return exc if isinstance(exc, GatewayError) else GatewayError(Cause.UPSTREAM_UNREACHABLE, "no answer in time")


def _tell(before: RouteTable, after: RouteTable) -> None:
    for model, route in after.routes.items():
        if model not in before.routes:
            logger.info("model %s is on %s", model, ", ".join(target.endpoint for target in route.targets))
    for model in before.routes:
        if model not in after.routes:
            logger.warning("model %s is gone: %s", model, after.unrouted.get(model, "no endpoint has it any more"))
    for model, reason in after.unrouted.items():
        if before.unrouted.get(model) != reason:
            logger.warning("model %s cannot be answered: %s", model, reason)
    for model, reason in after.left_out.items():
        if before.left_out.get(model) != reason:
            logger.warning("model %s: %s", model, reason)
