"""What TensorFlow Serving 2.20 answers over REST, row by row: routes, bodies, datatypes, numbers, errors, pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"
HTML = "text/html"


@dataclass(frozen=True)
class Rest:
    """A request and its answer.

    `body` goes as JSON unless it is bytes. `answer` is compared with the JSON document, or with the body where it is
    bytes; `error` is the whole text of the error, or its end after an ellipsis.
    """

    method: str
    path: str
    status: int
    body: Any = None
    answer: Any = None
    error: str | None = None
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.path[:60]} {str(self.body)[:60]} {self.status}"


def post(path: str, body: Any, answer: Any = None, **rest: Any) -> Rest:
    """A POST that is answered, or refused with a status of 400 unless another is given."""
    return Rest("POST", path, rest.pop("status", 400 if "error" in rest else 200), body, answer, **rest)


def get(path: str, status: int = 200, **rest: Any) -> Rest:
    """A GET."""
    return Rest("GET", path, status, **rest)


def zoo(signature: str, body: Mapping[str, Any], answer: Any = None, **rest: Any) -> Rest:
    """A prediction by one signature of the zoo."""
    return post("/v1/models/zoo:predict", {"signature_name": signature, **body}, answer, **rest)


AVAILABLE = {
    "model_version_status": [
        {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]
}
ZOO, AFFINE, EXAMPLES = "/v1/models/zoo:predict", "/v1/models/affine:predict", "/v1/models/examples"
PAIR = {"signature_name": "pair", "inputs": {"a": [3], "b": [1]}}
PAIR_ANSWER = {"outputs": {"sum": [4.0], "difference": [2.0]}}
NOT_FOUND = b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
BAD_REQUEST = b"<HTML><HEAD>\n<TITLE>400 Bad Request</TITLE>\n</HEAD><BODY>\n<H1>Bad Request</H1>\n</BODY></HTML>\n"

ROUTES = [
    *(
        post(path, PAIR, PAIR_ANSWER)
        for path in (
            ZOO,
            "/V1/MODELS/zoo/Versions/1:predict",
            "/v1/models/z%6Fo/versions/0001:predict",
            "/v1/models/zoo/labels/stable:predict",
            "/v1/models/zoo/labels/%73table:predict",
        )
    ),
    post(ZOO, PAIR, PAIR_ANSWER, headers={"Content-Type": "text/plain"}),
    post("/v1/models/zoo:PREDICT", PAIR, error="Malformed request: POST /v1/models/zoo:PREDICT"),
    post(f"{ZOO}?x=1", PAIR, error=f"Malformed request: POST {ZOO}?x=1"),
    post(f"{ZOO}#x", PAIR, error=f"Malformed request: POST {ZOO}#x"),
    post(
        "/v1/models/zoo/versions/1/labels/stable:predict",
        PAIR,
        error="Malformed request: POST /v1/models/zoo/versions/1/labels/stable:predict",
    ),
    get("/v1/models/zoo", answer=AVAILABLE),
    get("/V1/models/zoo/VERSIONS/1", answer=AVAILABLE),
    get("/v1/models/zoo/labels/no-such-label", answer=AVAILABLE),
    get("/v1/models/zoo?x=1", 404, error="Could not find any versions of model zoo?x=1"),
    get("/v1/models/nope", 404, error="Could not find any versions of model nope"),
    get("/v1/models/zoo/versions/9", 404, error="Could not find version 9 of model zoo"),
    get("http://elsewhere/v1/models/zoo", answer=AVAILABLE),
    get("/v1/models", 400, error="Missing model name in request."),
    get("/v1/models/versions/1", 400, error="Missing model name in request."),
    get("/v1/models/metadata", 404, error="Could not find any versions of model metadata"),
    get("/v1/models/nope/metadata", 404, error="Servable not found for request: Latest(nope)"),
    get("/v1/models/zoo/versions/9/metadata", 404, error="Servable not found for request: Specific(zoo, 9)"),
    get("/v1/models/zoo/labels/x/metadata", 400, error="Unrecognized servable version label: x"),
    get("/v1/foo", 400, error="Malformed request: GET /v1/foo"),
    get("/v1/models/zoo:predict", 400, error="Malformed request: GET /v1/models/zoo:predict"),
    get("/v1/models/zoo/versions/x", 400, error="Malformed request: GET /v1/models/zoo/versions/x"),
    *(
        Rest(verb, "/v1/models/zoo", 400, error=f"Malformed request: {verb} /v1/models/zoo")
        for verb in ("PUT", "DELETE", "PATCH")
    ),
    get(f"/v1/models/zoo/versions/{2**63}", 400, error=f"Failed to convert version: {2**63} to numeric."),
    *(get(path, 404, answer=NOT_FOUND, content_type=HTML) for path in ("/", "/v1", "/v2/health", "/foo?/v1/models/x")),
    get("/v1/models/{zoo}", 400, answer=BAD_REQUEST, content_type=HTML),
    get("/v1/models/zoo%2", 400, answer=BAD_REQUEST, content_type=HTML),
]

BODIES = [
    post("/v1/models/nope:predict", {}, status=404, error="Servable not found for request: Latest(nope)"),
    post("/v1/models/zoo/versions/99:predict", {}, status=404,
         error="Servable not found for request: Specific(zoo, 99)"),
    post("/v1/models/nope/labels/x:predict", {}, error="Unrecognized servable version label: x"),
    post(AFFINE, b"", error="JSON Parse error: The document is empty"),
    post(AFFINE, b" ", error="JSON Parse error: The document is empty. at offset: 1"),
    post(AFFINE, b"x", error="JSON Parse error: Invalid value. at offset: 0"),
    post("/v1/models/nope:predict", b"{", error="JSON Parse error: Missing a name for object member. at offset: 1"),
    post(AFFINE, b"[1]", error="JSON Value: [\n    1\n] Is not object"),
    post(AFFINE, {}, error="Missing 'inputs' or 'instances' key"),
    post(
        AFFINE,
        {"inputs": 1, "instances": 1},
        error="… Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
    ),
    post(AFFINE, {"instances": 1}, error="… Expecting 'instances' to be an list/array"),
    post(AFFINE, {"instances": []}, error="… No values in 'instances' array"),
    post(AFFINE, {"signature_name": 1}, error="… 'signature_name' key must be a string value."),
    post(AFFINE, {"signature_name": "s"}, error='Serving signature name: "s" not found in signature def'),
    post(AFFINE, b'{"inputs": [[1, 1]], "unknown": {}} trailing', {"outputs": [[3.0, 3.0]]}),
    post(AFFINE, {"instances": [[1, 1]]}, {"predictions": [[3.0, 3.0]]}),
    post(AFFINE, {"instances": [{"x": [1, 1]}]}, {"predictions": [[3.0, 3.0]]}),
    post(AFFINE, {"inputs": {"x": [[1, 1]], "extra": "ignored"}}, {"outputs": [[3.0, 3.0]]}),
    post(AFFINE, {"instances": [[1, "x"]]}, error='Failed to process element: 0 of \'instances\' list. Error: '
         'INVALID_ARGUMENT: JSON Value: "x" Type: String is not of expected type: float'),
    post(AFFINE, {"instances": [{"x": True}]}, error="Failed to process element: 0 key: x of 'instances' list. Error: "
         "INVALID_ARGUMENT: JSON Value: true Type: True is not of expected type: float"),
    post(AFFINE, {"inputs": [[1, 2], [3]]},
         error="Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    post(AFFINE, {"instances": [[1, 2], [1, 2, 3]]}, error="… Expecting tensor size: 2 but got: 3"),
    post(AFFINE, {"instances": [[1], [[1]]]}, error="… Expecting shape [1] but got: [1,1]"),
    post(AFFINE, {"instances": [[1, 1], {"x": 1}]},
         error="Expecting value/list but got object at item 1 of input list"),
    post(AFFINE, {"instances": [{"x": [1]}, [1]]}, error="Expecting object but got list at item 1 of input list"),
    zoo("pair", {"instances": [{"a": 3, "b": 1}]}, {"predictions": [{"sum": 4.0, "difference": 2.0}]}),
    zoo("pair", {"instances": [1]}, error="instances is a plain list, but expecting list of objects as multiple input "
        "tensors required as per tensorinfo_map"),
    zoo("pair", {"inputs": [1]}, error="inputs is a plain value/list, but expecting an object as multiple input "
        "tensors required as per tensorinfo_map"),
    zoo("pair", {"inputs": {"a": [1]}}, error="Missing named input: b in 'inputs' object."),
    zoo("pair", {"instances": [{"a": 1}]}, error='Failed to process element: 0 of \'instances\' list. JSON object: '
        '{\n    "a": 1\n} keys must be equal to: a,b'),
    zoo("pair", {"instances": [{"a": 1, "b": 1, "z": 1}]}, error="… JSON object: does not have named input: z"),
    zoo("scaled", {"inputs": {"x": [1]}}, error="Missing named input: scale in 'inputs' object."),
    zoo("scaled", {"inputs": {"x": [2], "scale": 3}}, {"outputs": [6.0]}),
    zoo("scalar_out", {"inputs": 5}, {"outputs": 5.0}),
    zoo("scalar_out", {"inputs": {"x": 5}}, {"outputs": 5.0}),
    zoo("scalar_out", {"instances": [1]}, error="Tensor name: total has no shape information "),
    zoo("uneven", {"instances": [1, 2]}, error="Tensor name: first has inconsistent batch size: 1 expecting: 2"),
    post(f"{EXAMPLES}:predict", {"signature_name": "half", "inputs": [1]},
         error="Failed to write JSON value for tensor type: half"),
    post(f"{EXAMPLES}:predict", {"signature_name": "uint16", "instances": [1]},
         error="Failed to write JSON value for tensor type: uint16"),
]  # fmt: skip


def same(dtype: str, value: Any, answer: Any = None, **rest: Any) -> Rest:
    """One value, which is written into the body as it stands, through the identity of a dtype."""
    body = b'{"signature_name": "same_%b", "inputs": %b}' % (dtype.encode(), str(value).encode())
    given = None if answer is None else b'{\n    "outputs": %b\n}' % str(answer).encode()
    return post(ZOO, body, given, **rest)


def refused(dtype: str, value: str, kind: str, shown: str | None = None) -> Rest:
    """A value that a dtype does not take."""
    word = {"float32": "float", "float64": "double"}.get(dtype, dtype)
    return same(dtype, value, error=f"JSON Value: {shown or value} Type: {kind} is not of expected type: {word}")


DATATYPES = [
    *(
        same(dtype, given, answer)
        for dtype in ("float32", "float64")
        for given, answer in (
            ("1", "1.0"), ("0.1", "0.1"), ("1e10", "1e+10"), ("9000000", "9e+06"), ("0.00003", "3e-05"),
            ("16777215", "16777215.0"), ("-0.0", "-0.0"), ("NaN", "NaN"), ("Inf", "Infinity"),
            ("Infinity", "Infinity"), ("-Inf", "-Infinity"), ("-Infinity", "-Infinity"),
        )
    ),
    same("float32", "0.123456789", "0.123456791"),
    same("float64", "0.3333333333333333", "0.33333333333333331"),
    same("float32", "16777217", error="Cannot convert JSON value: 16777217 to float without loss of precision."),
    same("float32", "1e39", error="Cannot convert JSON value: 1e+39 to float without loss of precision."),
    same("float32", "Nan", error="JSON Parse error: Invalid value. at offset: 47"),
    *(
        refused(dtype, value, kind)
        for dtype in ("float32", "float64", "int32", "int64", "uint32", "uint64", "uint8", "int8", "int16")
        for value, kind in (('"1"', "String"), ("true", "True"), ("false", "False"), ("null", "Null"))
    ),
    *(
        refused(dtype, value, "Number", shown)
        for dtype in ("int32", "int16", "int8", "uint8", "int64", "uint32", "uint64")
        for value, shown in (("1.0", "1.0"), ("1e3", "1000.0"))
    ),
    *(
        case
        for dtype, low, high in (
            ("int32", -(2**31), 2**31 - 1), ("int64", -(2**63), 2**63 - 1),
            ("uint32", 0, 2**32 - 1), ("uint64", 0, 2**64 - 1),
        )
        for case in (
            same(dtype, low, low), same(dtype, high, high),
            same(dtype, low - 1, error=f"… is not of expected type: {dtype}"),
            same(dtype, high + 1, error=f"… is not of expected type: {dtype}"),
        )
    ),
    same("uint8", 300, 44),
    same("int8", 300, 44),
    same("int16", 65537, 1),
    same("uint8", 2**31, error="… is not of expected type: uint8"),
    same("bool", "true", "true"),
    refused("bool", "0", "Number"),
    refused("bool", "1", "Number"),
    zoo("words", {"inputs": "ä"},
        b'{\n    "outputs": {\n        "same_bytes": {\n            "b64": "w6Q="\n        },\n'
        b'        "text": "\xc3\xa4"\n    }\n}'),
    zoo("words", {"inputs": [{"b64": "YQ=="}, "b"]}, {"outputs": {"text": ["a", "b"],
        "same_bytes": [{"b64": "YQ=="}, {"b64": "Yg=="}]}}),
    zoo("words", {"inputs": 1}, error="JSON Value: 1 Type: Number is not of expected type: string"),
    zoo("words", {"inputs": [{"b64": "?"}]}, error="Unable to base64 decode"),
    zoo("words", {"inputs": [{"b65": "YQ=="}]},
        error='JSON Value: {\n    "b65": "YQ=="\n} not formatted correctly for base64 data'),
    *(
        same(dtype, 1, status=501, error=f"Conversion of JSON Value: 1 to type: {word}")
        for dtype, word in (("float16", "half"), ("bfloat16", "bfloat16"), ("uint16", "uint16"))
    ),
]  # fmt: skip

CLASSIFY, REGRESS = f"{EXAMPLES}:classify", f"{EXAMPLES}:regress"
TF_EXAMPLES = [
    post(
        CLASSIFY,
        {"examples": [{"x": 0.25}, {"x": 1.0, "label": "yes"}]},
        b'{\n    "results": [[["no", 0.25], ["other", 0.75]], [["yes", 1.0], ["other", 0.0]]\n    ]\n}',
    ),
    post(
        f"{EXAMPLES}/versions/1:regress",
        {"signature_name": "regress", "context": {"x": 1.5}, "examples": [{}, {"x": [2.0]}]},
        b'{\n    "results": [3.0, 4.0]\n}',
    ),
    post(CLASSIFY, b"", error="JSON Parse error: The document is empty"),
    post("/v1/models/nope:regress", {},
         error="… When method is classify, key 'examples' is expected and was not found"),
    post("/v1/models/nope:regress", {"examples": [{}]}, status=404,
         error="Servable not found for request: Latest(nope)"),
    post(CLASSIFY, {"examples": {}}, error="… Expecting 'examples' value to be an list/array"),
    post(CLASSIFY, {"examples": []}, error="… 'examples' value is an empty array"),
    post(CLASSIFY, {"examples": [1]}, error="Example must be JSON object but got JSON Number"),
    post(CLASSIFY, {"examples": [{"x": [1, 0.5]}]},
         error="Unexpected element type in feature: x expecting type: int64"),
    post(CLASSIFY, {"examples": [{"x": None}]}, error="Feature: x has element with unexpected JSON type: Null"),
    post(CLASSIFY, {"examples": [{"x": 2**63}]}, error="Feature: x has uint64 element. Only int64 is supported."),
    post(CLASSIFY, {"signature_name": "s", "examples": [{}]}, error="No signature was found with the name: s"),
    post(CLASSIFY, {"signature_name": "regress", "examples": [{}]}, error='Expected classification signature outputs '
         'to contain at least one of "classes" or "scores". Signature was: …'),
    post(f"{EXAMPLES}:CLASSIFY", {}, error=f"Malformed request: POST {EXAMPLES}:CLASSIFY"),
]  # fmt: skip

ALL = ROUTES + BODIES + DATATYPES + TF_EXAMPLES
