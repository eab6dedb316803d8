"""The TorchServe handler: frames and JSON in and out, the contract, and batches in which one request is bad."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from gateway.core import tensor as core
from gateway.core.errors import Cause
from gateway.core.messages import Bounds, TensorSpec
from serving.torchserve import handler
from tests.builders import contract, tensor
from tests.unit.serving.toys import MIXER, Doubler, FakeContext, Mixer, frame, packed, unpacked, write_model

OCTETS = "application/octet-stream"
JSON = "application/json"

pytestmark = pytest.mark.filterwarnings(r"ignore:.torch\.jit\.:DeprecationWarning")

GOOD = ((1.0, 2.0), (3.0, 4.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The doubler's unpacked archive."""
    return write_model(tmp_path_factory.mktemp("doubler"), Doubler(), contract())


@pytest.fixture(scope="module")
def mixer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mixer's unpacked archive."""
    return write_model(tmp_path_factory.mktemp("mixer"), Mixer(), MIXER)


@pytest.fixture
def ask(folder: Path) -> Callable[..., tuple[list[bytes], FakeContext]]:
    """Sends a batch to the loaded doubler: rows, and the content types of REST bodies."""

    def send(*rows: dict[str, Any], types: tuple[str | None, ...] = ()) -> tuple[list[bytes], FakeContext]:
        context = FakeContext(folder, contract(), types)
        assert handler.handle(None, context) is None
        answers = handler.handle(list(rows), context)
        assert answers is not None
        return answers, context

    return send


def _outputs(reply: bytes) -> dict[str, core.Tensor]:
    header, buffers = unpacked(reply)
    outputs = {}
    for item in header["outputs"]:
        size = item["parameters"]["binary_data_size"]
        outputs[item["name"]] = core.from_raw(item["name"], item["datatype"], item["shape"], buffers[:size])
        buffers = buffers[size:]
    assert not buffers
    return outputs


def _error(reply: bytes) -> tuple[str, str]:
    header, buffers = unpacked(reply)
    assert not buffers
    assert set(header) == {"error", "cause"}
    return header["cause"], header["error"]


@pytest.mark.parametrize(("key", "content_type"), [("frame", None), ("body", OCTETS)], ids=["grpc", "rest"])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_frame_is_answered_by_a_frame(ask: Any, key: str, content_type: str | None, kind: type) -> None:
    """Over gRPC under `frame`, over REST as octets: named outputs, the model's version, the request's id, HTTP 200."""
    (reply,), context = ask({key: kind(frame([tensor("x", GOOD)], id="r1"))}, types=(content_type,))
    header, _ = unpacked(reply)
    assert (header["model_name"], header["model_version"], header["id"]) == ("doubler", "1", "r1")
    np.testing.assert_array_equal(_outputs(reply)["y"].array, 2 * np.asarray(GOOD, "f4"))
    assert (context.statuses, context.reply_types) == ({}, {0: OCTETS})
    assert (len(reply) - len(unpacked(reply)[1])) % 8 == 0  # the first buffer is aligned


@pytest.mark.parametrize(
    ("row", "content_type"),
    [
        ({"body": {"inputs": {"x": GOOD}}}, JSON),
        ({"body": json.dumps({"inputs": {"x": GOOD}})}, "text/plain"),
        ({"body": bytearray(json.dumps({"inputs": {"x": GOOD}}).encode())}, "Application/JSON"),
        ({"body": bytearray(json.dumps({"inputs": {"x": GOOD}}).encode())}, None),
        ({"data": bytearray(json.dumps({"inputs": {"x": GOOD}}).encode())}, None),
    ],
    ids=["parsed", "text", "unparsed", "grpc-body", "grpc-data"],
)
def test_json_is_answered_by_json(ask: Any, row: dict[str, Any], content_type: str | None) -> None:
    """Whatever TorchServe made of the body, nested lists come back under the outputs' names."""
    if isinstance(row.get("body"), dict):
        row = json.loads(json.dumps(row))
    (reply,), context = ask(row, types=(content_type,))
    assert json.loads(reply) == {"outputs": {"y": [[2.0, 4.0], [6.0, 8.0]]}}
    assert (context.statuses, context.reply_types) == ({}, {0: JSON})


