"""TF Serving over REST."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.codecs import tfserving_json
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelMetadata, ModelSpec, TensorSpec
from gateway.core.tensor import DATATYPES, NUMPY_DTYPE, Tensor
from tests.unit.gateway.codecs.tensors import assert_same, pairs, untimed

REQUEST = InferenceRequest(ModelSpec("m", version=2), (), id="7")
Y = TensorSpec("y", "FP32", (-1, 2))
Z = TensorSpec("z", "INT64", (-1,))


def tensor(datatype: str, values: object, name: str = "x") -> Tensor:
    return Tensor(name, datatype, np.array(values, dtype=NUMPY_DTYPE[datatype]))


def encode(*inputs: Tensor, signature: str | None = None) -> bytes:
    return tfserving_json.encode_request(InferenceRequest(ModelSpec("m", signature_name=signature), inputs))


def decode(outputs: object, *specs: TensorSpec, request: InferenceRequest = REQUEST) -> InferenceResponse:
    return tfserving_json.decode_response(json.dumps({"outputs": outputs}).encode(), request, specs)


def test_requests_are_in_column_form() -> None:
    """Inputs by name, each nested as its shape, numbers in the form of their datatype."""
    assert encode(tensor("FP32", [[0.1, 2]]), tensor("INT64", 5, "n"), signature="s") == (
        b'{"inputs":{"x":[[0.1,2.0]],"n":5},"signature_name":"s"}'
    )
    assert encode(tensor("BOOL", [True])) == b'{"inputs":{"x":[true]}}'


def test_bytes_travel_as_base64() -> None:
    """Whatever they hold; a string would have to be UTF-8."""
    assert encode(tensor("BYTES", [[b"\xff", b""]])) == b'{"inputs":{"x":[[{"b64":"/w=="},{"b64":""}]]}}'


def test_nan_and_infinity_travel_as_bare_tokens() -> None:
    """TF Serving takes them; null or a string it would refuse."""
    body = encode(tensor("FP32", [np.nan, np.inf, -np.inf, 0.5]), tensor("INT32", [[1]], "n"))
    assert body == b'{"inputs": {"x": [NaN, Infinity, -Infinity, 0.5], "n": [[1]]}}'


def test_the_largest_fp32_travels_with_digits_that_are_not_beyond_it() -> None:
    """TF Serving compares as doubles, and refuses the shortest digits, 3.4028235e38, as no FP32."""
    largest = np.finfo(np.float32).max
    for sign in (1, -1):
        (sent,) = json.loads(encode(tensor("FP32", [sign * largest])))["inputs"]["x"]
        assert sent == sign * float(largest)
    assert encode(tensor("FP32", [0.1])) == b'{"inputs":{"x":[0.1]}}'


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "UINT16"])
def test_datatypes_that_its_json_lacks_are_unsupported(datatype: str) -> None:
    """TF Serving itself would answer 501; gRPC carries them."""
    with pytest.raises(GatewayError, match=rf"'x'.*{datatype}.*gRPC") as caught:
        encode(tensor(datatype, [1]))
    assert caught.value.cause is Cause.UNSUPPORTED_DATATYPE


def test_shapes_that_its_json_loses_are_unsupported() -> None:
    """[0, 5] would arrive as [0]; [2, 0] and [0] arrive."""
    with pytest.raises(GatewayError, match=r"'x'.*\[0, 5\]") as caught:
        encode(Tensor("x", "FP32", np.zeros((0, 5), np.float32)))
    assert caught.value.cause is Cause.UNSUPPORTED_DATATYPE
    assert encode(Tensor("x", "FP32", np.zeros((2, 0), np.float32))) == b'{"inputs":{"x":[[],[]]}}'
    assert encode(Tensor("x", "FP32", np.zeros(0, np.float32))) == b'{"inputs":{"x":[]}}'


def test_one_output_comes_without_its_name() -> None:
    """Then the metadata names it; version and id are the request's."""
    response = decode([[1, 2.5]], Y)
    assert (response.model, response.version, response.id) == ("m", 2, "7")
    assert_same(response.outputs[0], tensor("FP32", [[1, 2.5]], "y"))


