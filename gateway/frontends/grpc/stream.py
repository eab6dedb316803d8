"""ModelStreamInfer: many inferences over one call, each with its own reply."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

from gateway.codecs import oip_stream
from gateway.core.errors import Cause, GatewayError, capped
from gateway.frontends.edge import Call, Edge
from gateway.frontends.grpc.calls import MAX_DETAIL, Context, Sent, abort, metadata_of, open_call, request_id

# How soon a stream that waits for its client notices that the gateway drains.
STREAM_POLL_SECONDS = 0.5

Outcome = Callable[[Call, bytes, Context, Sent], Awaitable[bytes | GatewayError]]


class InferenceStream:
    """ModelStreamInfer: the requests of one call are answered one after the other, as they were sent.

    `outcome` answers one as it would a unary call, admitted, bounded and reported once; it raises only cancellation.
    `poll_s` is how soon a stream that waits for its client notices that the gateway drains, in seconds. A request is
    read once the one before is answered, so that a client cannot pile up work here: HTTP/2 holds it back.
    """

    def __init__(self, edge: Edge, protocol: str, outcome: Outcome, *, poll_s: float = STREAM_POLL_SECONDS) -> None:
        self._edge = edge
        self._protocol = protocol
        self._outcome = outcome
        self._poll_s = poll_s

    async def serve(self, _requests: object, context: Context) -> None:
        """Answers until the client has no more to send. A request's failure is its reply's, and the call goes on."""
        sent = metadata_of(context)
        identity = request_id(sent)
        context.set_trailing_metadata((("x-request-id", identity),))
        for number in count(1):
            data = await self._next(identity, context)
            if data is None:
                return
            call = open_call(self._edge, self._protocol, context, sent, f"{identity}-{number}")
            outcome = await self._outcome(call, data, context, sent)
            if isinstance(outcome, GatewayError):
                reply = oip_stream.encode_error(capped(outcome.detail, MAX_DETAIL), oip_stream.request_id(data))
            else:
                reply = oip_stream.encode_answer(outcome)
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