def test_a_bad_request_never_fails_its_neighbours(ask: Any) -> None:
    """One batch of good, malformed, wrong, failing and good requests: each gets its own answer, in order."""
    replies, context = ask(
        {"frame": frame([tensor("x", GOOD)])},
        {"frame": b"\x01"},
        {"body": {"inputs": {"x": [[1.0]]}}},
        {"frame": frame([tensor("x", [[13.0, 0.0]])])},
        {"data": b'{"inputs": {"x": [[13.0, 0.0]]}}'},
        {"body": {"inputs": {"x": [[5.0, 6.0]]}}},
        types=(None, None, JSON, None, None, JSON),
    )
    assert _outputs(replies[0])["y"].array.tolist() == [[2.0, 4.0], [6.0, 8.0]]
    assert _error(replies[1])[0] == Cause.UNPARSEABLE
    assert json.loads(replies[2])["type"] == "BadRequestException"
    assert _error(replies[3]) == (
        Cause.UPSTREAM_FAILED,
        "Prediction failed: builtins.RuntimeError: thirteen is unlucky",
    )
    assert json.loads(replies[4])["message"] == "Prediction failed: builtins.RuntimeError: thirteen is unlucky"
    assert json.loads(replies[5]) == {"outputs": {"y": [[10.0, 12.0]]}}
    assert context.statuses == {2: 400, 4: 503}


def _wire(name: str = "x", shape: object = (1, 2), datatype: object = "FP32", size: object = 8) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}