def test_several_outputs_come_by_name_and_only_wanted_ones_are_read() -> None:
    """REST has no output filter, so it is applied here."""
    both = {"y": [[1, 2]], "z": [3]}
    assert [output.name for output in decode(both, Y, Z).outputs] == ["y", "z"]
    wanted = InferenceRequest(ModelSpec("m"), (), wanted=("z",))
    assert [output.array.tolist() for output in decode(both, Y, Z, request=wanted).outputs] == [[3]]


def test_fp32_is_read_from_short_text_and_tokens() -> None:
    """Shortest texts round to the same FP32; bare NaN and Infinity are numbers here."""
    body = b'{\n    "outputs": [[NaN, -Infinity], [0.1, 1e-45]]\n}'
    values = tfserving_json.decode_response(body, REQUEST, (Y,)).outputs[0].array
    np.testing.assert_array_equal(values, np.array([[np.nan, -np.inf], [0.1, 1e-45]], np.float32))


def test_an_empty_output_has_the_shape_of_its_metadata() -> None:
    """[] is all that is left of [0, 2]."""
    assert decode([], Y).outputs[0].shape == (0, 2)
    assert decode([], TensorSpec("s", "BYTES", (-1, -1, 3))).outputs[0].shape == (0, 0, 3)


def test_strings_come_plain_or_as_base64() -> None:
    """Outputs named `*_bytes` are objects with b64, a scalar included."""
    spec = TensorSpec("s_bytes", "BYTES", (-1,))
    assert decode([{"b64": "/w=="}, {"b64": ""}], spec).outputs[0].array.tolist() == [b"\xff", b""]
    assert decode(["é", ""], spec).outputs[0].array.tolist() == ["é".encode(), b""]
    assert decode({"b64": "/w=="}, TensorSpec("s_bytes", "BYTES", ())).outputs[0].array[()] == b"\xff"


def test_text_that_is_not_utf8_is_what_its_json_cannot_carry() -> None:
    """TF Serving writes such bytes as they are; only outputs called `..._bytes` come as base64."""
    body = b'{"outputs": ["\xff"]}'
    with pytest.raises(GatewayError, match="output 's'.*gRPC carries them.*_bytes") as caught:
        tfserving_json.decode_response(body, REQUEST, (TensorSpec("s", "BYTES", (-1,)),))
    assert caught.value.cause is Cause.UNSUPPORTED_DATATYPE
    with pytest.raises(GatewayError) as caught:
        tfserving_json.decode_response(body, REQUEST, (Y,))
    assert caught.value.cause is Cause.UPSTREAM_BAD_REPLY


@pytest.mark.parametrize(
    ("body", "specs"),
    [
        (b"", (Y,)),
        (b"<html>", (Y,)),
        (b"[]", (Y,)),
        (b'{"predictions": [[1, 2]]}', (Y,)),
        (b'{"outputs": [[1, 2], [3]]}', (Y,)),
        (b'{"outputs": [["a", "b"]]}', (Y,)),
        (b'{"outputs": [[1e39, 1]]}', (Y,)),
        (b'{"outputs": null}', (Y,)),
        (b'{"outputs": [1]}', (Y, Z)),
        (b'{"outputs": {"y": [[1, 2]]}}', (Y, Z)),
        (b'{"outputs": {"y": [[1, 2]], "z": [1.5]}}', (Y, Z)),
        (b'{"outputs": "\xff"}', (Y,)),
        (b'{"outputs": [1]}', (TensorSpec("s", "BYTES", (-1,)),)),
        (b'{"outputs": [{"b64": "?"}]}', (TensorSpec("s", "BYTES", (-1,)),)),
        (b'{"outputs": [{"b64": 1}]}', (TensorSpec("s", "BYTES", (-1,)),)),
        (b'{"outputs": [{"b64": "", "x": ""}]}', (TensorSpec("s", "BYTES", (-1,)),)),
    ],
)
def test_replies_that_break_the_protocol_are_the_servers_fault(body: bytes, specs: tuple[TensorSpec, ...]) -> None:
    """They are UPSTREAM_BAD_REPLY, whatever is wrong."""
    with pytest.raises(GatewayError) as caught:
        tfserving_json.decode_response(body, REQUEST, specs)
    assert caught.value.cause is Cause.UPSTREAM_BAD_REPLY


