"""The one exception of the server: a canonical status code and TensorFlow Serving's text for it."""

from __future__ import annotations

from grpc import StatusCode

# model_servers/http_server.cc; whatever is not listed is 500 there too.
HTTP_STATUS: dict[StatusCode, int] = {
    StatusCode.OK: 200,
    StatusCode.CANCELLED: 499,
    StatusCode.UNKNOWN: 500,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.ABORTED: 409,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.INTERNAL: 500,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DATA_LOSS: 500,
    StatusCode.UNAUTHENTICATED: 401,
}
BY_NUMBER: dict[int, StatusCode] = {code.value[0]: code for code in StatusCode}

# model_servers/grpc_status_util.cc: HTTP/2 headers carry the message, so it must stay small.
MAX_GRPC_MESSAGE = 1024
TRUNCATED = "...TRUNCATED"
DEADLINE_TEXT = "Timed out waiting for notification"


class ServingError(Exception):
    """A refusal or failure that a client is told of, at both doors."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        """As absl::Status::ToString writes it, such as `NOT_FOUND: no such thing`."""
        return f"{self.code.name}: {self.message}"

    @property
    def number(self) -> int:
        """The canonical code's number, which gRPC and TensorFlow share."""
        return int(self.code.value[0])

    @property
    def http_status(self) -> int:
        """The HTTP status of the REST door."""
        return HTTP_STATUS[self.code]

    @property
    def grpc_message(self) -> str:
        """The message, cut where TensorFlow Serving cuts it, which counts bytes."""
        encoded = self.message.encode("utf-8", "replace")
        if len(encoded) <= MAX_GRPC_MESSAGE:
            return self.message
        return encoded[:MAX_GRPC_MESSAGE].decode("utf-8", "replace") + TRUNCATED


def invalid(message: str) -> ServingError:
    """An INVALID_ARGUMENT error, by far the most frequent one."""
    return ServingError(StatusCode.INVALID_ARGUMENT, message)


def of_number(number: int, message: str) -> ServingError:
    """The error of a canonical code's number; UNKNOWN where there is no such code."""
    return ServingError(BY_NUMBER.get(number, StatusCode.UNKNOWN), message)