MALFORMED = {
    "empty": b"",
    "shorter than its length": b"\x10\x00",
    "header beyond the end": struct.pack("<I", 100) + b"{}",
    "no header": struct.pack("<I", 0),
    "huge header": struct.pack("<I", 2**32 - 1) + b"{}",
    "not JSON": packed(b"{"),
    "not UTF-8": packed(b"\xff\xfe\xff"),
    "deep": packed(b"[" * 100_000),
    "no object": packed([1]),
    "no inputs": packed({}),
    "inputs no list": packed({"inputs": {}}),
    "input no object": packed({"inputs": [1]}),
    "no name": packed({"inputs": [{"shape": [1, 2], "datatype": "FP32"}]}),
    "name no text": packed({"inputs": [{**_wire(), "name": 1}]}, b"\0" * 8),
    "shape no list": packed({"inputs": [_wire(shape=2)]}, b"\0" * 8),
    "shape of texts": packed({"inputs": [_wire(shape=["1", "2"])]}, b"\0" * 8),
    "shape of booleans": packed({"inputs": [_wire(shape=[True, 2])]}, b"\0" * 8),
    "shape beyond 64 bits": packed({"inputs": [_wire(shape=[0, 2**70], size=0)]}),
    "no size": packed({"inputs": [{**_wire(), "parameters": {}}]}, b"\0" * 8),
    "no parameters": packed({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32"}]}, b"\0" * 8),
    "size no number": packed({"inputs": [_wire(size="8")]}, b"\0" * 8),
    "size a boolean": packed({"inputs": [_wire(size=True)]}, b"\0"),
    "negative size": packed({"inputs": [_wire(size=-8)]}),
    "truncated": packed({"inputs": [_wire()]}, b"\0" * 7),
    "overlong": packed({"inputs": [_wire()]}, b"\0" * 9),
    "size against shape": packed({"inputs": [_wire(size=12)]}, b"\0" * 12),
    "no whole elements": packed({"inputs": [_wire(size=7)]}, b"\0" * 7),
    "impossible empty shape": packed({"inputs": [_wire(shape=[0, 2**62, 2**62], size=0)]}),
    "more elements than bytes": packed({"inputs": [_wire(datatype="BYTES", shape=[2**40], size=8)]}, b"\0" * 8),
    "element beyond the end": packed({"inputs": [_wire(datatype="BYTES", shape=[1], size=6)]}, b"\x05\0\0\0ab"),
    "length cut off": packed({"inputs": [_wire(datatype="BYTES", shape=[2], size=9)]}, b"\x03\0\0\0abc\0\0"),
    "bytes left over": packed({"inputs": [_wire(datatype="BYTES", shape=[1], size=6)]}, b"\x01\0\0\0ab"),
    "id no text": packed({"inputs": [_wire()], "id": 7}, b"\0" * 8),
    "outputs no objects": packed({"inputs": [_wire()], "outputs": ["y"]}, b"\0" * 8),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_frame_is_unparseable(ask: Any, data: bytes) -> None:
    """Lengths that disagree, fields of the wrong type, text that is no JSON: refused, as one of the frame's errors."""
    (reply,), _ = ask({"frame": data})
    cause, text = _error(reply)
    assert cause == Cause.UNPARSEABLE
    assert 0 < len(text) < 300


WRONG = {
    "unknown input": (frame([tensor("z", GOOD)]), "'z'"),
    "missing input": (frame(), "'x' is missing"),
    "given twice": (frame([tensor("x", GOOD), tensor("x", GOOD)]), "twice"),
    "datatype": (frame([tensor("x", GOOD, "FP64")]), "FP64; expected FP32"),
    "unknown datatype": (packed({"inputs": [_wire(datatype="FP8")]}, b"\0" * 8), "unknown datatype"),
    "shape": (frame([tensor("x", [[1.0]])]), "[1, 1]; expected [-1, 2]"),
    "rank": (frame([tensor("x", [1.0])]), "[1]; expected [-1, 2]"),
    "negative dimension": (packed({"inputs": [_wire(shape=[-1, 2])]}, b"\0" * 8), "negative"),
    "too many dimensions": (packed({"inputs": [_wire(shape=[1] * 33, size=4)]}, b"\0" * 4), "32"),
    "batch cap": (frame([tensor("x", [[0.0, 0.0]] * 9)]), "9 rows; a request takes at most 8"),
    "NaN": (frame([tensor("x", [[np.nan, 0.0]])]), "NaN"),
    "infinity": (frame([tensor("x", [[np.inf, 0.0]])]), "infinity"),
    "unknown output": (frame([tensor("x", GOOD)], outputs=[{"name": "z"}]), "no output 'z'"),
}


@pytest.mark.parametrize(("data", "words"), WRONG.values(), ids=WRONG.keys())
def test_a_frame_that_breaks_the_contract_is_invalid_input(ask: Any, data: bytes, words: str) -> None:
    """Names, datatypes, shapes, rows and values are checked; the text says what was expected."""
    (reply,), _ = ask({"frame": data})
    cause, text = _error(reply)
    assert cause == Cause.INVALID_INPUT
    assert words in text


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[0.0, -0.5]], "input 'x' holds -0.5; its least value is 0"),
        ([[9.0, 0.0]], "input 'x' holds 9.0; its greatest value is 8"),
        ([[1.0, 2.0]] * 4, "input 'x' has shape [4, 2]; its largest is [3, -1]"),
        ([[0.0, 8.0]] * 3, ""),
        (np.zeros((0, 2)), ""),
    ],
)
def test_what_passes_the_contracts_bounds_is_invalid_input(tmp_path: Path, rows: Any, words: str) -> None:
    """Not a failure of the model, which may not even notice; the bounds themselves pass."""
    its = contract(inputs=(TensorSpec("x", "FP32", (-1, 2), bounds=Bounds(0, 8, (3, -1))),))
    context = FakeContext(write_model(tmp_path, Doubler(), its), its, ())
    handler.handle(None, context)  # type: ignore[arg-type]
    (reply,) = handler.handle([{"frame": frame([tensor("x", rows)])}], context) or ()  # type: ignore[arg-type]
    if words:
        assert _error(reply)[0] == Cause.INVALID_INPUT
        assert words in _error(reply)[1]
    else:
        assert _outputs(reply)


