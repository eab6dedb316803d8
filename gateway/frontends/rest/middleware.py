"""What every HTTP answer has in common. Pure ASGI: nothing is buffered, and a disconnect stays visible."""

from __future__ import annotations

import logging
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.core.errors import Cause, GatewayError
from gateway.frontends.edge import failure, request_id_from
from gateway.frontends.rest.answers import send_error
from gateway.frontends.rest.errors import shape_for

logger = logging.getLogger(__name__)

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
        request_id = request_id_from(
            next((v.decode("latin-1") for k, v in scope["headers"] if k == b"x-request-id"), None)
        )
        scope[REQUEST_ID] = request_id
        common = [(b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff")]
        started = False

        async def send_identified(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", ()), *common]}
            try:
                await send(message)
            except (OSError, RuntimeError) as exc:
                # A closed socket is an OSError, a closed transport of uvloop's a RuntimeError.
                logger.warning("the answer to request %s could not be sent: %s", request_id, exc)
                raise GatewayError(Cause.CLIENT_GONE, "the client closed the connection before its answer") from exc

        try:
            path = scope.get("raw_path", b"")
            if b"%" in path and any(mark in path.lower() for mark in _ENCODED):
                # The server decoded the path: what was one name would be routed as several.
                self._refused(scope["path"], request_id, Cause.ROUTE_NOT_FOUND)
                raise GatewayError(Cause.ROUTE_NOT_FOUND, "there is no such path")
            await self._app(scope, receive, send_identified)
        except Exception as exc:
            error = failure(request_id, exc)
            if error.cause is Cause.CLIENT_GONE:
                return
            if started:
                raise
            await send_error(send_identified, error, shape_for(scope["path"]), request_id)
