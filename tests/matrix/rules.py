"""What cannot be carried where, and the refusal that says so: declared here, held against every real answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.core.errors import Cause
from tests.contract.frontend_doors import Door
from tests.matrix.cases import Case


@dataclass(frozen=True, slots=True)
class Refusal:
    """A cause, words of the text that come with it, and what it means to a user.

    `status` differs from the cause's own where it is given.
    """

    cause: Cause
    says: str
    means: str
    status: object = None

    def fault(self, door: Door, status: object, text: str) -> str | None:
        """What is wrong with a refusal, None where it is this one."""
        expected = self.status if self.status is not None else door.status(self.cause)
        if status != expected:
            return f"answered {status}, not {expected}: {text}"
        return None if self.said_by(text) else f"does not say '{self.says}': {text}"

    def said_by(self, text: str) -> bool:
        """Whether a text has its words."""
        return re.search(self.says, text) is not None


# At the door.
_VALUE = Refusal(
    Cause.INVALID_INPUT,
    "surrogate pair",
    "A JSON string is text. BYTES beyond UTF-8, which Python writes as halves of surrogate pairs, need binary data, "
    "gRPC or, at TF Serving's REST, base64.",
)
_TOKEN = Refusal(
    Cause.UNPARSEABLE,
    "bare token NaN",
    "JSON has no NaN and no infinity; of the REST doors, TF Serving's alone take them.",
)
_SHAPE = Refusal(
    Cause.INVALID_INPUT,
    "has shape",
    "Rows have a dimension of instances, which a scalar has not: use columns.",
)
_NO_INSTANCES = Refusal(
    Cause.INVALID_INPUT,
    "No values in 'instances' array",
    "TF Serving takes no empty list of instances: use columns.",
)
_NOT_TYPED = Refusal(
    Cause.UNSUPPORTED_DATATYPE,
    "has no typed contents; use raw_input_contents",
    "The Open Inference Protocol has no typed contents for 16-bit floats: use raw contents.",
)
_NOT_JSON_IN = Refusal(
    Cause.UNSUPPORTED_DATATYPE,
    "via JSON is not supported; use binary tensor data",
    "The Open Inference Protocol has no JSON for 16-bit floats: send binary data, or raw contents over gRPC.",
)
_NOT_TFS = Refusal(
    Cause.UNSUPPORTED_DATATYPE,
    "Conversion of JSON Value: ... to type: .*; gRPC carries it",
    "TF Serving's JSON has no form for FP16, BF16 and UINT16: use its gRPC.",
)

# At the door, but for the answer.
_NOT_JSON_OUT = Refusal(
    Cause.UNSUPPORTED_DATATYPE,
    "via JSON is not supported; ask for output .* as binary data",
    "The answer holds 16-bit floats, and JSON was asked for: ask for binary data.",
)
_OUT = Refusal(
    Cause.UNSUPPORTED_DATATYPE,
    "which JSON cannot carry",
    "The answer holds NaN, an infinity or BYTES beyond UTF-8, and JSON was asked for: ask for binary data.",
)
_TFS_TEXT = Refusal(
    Cause.UNSUPPORTED_DATATYPE,
    "bytes that are not UTF-8, which JSON cannot carry",
    "The answer holds BYTES beyond UTF-8, which TF Serving's JSON carries only in outputs whose name ends in `_bytes`.",
    status=400,
)

# At the backend: refused before it is sent, or because the server's answer cannot carry it.
_TFS_REST = Refusal(
    Cause.UNSUPPORTED_DATATYPE,
    "TF Serving's REST does not take .*; its gRPC does",
    "The server's own REST has no FP16, BF16 and UINT16: give the endpoint `transport: grpc`.",
)
_TFS_HIDDEN = Refusal(
    Cause.UNSUPPORTED_DATATYPE,
    "TF Serving's REST cannot tell the shape",
    "Below an empty list, the server's own REST has no shape: [0, 2] would reach the model as [0]. Give the endpoint "
    "`transport: grpc`.",
)
_TFS_NAME = Refusal(
    Cause.UNSUPPORTED_DATATYPE,
    "TF Serving's REST answered BYTES that are not UTF-8",
    "The server writes BYTES beyond UTF-8 into its JSON as they are. Give the endpoint `transport: grpc`, or the "
    "output a name that ends in `_bytes`.",
)
_JSON_ONLY = Refusal(
    Cause.UNSUPPORTED_DATATYPE,
    "offers no binary data over REST",
    "The server does not offer `binary_tensor_data`, and its JSON has no 16-bit floats, NaN, infinities and BYTES "
    "beyond UTF-8: give the endpoint `transport: grpc`.",
)

_TEMPLATE_TEXT = Refusal(
    Cause.UNSUPPORTED_DATATYPE,
    "holds bytes that are not UTF-8; this model's server is sent them as text",
    "The template writes BYTES as text, which a JSON string is: end its placeholders with `|b64`, as for the input "
    "`x_bytes`, where the handler takes base64.",
)
_NO_BF16 = Refusal(Cause.UNSUPPORTED_DATATYPE, "BF16", "The server has no BF16.")


# The server's own.
_NO_ROWS_IN_KERNEL = Refusal(
    Cause.UPSTREAM_REJECTED,
    "Incompatible shapes: ",
    "TensorFlow's oneDNN kernels fuse the convolution with what follows, and lose the shape of a batch of no rows: the "
    "server says so itself, asked directly. Where it runs without oneDNN (by its build, CPU or "
    "`TF_ENABLE_ONEDNN_OPTS=0`) it answers [0, 10], and then so does the gateway. Send no empty batches to "
    "convolutions on TensorFlow.",
)

_TFS_TYPES = dict.fromkeys(("FP16", "BF16", "UINT16"), _NOT_TFS)

# By door: what a case may hold that the door refuses, first match first.
DOORS: Mapping[str, Mapping[str, Refusal]] = {
    "predict": {"nan": _TOKEN, "not UTF-8": _VALUE},
    "oip-rest": {"FP16": _NOT_JSON_IN, "BF16": _NOT_JSON_IN, "nan": _TOKEN, "not UTF-8": _VALUE},
    "oip-grpc": {"FP16": _NOT_TYPED, "BF16": _NOT_TYPED},
    "tfserving-rows": {"no rows": _NO_INSTANCES, **_TFS_TYPES, "scalar": _SHAPE},
    "tfserving-columns": _TFS_TYPES,
    "torchserve-rest": {"nan": _TOKEN, "not UTF-8": _VALUE},
    "torchserve-grpc": {"nan": _TOKEN, "not UTF-8": _VALUE},
}

BACKENDS: Mapping[str, Mapping[str, Refusal]] = {
    "tf-rest": {
        **dict.fromkeys(("FP16", "BF16", "UINT16"), _TFS_REST),
        "hidden shape": _TFS_HIDDEN,
        "plain name": _TFS_NAME,
    },
    "ts-json-rest": {"plain name": _TEMPLATE_TEXT},
    "ts-json-grpc": {"plain name": _TEMPLATE_TEXT},
    "oip-rest-json": dict.fromkeys(("FP16", "BF16", "nan", "not UTF-8"), _JSON_ONLY),
    "mls-rest": dict.fromkeys(("FP16", "BF16", "nan", "not UTF-8"), _JSON_ONLY),
    "mls-grpc": {"BF16": _NO_BF16},
}

# By backend: what its server may refuse itself. Where it does, asked directly, the gateway must pass that on.
SERVERS: Mapping[str, Mapping[str, Refusal]] = {"tf-grpc": {"no rows of digits": _NO_ROWS_IN_KERNEL}}

# By door: what it takes, but cannot answer with.
ANSWERS: Mapping[str, Mapping[str, Refusal]] = {
    "oip-mixed": {"FP16": _NOT_JSON_OUT, "BF16": _NOT_JSON_OUT, "nan": _OUT, "not UTF-8": _OUT},
    "tfserving-rows": {"plain name": _TFS_TEXT},
    "tfserving-columns": {"plain name": _TFS_TEXT},
}


def expected(door: str, backend: str, case: Case) -> Refusal | None:
    """The refusal that a case meets on its way, None where it gets its answer."""
    return _first((DOORS.get(door, {}), BACKENDS.get(backend, {}), ANSWERS.get(door, {})), case)


def servers_own(backend: str, case: Case) -> Refusal | None:
    """The refusal that the server itself may answer a case with."""
    return _first((SERVERS.get(backend, {}),), case)


def _first(tables: Iterable[Mapping[str, Refusal]], case: Case) -> Refusal | None:
    return next((refusal for table in tables for what, refusal in table.items() if what in case.odd), None)
