"""Which endpoints are fit to be sent requests: asked when the gateway starts, and again and again after."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Iterable, Mapping

from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.observer import Observer
from gateway.routing.endpoint import UNVERIFIED, Endpoint, Status, Target, Verdict, judge

logger = logging.getLogger(__name__)


class HealthMonitor:
    """Keeps a verdict for every (endpoint, model) by asking the servers; `run` is its one task.

    An endpoint that does not answer is unverified and gets no requests until it answers and its metadata
    agrees with the contract. Checks never wait behind inference: they take no slot.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        routes: Mapping[str, tuple[ModelContract, tuple[Target, ...]]],
        *,
        observer: Observer,
        interval_s: float = 2.0,
        retry_interval_s: float = 0.5,
        timeout_s: float = 5.0,
    ) -> None:
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._targets = [(name, contract, target) for name, (contract, targets) in routes.items() for target in targets]
        self._observer = observer
        self._interval_s = interval_s
        self._retry_interval_s = retry_interval_s
        self._timeout_s = timeout_s
        self._verdicts: dict[tuple[Hashable, ...], Verdict] = {}

    def verdict(self, model: str, target: Target) -> Verdict:
        """The last verdict on a target of a model's route."""
        return self._verdicts.get((model, target.key), UNVERIFIED)

    async def run(self) -> None:
        """Checks every endpoint for ever, each at its own pace; ends by cancellation."""
        async with asyncio.TaskGroup() as group:
            for endpoint in self._endpoints.values():
                group.create_task(self._watch(endpoint), name=f"health:{endpoint.name}")

    async def check(self, endpoint: Endpoint) -> bool:
        """Asks one endpoint about all its models; returns whether all of them are ready."""
        mine = [asked for asked in self._targets if asked[2].endpoint == endpoint.name]
        try:
            async with asyncio.timeout(self._timeout_s):
                server = await endpoint.backend.server()
        except (GatewayError, TimeoutError) as exc:
            self._set_all(endpoint, mine, Verdict(Status.UNVERIFIED, f"does not answer: {_reason(exc)}"))
            return False
        if server != endpoint.server:
            logger.info("endpoint %s is %s", endpoint.name, server)
            endpoint.server = server
            self._observer.endpoint_seen(
                endpoint=endpoint.name, stack=endpoint.stack, server=server, stand_in=endpoint.stand_in
            )
        verdicts = [await self._ask(endpoint, *asked) for asked in mine]
        return all(verdict.status is Status.READY for verdict in verdicts)

    async def _ask(self, endpoint: Endpoint, model: str, contract: ModelContract, target: Target) -> Verdict:
        try:
            async with asyncio.timeout(self._timeout_s):
                verdict = judge(contract, target, await endpoint.backend.model_state(target.model))
        except GatewayError as exc:
            known = exc.cause in (Cause.MODEL_NOT_FOUND, Cause.NOT_READY)
            verdict = Verdict(Status.NOT_READY if known else Status.UNVERIFIED, exc.detail)
        except TimeoutError as exc:
            verdict = Verdict(Status.UNVERIFIED, _reason(exc))
        self._set(endpoint, model, target, verdict)
        return verdict

    async def _watch(self, endpoint: Endpoint) -> None:
        while True:
            try:
                ready = await self.check(endpoint)
            except Exception:
                # A bug in one check must not end the watch: the endpoint would never come back.
                logger.exception("checking endpoint %s failed", endpoint.name)
                ready = False
            await asyncio.sleep(self._interval_s if ready else self._retry_interval_s)

    def _set_all(self, endpoint: Endpoint, mine: list[tuple[str, ModelContract, Target]], verdict: Verdict) -> None:
        for model, _, target in mine:
            self._set(endpoint, model, target, verdict)

    def _set(self, endpoint: Endpoint, model: str, target: Target, verdict: Verdict) -> None:
        before = self.verdict(model, target)
        self._verdicts[(model, target.key)] = verdict
        if before.status is not verdict.status:
            level = logging.INFO if verdict.status is Status.READY else logging.WARNING
            logger.log(
                level, "endpoint %s, model %s: %s %s", endpoint.name, model, verdict.status.value, verdict.reason
            )


def _reason(exc: BaseException) -> str:
    return exc.detail if isinstance(exc, GatewayError) else "no answer in time"
