"""The Open Inference Protocol's model repository over REST, as far as it can be read.

The gateway owns no models: its configuration names them, and the model servers load them.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.codecs import oip_repository
from gateway.core.errors import Cause, GatewayError
from gateway.frontends.edge import Edge
from gateway.frontends.rest.body import Body
from gateway.frontends.rest.errors import JSON
from gateway.frontends.rest.middleware import REQUEST_ID
from gateway.frontends.rest.openapi import json_answer, ref
from gateway.frontends.rest.whole import RequestHeaders

# The one field that an index request has needs far less.
MAX_BODY_BYTES = 4096

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: json_answer("RepositoryIndex", "The models."),
    400: json_answer("OipError", "Cause: unparseable, invalid_input."),
    408: json_answer("OipError", "Cause: client_too_slow."),
    413: json_answer("OipError", "Cause: too_large."),
    415: json_answer("OipError", "Cause: media_type."),
    500: json_answer("OipError", "An error of the gateway."),
    503: json_answer("OipError", "Cause: overloaded."),
}
_BODY: dict[str, Any] = {"requestBody": {"content": {JSON: {"schema": ref("RepositoryIndexRequest")}}}}


def repository_routes(edge: Edge) -> APIRouter:
    """The index, and the refusal to load and unload."""
    router = APIRouter(tags=["Open Inference Protocol"], default_response_class=Response)

    @router.post("/v2/repository/index", responses=_ANSWERS, openapi_extra=_BODY)
    async def repository_index(request: Request) -> Response:
        """The models, and the versions of each that can answer."""
        RequestHeaders.read(request.scope).check_encoding()
        body = Body(request.receive, request.scope["headers"], cap=MAX_BODY_BYTES)
        with edge.admission.receive() as ticket:
            data = await body.read(ticket, edge.limits.body_timeout_s)
        ready = oip_repository.decode_request(data)
        return Response(oip_repository.encode_index(edge.data_plane.index(ready=ready)), media_type=JSON)

    @router.post("/v2/repository/models/{model}/load", include_in_schema=False)
    @router.post("/v2/repository/models/{model}/unload", include_in_schema=False)
    async def refuse_change(request: Request) -> Response:
        """Refused, whatever the model."""
        edge.refuse("oip-rest", request.scope[REQUEST_ID], Cause.ROUTE_NOT_FOUND)
        raise GatewayError(Cause.ROUTE_NOT_FOUND, oip_repository.READ_ONLY)

    return router