WRONG_JSON = {
    "not JSON": (b"{", "not JSON"),
    "empty": (b"", "not JSON"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "no object": (b"[1]", "the body is not"),
    "no inputs": (b"{}", "the body is not"),
    "inputs no object": (b'{"inputs": [[1, 2]]}', "the body is not"),
    "unknown field": (b'{"inputs": {"x": [[1, 2]]}, "extra": 1}', "the body is not"),
    "unknown input": (b'{"inputs": {"z": [[1, 2]]}}', "'z'"),
    "missing input": (b'{"inputs": {}}', "'x' is missing"),
    "ragged": (b'{"inputs": {"x": [[1, 2], [3]]}}', "ragged"),
    "ragged depth": (b'{"inputs": {"x": [[1, 2], 3]}}', "ragged"),
    "shape": (b'{"inputs": {"x": [[1, 2, 3]]}}', "[1, 3]; expected [-1, 2]"),
    "too deep": (b'{"inputs": {"x": [[[1, 2]]]}}', "expected [-1, 2]"),
    "no list": (b'{"inputs": {"x": 1}}', "[]; expected [-1, 2]"),
    "nothing": (b'{"inputs": {"x": []}}', "[0]; expected [-1, 2]"),
    "boolean": (b'{"inputs": {"x": [[1, true]]}}', "other things than FP32"),
    "text": (b'{"inputs": {"x": [[1, "2"]]}}', "other things than FP32"),
    "null": (b'{"inputs": {"x": [[1, null]]}}', "other things than FP32"),
    "object": (b'{"inputs": {"x": [[1, {}]]}}', "other things than FP32"),
    "out of range": (b'{"inputs": {"x": [[1, 1e39]]}}', "out of the range of FP32"),
    "integer out of range": (b'{"inputs": {"x": [[1, 1' + b"0" * 400 + b"]]}}", "out of the range of FP32"),
    "NaN": (b'{"inputs": {"x": [[1, NaN]]}}', "NaN"),
    "infinity": (b'{"inputs": {"x": [[1, Infinity]]}}', "infinity"),
    "batch cap": (b'{"inputs": {"x": [' + b",".join([b"[1, 2]"] * 9) + b"]}}", "9 rows"),
}


@pytest.mark.parametrize(("body", "words"), WRONG_JSON.values(), ids=WRONG_JSON.keys())
def test_json_that_breaks_the_contract_is_a_bad_request(ask: Any, body: bytes, words: str) -> None:
    """TorchServe's own error body, with the status over REST; the text says what was expected."""
    (reply,), context = ask({"data": bytearray(body)})
    error = json.loads(reply)
    assert (error["code"], error["type"]) == (400, "BadRequestException")
    assert words in error["message"]
    assert context.statuses == {0: 400}


def test_a_request_without_a_body_is_a_bad_request(ask: Any) -> None:
    """Form fields, or nothing at all, are no JSON body."""
    for row in ({}, {"x": b"1"}):
        (reply,), context = ask(row)
        assert json.loads(reply)["code"] == 400
        assert context.statuses == {0: 400}


def test_datatypes_keep_their_bits_and_tuples_get_the_contracts_names(mixer_folder: Path) -> None:
    """BF16 and 64-bit integers pass unchanged, inputs in any order; wanted outputs alone are sent."""
    context = FakeContext(mixer_folder, MIXER)
    handler.handle(None, context)
    counts = tensor("counts", [[2**62, -1]], "INT64")
    halves = tensor("halves", [[0.5, -1.25]], "BF16")
    replies = handler.handle(
        [
            {"frame": frame([halves, counts])},
            {"frame": frame([halves, counts], outputs=[{"name": "more_halves"}])},
        ],
        context,
    )
    assert replies is not None
    outputs = _outputs(replies[0])
    assert outputs["more_counts"].array.tolist() == [[2**62 + 1, 0]]
    assert outputs["more_halves"].array.astype("f4").tolist() == [[1.5, -0.25]]
    assert outputs["more_halves"].array.dtype == ml_dtypes.bfloat16
    assert list(_outputs(replies[1])) == ["more_halves"]
    assert unpacked(replies[0])[0]["model_version"] == "3"


@pytest.mark.parametrize(
    ("values", "words"),
    [("[[1.5, 0]]", "other things than INT64"), ("[[9223372036854775808, 0]]", "out of the range of INT64")],
)
def test_integers_are_integers(mixer_folder: Path, values: str, words: str) -> None:
    """A fraction is no INT64, nor is a number beyond 64 bits."""
    context = FakeContext(mixer_folder, MIXER)
    handler.handle(None, context)
    replies = handler.handle([{"data": f'{{"inputs": {{"counts": {values}}}}}'.encode()}], context)
    assert replies is not None
    assert words in json.loads(replies[0])["message"]


def test_json_carries_no_bf16(mixer_folder: Path) -> None:
    """Datatypes that JSON has no numbers for are refused, naming the frame."""
    context = FakeContext(mixer_folder, MIXER)
    handler.handle(None, context)
    replies = handler.handle([{"data": b'{"inputs": {"counts": [[1, 2]], "halves": [[1, 2]]}}'}], context)
    assert replies is not None
    assert "BF16 travels in a frame only" in json.loads(replies[0])["message"]


def test_rows_must_agree_between_inputs(mixer_folder: Path) -> None:
    """Dimension 0 is the batch: inputs of different rows are refused."""
    context = FakeContext(mixer_folder, MIXER)
    handler.handle(None, context)
    data = frame([tensor("counts", [[1, 2]], "INT64"), tensor("halves", [[1, 2], [3, 4]], "BF16")])
    replies = handler.handle([{"frame": data}], context)
    assert replies is not None
    assert _error(replies[0]) == (Cause.INVALID_INPUT, "the inputs differ in rows: [1, 2]; dimension 0 is the batch")


@pytest.mark.parametrize("datatype", sorted(core.DATATYPES))
def test_every_datatype_survives_the_frame(datatype: str) -> None:
    """A frame written from the gateway's tensors is read, and written again, to the same bytes."""
    values: Any = [[b"", b"\xff\x00"], [b"abc", b"d"]] if datatype == "BYTES" else [[0, 1], [1, 1]]
    sent = tensor("x", values, datatype)
    (read,) = handler.decode_frame(frame([sent])).inputs
    assert (read.name, read.datatype, read.array.shape) == ("x", datatype, (2, 2))
    (header, buffers) = unpacked(handler.encode_reply("m", "1", None, [read]))
    assert buffers == bytes(core.to_raw(sent))
    assert header["outputs"][0]["parameters"]["binary_data_size"] == len(buffers)


def test_a_bool_byte_is_zero_or_one() -> None:
    """Another byte would be a number that torch takes for neither."""
    with pytest.raises(handler.Refused, match="neither 0 nor 1") as refused:
        handler.decode_frame(packed({"inputs": [_wire(datatype="BOOL", size=2)]}, b"\x00\x02"))
    assert refused.value.cause == Cause.INVALID_INPUT


def test_an_output_that_json_cannot_carry_is_refused_there_and_framed_elsewhere(tmp_path: Path) -> None:
    """Infinity travels in a frame; in JSON the client is told so."""
    its = contract(finite="allowed")
    context = FakeContext(write_model(tmp_path, Doubler(), its), its)
    handler.handle(None, context)
    replies = handler.handle(
        [{"frame": frame([tensor("x", [[np.inf, 3e38]])])}, {"data": b'{"inputs": {"x": [[1, 3e38]]}}'}], context
    )
    assert replies is not None
    assert _outputs(replies[0])["y"].array.tolist() == [[np.inf, np.inf]]
    assert "NaN or infinity, which travels in a frame only" in json.loads(replies[1])["message"]


def test_an_output_that_breaks_the_contract_is_the_models_failure(tmp_path: Path) -> None:
    """A model that gives another datatype than its contract says has failed, by name."""
    its = contract(outputs=(TensorSpec("y", "FP64", (-1, 2)),))
    context = FakeContext(write_model(tmp_path, Doubler(), its), its)
    handler.handle(None, context)
    replies = handler.handle([{"frame": frame([tensor("x", GOOD)])}], context)
    assert replies is not None
    assert _error(replies[0]) == (
        Cause.UPSTREAM_FAILED,
        "Prediction failed: the model gave no output 'y' of FP64 [-1, 2]",
    )


def test_torch_is_set_up_from_the_archives_yaml(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The threads come from model-config.yaml, TF32 is off, and the log says where the model runs."""
    before = torch.get_num_threads()
    try:
        with caplog.at_level(logging.INFO):
            handler.handle(None, FakeContext(folder, contract(), yaml={"torch": {"intraOpThreads": 2}}))
        assert torch.get_num_threads() == 2
        assert not torch.backends.cuda.matmul.allow_tf32
        assert "Model doubler version 1 runs on cpu, torch threads: 2" in caplog.text
    finally:
        torch.set_num_threads(before)


def test_answers_do_not_depend_on_their_neighbours(ask: Any) -> None:
    """A request gives the same bits alone and in a batch: nothing is joined."""
    one = frame([tensor("x", np.random.default_rng(1).normal(size=(3, 2)))])
    (alone,), _ = ask({"frame": one})
    together, _ = ask({"frame": frame([tensor("x", GOOD)])}, {"frame": one}, {"frame": one})
    assert together[1:] == [alone, alone]
