"""A bare grpc.aio server that answers every call with the bytes it was sent: `python -m ... PORT`."""

from __future__ import annotations

import sys

import grpc
import uvloop


class Echo(grpc.GenericRpcHandler):
    """Any unary method."""

    def __init__(self) -> None:
        self._handler = grpc.unary_unary_rpc_method_handler(_echo)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """The same handler for every name."""
        return self._handler


async def _echo(data: bytes, _context: object) -> bytes:
    return data


async def main(port: int) -> None:
    """Serves until it is ended."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
