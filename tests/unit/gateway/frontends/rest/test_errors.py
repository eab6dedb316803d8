"""The REST error tables, against the rows of the error design."""

from __future__ import annotations

import json

import pytest

from gateway.core.errors import Cause, GatewayError
from gateway.frontends.rest.errors import (
    OIP,
    OIP_SHAPE,
    PREDICT,
    PREDICT_SHAPE,
    TORCHSERVE,
    TORCHSERVE_SHAPE,
    problem,
    retry_after,
    shape_for,
    torchserve_shape,
)
from gateway.frontends.torchserve import TYPES

# Cause -> (/predict, OIP REST), row by row.
ROWS = {
    "UNPARSEABLE": (400, 400),
    "INVALID_INPUT": (422, 400),
    "UNSUPPORTED_DATATYPE": (422, 400),
    "UNAUTHENTICATED": (401, 401),
    "FORBIDDEN": (403, 403),
    "ROUTE_NOT_FOUND": (404, 404),
    "METHOD_NOT_ALLOWED": (405, 405),
    "MODEL_NOT_FOUND": (404, 404),
    "VERSION_NOT_FOUND": (404, 404),
    "LABEL_NOT_FOUND": (404, 404),
    "SIGNATURE_NOT_FOUND": (422, 400),
    "MEDIA_TYPE": (415, 415),
    "CLIENT_TOO_SLOW": (408, 408),
    "TOO_LARGE": (413, 413),
    "RATE_LIMITED": (429, 429),
    "OVERLOADED": (503, 503),
    "NOT_READY": (503, 503),
    "UPSTREAM_UNREACHABLE": (503, 503),
    "UPSTREAM_LOST": (502, 502),
    "UPSTREAM_BAD_REPLY": (502, 502),
    "UPSTREAM_REJECTED": (422, 400),
    "UPSTREAM_FAILED": (500, 500),
    "DEADLINE": (504, 504),
    "CLIENT_GONE": (499, 499),
    "INTERNAL": (500, 500),
}


# Cause -> (status, type) at TorchServe's door. The design says that a label and a signature cannot be named there; by
# header and by an Open Inference Protocol body they can, and then it is the client's error.
TORCHSERVE_ROWS = {
    "UNPARSEABLE": (400, "BadRequestException"),
    "INVALID_INPUT": (400, "BadRequestException"),
    "UNSUPPORTED_DATATYPE": (400, "BadRequestException"),
    "UNAUTHENTICATED": (401, "InvalidKeyException"),
    "FORBIDDEN": (403, "InvalidKeyException"),
    "ROUTE_NOT_FOUND": (404, "ResourceNotFoundException"),
    "METHOD_NOT_ALLOWED": (405, "MethodNotAllowedException"),
    "MODEL_NOT_FOUND": (404, "ModelNotFoundException"),
    "VERSION_NOT_FOUND": (404, "ModelVersionNotFoundException"),
    "LABEL_NOT_FOUND": (404, "ModelVersionNotFoundException"),
    "SIGNATURE_NOT_FOUND": (400, "BadRequestException"),
    "MEDIA_TYPE": (500, "InternalServerException"),
    "CLIENT_TOO_SLOW": (408, "RequestTimeoutException"),
    "TOO_LARGE": (413, ""),
    "RATE_LIMITED": (429, "ServiceUnavailableException"),
    "OVERLOADED": (503, "ServiceUnavailableException"),
    "NOT_READY": (503, "ServiceUnavailableException"),
    "UPSTREAM_UNREACHABLE": (503, "ServiceUnavailableException"),
    "UPSTREAM_LOST": (502, "InternalServerException"),
    "UPSTREAM_BAD_REPLY": (502, "InternalServerException"),
    "UPSTREAM_REJECTED": (400, "BadRequestException"),
    "UPSTREAM_FAILED": (503, "InternalServerException"),
    "DEADLINE": (504, "RequestTimeoutException"),
    "CLIENT_GONE": (499, "InternalServerException"),
    "INTERNAL": (500, "InternalServerException"),
}