FRAGMENTS = [
    '"',
    '"outputs"',
    '"out puts"',
    '"1"',
    "[",
    "]",
    "{",
    "}",
    "[[1.5]]",
    "[1,2]",
    "1e999",
    "-0",
    "123456789012345678901",
]
FRAGMENTS += ["true", "null", "NaN", "01", ":", ",", " ", "3.4028235e38", "1e-60", "[]"]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join))
@example('{"outputs":[[1.5,2]],"outputs":[[1,2]]}')
@example('{"out puts":[[1.5,2]]}')
@example('{"outputs":[[1.5],[1,2]]}')
@example('{"outputs":[[true,2]]}')
@example('{"outputs":[[1e39,-1e39]]}')
@example('{"outputs":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}')
def test_a_short_answer_is_read_as_a_long_one(text: str) -> None:
    """What is read by the quicker of two ways is, or is wrong, as it would be by the other."""
    for body in (text, f'{{"outputs":{text}}}'):
        assert told(body.encode()) == told(body.encode() + b" " * 2000)


def told(body: bytes) -> object:
    """What a reply to a model with one FP32 output is read as: its tensor, or the cause of its failure."""
    try:
        (output,) = tfserving_json.decode_response(body, REQUEST, (Y,)).outputs
    except GatewayError as exc:
        return exc.cause
    return output.name, output.datatype, output.array.dtype, output.shape, output.array.tobytes()


