"""The door that `frontend_doors` leaves out, since its replies have no status: a stream of inferences."""

from __future__ import annotations

import grpc

from gateway._generated import oip_pb2
from gateway.core.errors import Cause
from tests.contract.frontend_doors import Asked, OipGrpc, Outcome, Reachable

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
ANSWERED, ERROR = "answered", "error"


class OipStream(OipGrpc):
    """`inference.GRPCInferenceService/ModelStreamInfer`, one request a call: a reply is an answer or a text."""

    name = "oip-grpc-stream"

    def status(self, cause: Cause | None) -> object:
        """All errors are one."""
        return ANSWERED if cause is None else ERROR

    async def send(self, world: Reachable, asked: Asked) -> Outcome:
        """Whatever becomes of the request, the call ends well, and names no endpoint: it may have many requests."""
        async with world.grpc() as channel:
            call = channel.stream_stream(STREAM)(metadata=tuple(asked.headers.items()), timeout=asked.timeout_s)
            await call.write(self.message(asked))
            await call.done_writing()
            reply = oip_pb2.ModelStreamInferResponse.FromString(await call.read())
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK
            trailing = {key: str(value) for key, value in tuple(await call.trailing_metadata())}
        status = ERROR if reply.error_message else ANSWERED
        told = Outcome(status, {}, "", trailing["x-request-id"], "", reply.error_message)
        return self.told(reply.infer_response, told)
