"""TensorFlow Serving over REST, always in column form (model_servers/http_rest_api_handler.cc).

A JSON answer states neither datatypes nor the version that gave it. Datatypes come from the model's metadata, kept
per version; a request without a version is sent to the newest available one by number, so that the version in our
answer is true.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import quote

from gateway.backends.channel import CONTROL_TIMEOUT_S, MAX_REPLY_BYTES, named, time_left
from gateway.backends.errors import TFSERVING, bad_reply, probing, tfserving_http_error
from gateway.backends.http_pool import HttpPool, HttpReply
from gateway.backends.tfserving_grpc import MARK, UNSTATED, described
from gateway.codecs import tfserving_json
from gateway.codecs.tfserving_proto import signature_not_found
from gateway.core.backend import Cancel, Done, ModelState
from gateway.core.clock import Clock, SystemClock
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import (
    DEFAULT_SIGNATURE,
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ModelSpec,
    TensorSpec,
)

# Versions and labels are few; the cap only keeps callers who invent names from filling memory.
_MAX_METADATA = 64


@dataclass(frozen=True, slots=True)
class _Way:
    """How requests for one spec are sent: as which, with its version where there is one, where, and what they give."""

    model: ModelSpec
    url: str
    outputs: tuple[TensorSpec, ...]


@dataclass(slots=True)
class _Known:
    """What was last heard of one model: its versions, and the signatures of those asked for since they changed.

    `ways` is what follows from that, for the specs that were asked for.
    """

    versions: tuple[int, ...]
    signatures: dict[ModelSpec, Mapping[str, ModelMetadata]]
    ways: dict[ModelSpec, _Way] = field(default_factory=dict)


class TfServingRest:
    """The backend for one TensorFlow Serving REST port; `base_url` is such as `http://127.0.0.1:8501`.

    `server` names the program where it bears no mark of its own.
    """

    def __init__(
        self,
        base_url: str,
        *,
        server: str | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self._http = HttpPool(server=TFSERVING, max_reply_bytes=max_reply_bytes)
        self._base_url = base_url.rstrip("/")
        self._configured = server
        self._clock = clock or SystemClock()
        self._known: dict[str, _Known] = {}
        self._tasks: set[asyncio.Task[InferenceResponse]] = set()

    async def infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """One predict call; the first of a model also asks for its status and metadata."""
        try:
            return await self._infer(request, context)
        except GatewayError as exc:
            if exc.cause is not Cause.VERSION_NOT_FOUND or request.model.version is not None:
                raise
            # The version that was the newest is gone. It was refused, not computed, so asking its successor is safe.
            self._known.pop(request.model.name, None)
            return await self._infer(request, context)

    def start(self, request: InferenceRequest, context: CallContext, done: Done) -> Cancel | None:
        """The same without waiting, where it is known how to ask and a connection is kept."""
        known = self._known.get(request.model.name)
        way = None if known is None else known.ways.get(request.model)
        if way is None:
            return None
        sent = _as(way, request)
        cancel: list[Cancel] = []

        def ended(outcome: HttpReply | BaseException) -> None:
            if isinstance(outcome, BaseException):
                done(outcome)
                return
            try:
                response = tfserving_json.decode_response(_checked(outcome).body, sent, way.outputs)
            except GatewayError as exc:
                if exc.cause is not Cause.VERSION_NOT_FOUND or request.model.version is not None:
                    done(exc)
                else:
                    cancel[:] = [self._ask_next(request, context, done)]
            except Exception as exc:
                done(exc)
            else:
                done(response)

        first = self._http.start(
            "POST",
            way.url,
            timeout_s=time_left(context, self._clock),
            body=tfserving_json.encode_request(sent),
            content_type="application/json",
            headers=context.sent_along,
            ended=ended,
        )
        if first is None:
            return None
        cancel.append(first)

        def stop() -> None:
            cancel[0]()

        return stop

    def _ask_next(self, request: InferenceRequest, context: CallContext, done: Done) -> Cancel:
        """Asks, in a task, for the successor of the version that is gone; `infer` says why."""
        self._known.pop(request.model.name, None)
        task = asyncio.create_task(self._infer(request, context), name="ask the next version")
        self._tasks.add(task)

        def ended(task: asyncio.Task[InferenceResponse]) -> None:
            self._tasks.discard(task)
            done(asyncio.CancelledError() if task.cancelled() else task.exception() or task.result())

        task.add_done_callback(ended)

        def cancel() -> None:
            task.cancel()

        return cancel

    async def server(self) -> str:
        """The name in the mark that the SavedModel server puts on every answer."""
        with probing(TFSERVING):
            reply = await self._http.request("GET", f"{self._base_url}/v1/models", timeout_s=CONTROL_TIMEOUT_S)
        # TensorFlow Serving answers 400 here, as JSON; whatever answers otherwise is something else.
        mark = reply.headers.get(MARK)
        if not mark and not reply.json:
            raise bad_reply(TFSERVING, f"HTTP status {reply.status} without JSON; is this its REST port?")
        return named(mark, self._configured, UNSTATED)

    async def model_state(self, model: str) -> ModelState:
        """The AVAILABLE versions, newest first, with the newest one's metadata.

        It is asked anew each time: a server that was started again may serve something else under the same version.
        """
        known = await self._refresh(model, CONTROL_TIMEOUT_S)
        if not known.versions:
            return ModelState(())
        newest = ModelSpec(model, version=known.versions[0])
        try:
            signatures = await self._fetch(newest, CONTROL_TIMEOUT_S)
        except GatewayError as exc:
            # A version that was unloaded between the two questions is no reason to call its successor unavailable.
            if exc.cause is not Cause.VERSION_NOT_FOUND:
                raise
            return ModelState(known.versions)
        if known.signatures.get(newest, signatures) != signatures:
            known.signatures.clear()
            known.ways.clear()
        known.signatures[newest] = signatures
        return described(known.versions, signatures)

    async def models(self) -> None:
        """None: TensorFlow Serving lists no models."""

    async def close(self) -> None:
        """Closes every connection; calls in flight fail with UPSTREAM_LOST."""
        await self._http.close()

    async def _infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        left = time_left(context, self._clock)
        model = request.model
        known = self._known.get(model.name) or await self._refresh(model.name, left)
        way = known.ways.get(model) or await self._way(known, model, context)
        request = _as(way, request)
        reply = await self._http.request(
            "POST",
            way.url,
            timeout_s=time_left(context, self._clock),
            body=tfserving_json.encode_request(request),
            content_type="application/json",
            headers=context.sent_along,
        )
        return tfserving_json.decode_response(_checked(reply).body, request, way.outputs)

    async def _way(self, known: _Known, model: ModelSpec, context: CallContext) -> _Way:
        """How to send requests for `model`; raises NOT_READY without a version, and as `_outputs`."""
        addressed = model
        if model.version is None and model.label is None:
            if not known.versions:
                raise GatewayError(Cause.NOT_READY, f"model '{model.name}' has no available version")
            addressed = replace(model, version=known.versions[0])
        outputs = await self._outputs(known, addressed, time_left(context, self._clock))
        way = known.ways[model] = _Way(addressed, f"{self._base_url}{_path(addressed)}:predict", outputs)
        return way

    async def _refresh(self, model: str, timeout_s: float) -> _Known:
        versions = tfserving_json.decode_status((await self._get(_path(ModelSpec(model)), timeout_s)).body)
        known = self._known.get(model)
        if known is None or known.versions != versions:
            known = self._known[model] = _Known(versions, {})
        # A label may point elsewhere tomorrow without any version coming or going.
        for spec in [spec for spec in known.signatures if spec.label is not None]:
            del known.signatures[spec]
        known.ways.clear()
        return known

    async def _outputs(self, known: _Known, model: ModelSpec, timeout_s: float) -> tuple[TensorSpec, ...]:
        """What one version or label answers under a signature; raises SIGNATURE_NOT_FOUND for an unknown one."""
        addressed = replace(model, signature_name=None)
        signatures = known.signatures.get(addressed)
        if signatures is None:
            signatures = await self._fetch(addressed, timeout_s)
            if len(known.signatures) >= _MAX_METADATA:
                known.signatures.clear()
                known.ways.clear()
            known.signatures[addressed] = signatures
        signature = model.signature_name or DEFAULT_SIGNATURE
        if signature not in signatures:
            raise signature_not_found(model.name, signature, signatures)
        return signatures[signature].outputs

    async def _fetch(self, model: ModelSpec, timeout_s: float) -> Mapping[str, ModelMetadata]:
        return tfserving_json.decode_signatures((await self._get(f"{_path(model)}/metadata", timeout_s)).body)

    async def _get(self, path: str, timeout_s: float) -> HttpReply:
        return _checked(await self._http.request("GET", self._base_url + path, timeout_s=timeout_s))


def _as(way: _Way, request: InferenceRequest) -> InferenceRequest:
    """The request with the version that it is sent to."""
    if way.model is request.model:
        return request
    return InferenceRequest(way.model, request.inputs, request.wanted, request.parameters, request.id)


@lru_cache(maxsize=1024)
def _path(model: ModelSpec) -> str:
    """The path of a model, version or label; TensorFlow Serving decodes percent signs after matching."""
    path = f"/v1/models/{quote(model.name, safe='')}"
    if model.version is not None:
        return f"{path}/versions/{model.version}"
    return path if model.label is None else f"{path}/labels/{quote(model.label, safe='')}"


def _checked(reply: HttpReply) -> HttpReply:
    if reply.status == HTTPStatus.OK:
        return reply
    if reply.status == HTTPStatus.NOT_FOUND and not reply.json:
        # Outside /v1/ TensorFlow Serving answers 404 as HTML.
        raise bad_reply(TFSERVING, "HTTP status 404 without JSON; is this its REST port?")
    raise tfserving_http_error(reply.status, tfserving_json.error_text(reply.body))