def metadata(**signatures: object) -> bytes:
    spec = {"name": "m", "signature_name": "", "version": "4"}
    return json.dumps({"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}}).encode()


def info(dtype: str, *sizes: str, unknown_rank: bool = False) -> dict[str, object]:
    dims = [{"size": size, "name": ""} for size in sizes]
    return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": unknown_rank}, "name": "x:0"}


def test_metadata_is_each_signatures_tensors() -> None:
    """By name, with Open Inference Protocol datatypes and sizes as numbers; an unknown rank is told, and said to be."""
    served = {
        "inputs": {"x": info("DT_FLOAT", "-1", "10")},
        "outputs": {"b": info("DT_STRING", unknown_rank=True), "a": info("DT_HALF")},
        "method_name": "tensorflow/serving/predict",
    }
    expected = ModelMetadata(
        "m",
        (4,),
        "tensorflow_savedmodel",
        (TensorSpec("x", "FP32", (-1, 10)),),
        (TensorSpec("a", "FP16", ()), TensorSpec("b", "BYTES", (-1,), ranked=False)),
    )
    found = tfserving_json.decode_signatures(metadata(another=served, serving_default=served))
    assert list(found.items()) == [("serving_default", expected), ("another", expected)]


def test_signatures_that_cannot_be_carried() -> None:
    """One with a dtype without a word is left out, as TensorFlow's own are; where it is the default one, it is told."""
    odd = {"inputs": {"z": info("DT_COMPLEX64")}, "outputs": {"z": info("DT_FLOAT")}}
    assert tfserving_json.decode_signatures(metadata(s=odd, __saved_model_init_op={})) == {}
    with pytest.raises(GatewayError, match="DT_COMPLEX64") as caught:
        tfserving_json.decode_signatures(metadata(serving_default=odd))
    assert caught.value.cause is Cause.UNSUPPORTED_DATATYPE


def test_status_is_the_available_versions_newest_first() -> None:
    """Loading, unloading and ended versions cannot answer; versions come as strings."""
    states = {"2": "AVAILABLE", "10": "AVAILABLE", "11": "LOADING", "1": "END"}
    statuses = [{"version": version, "state": state, "status": {}} for version, state in states.items()]
    assert tfserving_json.decode_status(json.dumps({"model_version_status": statuses}).encode()) == (10, 2)
    assert tfserving_json.decode_status(b'{"model_version_status": []}') == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"<html>",
        b'{"model_version_status": 1}',
        b'{"model_version_status": [1]}',
        b'{"model_version_status": [{"version": "x", "state": "AVAILABLE"}]}',
        b'{"model_version_status": [{"version": 1e400, "state": "AVAILABLE"}]}',
        b'{"model_spec": 1, "metadata": {}}',
        metadata(serving_default=1),
        metadata(serving_default={"inputs": [], "outputs": {}}),
        metadata(serving_default={"inputs": {"x": {"dtype": "DT_FLOAT"}}, "outputs": {}}),
        metadata(serving_default={"inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": []}}, "outputs": {}}),
        metadata(serving_default={"inputs": {"x": info("DT_FLOAT", "many")}, "outputs": {}}),
        metadata(serving_default={"inputs": {"x": {"dtype": ["DT_FLOAT"], "tensor_shape": {}}}, "outputs": {}}),
    ],
)
def test_status_and_metadata_of_another_structure_are_bad_replies(body: bytes) -> None:
    """Both decoders refuse what is not theirs."""
    for decoder in (tfserving_json.decode_status, tfserving_json.decode_signatures):
        with pytest.raises(GatewayError) as caught:
            decoder(body)
        assert caught.value.cause is Cause.UPSTREAM_BAD_REPLY


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            b'{\n    "error": "Servable not found for request: Latest(m)"\n}',
            "Servable not found for request: Latest(m)",
        ),
        (b'{"message": "text"}', "text"),
        (b"<HTML>404</HTML>\n", "<HTML>404</HTML>"),
        (b'{"error": {"code": 1}}', '{"error": {"code": 1}}'),
        (b"\xff", "\ufffd"),
        (b"", ""),
    ],
)
def test_error_texts(body: bytes, text: str) -> None:
    """The text of the error object, else whatever came."""
    assert tfserving_json.error_text(body) == text


def test_error_texts_are_capped() -> None:
    """A server cannot fill an answer."""
    assert len(tfserving_json.error_text(json.dumps({"error": "x" * 5000}).encode())) == 512


def has_lost_shape(item: Tensor) -> bool:
    return 0 in item.shape[:-1]


@untimed
@given(pairs(datatypes=DATATYPES - {"FP16", "BF16", "UINT16"}))
def test_tensors_survive(inputs: tuple[Tensor, ...]) -> None:
    """Every datatype and shape that its JSON can carry, non-finite values included, read back as a reply."""
    if any(has_lost_shape(item) for item in inputs):
        return
    columns = json.loads(encode(*inputs))["inputs"]
    outputs = next(iter(columns.values())) if len(columns) == 1 else columns
    specs = tuple(TensorSpec(item.name, item.datatype, item.shape) for item in inputs)
    for item, back in zip(inputs, decode(outputs, *specs).outputs, strict=True):
        assert_same(item, back, bits=False)


@untimed
@given(st.binary(max_size=60) | st.text('{}[]":,1.eoutps', max_size=60).map(str.encode))
def test_any_bytes_are_a_reply_or_bad(body: bytes) -> None:
    """No decoder raises anything but UPSTREAM_BAD_REPLY."""
    for decoder in (
        lambda: tfserving_json.decode_response(body, REQUEST, (Y,)),
        lambda: tfserving_json.decode_signatures(body),
        lambda: tfserving_json.decode_status(body),
    ):
        try:
            decoder()  # type: ignore[no-untyped-call]
        except GatewayError as exc:
            assert exc.cause is Cause.UPSTREAM_BAD_REPLY  # noqa: PT017 - most bytes raise, some are an answer
    assert len(tfserving_json.error_text(body)) <= 512
