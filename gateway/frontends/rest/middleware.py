"""What every HTTP answer has in common. Pure ASGI: nothing is buffered, and a disconnect stays visible."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.errors import Cause, GatewayError
from gateway.frontends.edge import failure, request_id_from
from gateway.frontends.rest.answers import Sender, send_error
from gateway.frontends.rest.body import CONNECTION
from gateway.frontends.rest.errors import shape_for

# Where the middleware leaves the request's id in the ASGI scope.
REQUEST_ID = "twinserve.request_id"

# A slash or a NUL that was percent-encoded is part of a name, and no name here has one.
_ENCODED = (b"%2f", b"%5c", b"%00")


class Identity:
    """Gives every request an id and every answer `x-request-id` and `nosniff`; answers what nobody else did.

    `refused` is told (path, request id, cause) of a request that is refused here.
    """

    def __init__(self, app: ASGIApp, refused: Callable[[str, str, Cause], None]) -> None:
        self._app = app
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or passes the lifespan on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = None
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                sent = value.decode("latin-1")
                break
        request_id = scope[REQUEST_ID] = request_id_from(sent)
        sender = Sender(send, request_id, scope.get(CONNECTION))
        try:
            path = scope.get("raw_path", b"")
            if b"%" in path and any(mark in path.lower() for mark in _ENCODED):
                # The server decoded the path: what was one name would be routed as several.
                self._refused(scope["path"], request_id, Cause.ROUTE_NOT_FOUND)
                raise GatewayError(Cause.ROUTE_NOT_FOUND, "there is no such path")
            await self._app(scope, receive, sender)
        except Exception as exc:
            error = failure(request_id, exc)
            if error.cause is Cause.CLIENT_GONE:
                return
            if sender.started:
                raise
            await send_error(sender, error, shape_for(scope["path"]), request_id)