def test_no_cause_is_unmapped() -> None:
    """Every cause has a row in every table."""
    assert set(PREDICT) == set(OIP) == set(TORCHSERVE) == set(TYPES) == set(Cause)


@pytest.mark.parametrize("cause", Cause)
def test_torchserves_column_is_the_designs(cause: Cause) -> None:
    """Status and type, and both again in the body."""
    status, kind = TORCHSERVE_ROWS[cause.name]
    assert (TORCHSERVE[cause], TYPES[cause]) == (status, kind)
    body = TORCHSERVE_SHAPE.body(GatewayError(cause, "what was expected"), "r-1")
    if cause is Cause.TOO_LARGE:
        assert body == b""
    else:
        document = json.loads(body)
        assert (document.pop("message") != "", document) == (True, {"code": status, "type": kind})


def test_torchserves_errors_are_pretty_printed() -> None:
    """Byte for byte what TorchServe writes, and what is no UTF-8 is replaced."""
    body = torchserve_shape("nope").body(GatewayError(Cause.MODEL_NOT_FOUND, "unknown model 'nope'"), "r")
    expected = b'{\n  "code": 404,\n  "type": "ModelNotFoundException",\n  "message": "Model not found: nope"\n}\n'
    assert body == expected
    assert b'"?"' in TORCHSERVE_SHAPE.body(GatewayError(Cause.INVALID_INPUT, "\ud800"), "r")


@pytest.mark.parametrize("cause", Cause)
def test_statuses_are_those_of_the_design(cause: Cause) -> None:
    """The tables are the design's columns."""
    assert (PREDICT[cause][0], OIP[cause]) == ROWS[cause.name]


@pytest.mark.parametrize("cause", Cause)
def test_a_problem_has_every_member(cause: Cause) -> None:
    """type, title, status, detail, cause and request_id, whatever the cause."""
    assert json.loads(problem(GatewayError(cause, "what was expected"), "r-1")) == {
        "type": f"urn:twinserve:cause:{cause.value}",
        "title": PREDICT[cause][1],
        "status": PREDICT[cause][0],
        "detail": "what was expected",
        "cause": cause.value,
        "request_id": "r-1",
    }


def test_a_detail_that_is_no_utf8_still_makes_a_body() -> None:
    """A name with a lone surrogate must not turn an error into a bug."""
    error = GatewayError(Cause.MODEL_NOT_FOUND, "unknown model '\ud800'")
    assert json.loads(OIP_SHAPE.body(error, "r")) == {"error": "unknown model '?'"}


@pytest.mark.parametrize(
    "path", ["/ping", "/predictions", "/predictions/a", "/predictions/a/1", "/models", "/models/a", "/models/a/all"]
)
def test_torchserves_paths_have_its_errors(path: str) -> None:
    """And nothing that only begins like them."""
    assert shape_for(path) is TORCHSERVE_SHAPE
    assert shape_for(path.replace("/", "/x", 1)) is PREDICT_SHAPE
    assert shape_for("/modelsx") is shape_for("/ping/a") is PREDICT_SHAPE


@pytest.mark.parametrize(
    ("path", "oip"), [("/v2", True), ("/v2/models/a", True), ("/v2x", False), ("/predict", False), ("/", False)]
)
def test_errors_take_the_shape_of_the_path(path: str, oip: bool) -> None:
    """Below /v2 errors are the Open Inference Protocol's, elsewhere problem+json."""
    assert shape_for(path) is (OIP_SHAPE if oip else PREDICT_SHAPE)


def test_what_passes_by_itself_says_when_to_come_back() -> None:
    """429 and 503 have a Retry-After of at least one whole second; nothing else has one."""
    assert retry_after(GatewayError(Cause.OVERLOADED, "", retry_after_s=1.2), 503) == "2"
    assert retry_after(GatewayError(Cause.OVERLOADED, "", retry_after_s=0.1), 503) == "1"
    assert retry_after(GatewayError(Cause.RATE_LIMITED, ""), 429) == "1"
    assert retry_after(GatewayError(Cause.DEADLINE, "", retry_after_s=5), 504) is None
