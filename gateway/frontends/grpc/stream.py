"""One inference over gRPC, and ModelStreamInfer: many of them over one call, each with its own reply."""

from __future__ import annotations

import asyncio
from itertools import count

from gateway.codecs import oip_proto
from gateway.core.errors import Cause, GatewayError, capped
from gateway.frontends.edge import Call, Edge, failure
from gateway.frontends.grpc.calls import MAX_DETAIL, Context, abort, request_id, selection

# How soon a stream that waits for its client notices that the gateway drains.
STREAM_POLL_SECONDS = 0.5


class Inference:
    """A ModelInferRequest's way to its ModelInferResponse, both serialised: admitted, bounded and reported once."""

    def __init__(self, edge: Edge, protocol: str) -> None:
        self.protocol = protocol
        self._edge = edge

    async def outcome(self, call: Call, data: bytes, context: Context) -> bytes | GatewayError:
        """The answer, or why there is none; raises only the cancellation of the RPC."""
        cause: Cause | None = Cause.INTERNAL
        try:
            with self._edge.admission.admit() as ticket:
                ticket.take(len(data))
                encoded = await self._infer(call, data, context)
            cause = None
            return encoded
        except asyncio.CancelledError:
            # gRPC cancels the handler when the client cancels, or its deadline passes; then nobody hears an answer.
            cause = self._edge.abandoned(call)
            raise
        except Exception as exc:
            error = failure(call.context.request_id, exc)
            cause = error.cause
            return error
        finally:
            self._edge.finish(call, cause)

    async def _infer(self, call: Call, data: bytes, context: Context) -> bytes:
        remaining = context.time_remaining()
        if remaining is not None:
            self._edge.allow(call, remaining)
        self._edge.seconds_left(call)
        timings = call.context.timings
        with timings.phase("decode"):
            decoded = oip_proto.decode_request(data)
        response = await self._edge.infer(call, decoded.request, selection(context))
        with timings.phase("encode"):
            return oip_proto.encode_response(response, raw=decoded.raw)


class InferenceStream:
    """ModelStreamInfer: the requests of one call are answered one after the other, as they were sent.

    The next one is read once the last is answered, so that a client cannot pile up work here: HTTP/2 holds it back.
    """

    def __init__(self, edge: Edge, inference: Inference, *, poll_s: float) -> None:
        self._edge = edge
        self._inference = inference
        self._poll_s = poll_s

    async def serve(self, _requests: object, context: Context) -> None:
        """Answers until the client has no more to send. A request's failure is its reply's, and the call goes on."""
        identity = request_id(context)
        context.set_trailing_metadata((("x-request-id", identity),))
        for number in count(1):
            data = await self._next(identity, context)
            if data is None:
                return
            call = self._edge.open(self._inference.protocol, f"{identity}-{number}")
            outcome = await self._inference.outcome(call, data, context)
            if isinstance(outcome, GatewayError):
                reply = oip_proto.encode_stream_error(capped(outcome.detail, MAX_DETAIL), data)
            else:
                reply = oip_proto.encode_stream_answer(outcome)
            await context.write(reply)

    async def _next(self, identity: str, context: Context) -> bytes | None:
        """The next request, None after the last. Ends the call where the gateway drains and the client is silent."""
        reading: asyncio.Future[object] = asyncio.ensure_future(context.read())
        try:
            while not (await asyncio.wait([reading], timeout=self._poll_s))[0]:
                if not self._edge.data_plane.accepting:
                    # A stream that stays open would hold up the server's end until its grace is over.
                    gone = GatewayError(Cause.NOT_READY, "the gateway is shutting down; open the stream again")
                    await abort(context, gone, (("x-request-id", identity),))
        finally:
            reading.cancel()
        message = reading.result()
        return message if isinstance(message, bytes) else None
