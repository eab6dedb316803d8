"""The TorchServe handler: named tensors in and out, as one binary frame or as JSON, over REST and gRPC.

Packed into every `.mar` beside the model, `contract.json` and runtimes.py, which runs the model in the way that
model-config.yaml names; it imports only those, numpy and the standard library.

The frame: u32 little-endian header length, a JSON header, then the raw buffers in the header's order, in the Open
Inference Protocol's raw layout (little-endian, row-major; BOOL one byte; BYTES as u32 length before each element).
Request header: {"id"?, "inputs": [{"name", "shape", "datatype", "parameters": {"binary_data_size": N}}], "outputs"?:
[{"name"}]}. Reply header: {"model_name", "model_version", "id"?, "outputs": [...]}, or {"error", "cause"}. A frame's
answer is always HTTP 200: TorchServe closes the connection on every error status, and loses a status over gRPC.

JSON, for clients without the frame: {"inputs": {name: nested list}} gives {"outputs": {name: nested list}}; an error
is TorchServe's own error body. Over REST a frame is `application/octet-stream` and anything else JSON; over gRPC the
frame travels under the map key `frame`, JSON under `data` or `body`.
TorchScript has no type for BYTES: a graph takes and gives such a tensor as a pair, all its bytes (UINT8 [n]) and each
element's length (INT64, of the tensor's own shape).
"""

from __future__ import annotations

import json
import logging
import math
import struct
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

if __package__:
    from serving.torchserve import runtimes
    from serving.torchserve.runtimes import NUMPY
else:  # in an archive the files lie side by side
    import runtimes
    from runtimes import NUMPY

if TYPE_CHECKING:
    from ts.context import Context

T = TypeVar("T")
logger = logging.getLogger(__name__)

FLOATS = frozenset({"FP16", "BF16", "FP32", "FP64"})
MAX_RANK = 32
FRAME_TYPE = "application/octet-stream"


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """Raised where one request gets an error for its answer; `cause` is one of the gateway's causes."""

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause


_malformed, _invalid = partial(Refused, "unparseable"), partial(Refused, "invalid_input")


@dataclass(frozen=True)
class Tensor:
    """A named tensor, its array of the dtype in `NUMPY`; a BYTES array holds `bytes`."""

    name: str
    datatype: str
    array: np.ndarray[Any, Any]

    def finite(self) -> bool:
        """Whether it is free of NaN and infinity."""
        if self.datatype == "BF16":  # all exponent bits set
            return not bool(((self.array & 0x7F80) == 0x7F80).any())
        return self.datatype not in FLOATS or bool(np.isfinite(self.array).all())


@dataclass(frozen=True)
class Spec:
    """What the contract says of one input or output; -1 marks a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether `shape` is allowed."""
        return len(shape) == len(self.shape) and all(w in (-1, n) for n, w in zip(shape, self.shape, strict=True))

    def __str__(self) -> str:
        return f"{self.datatype} {list(self.shape)}"


@dataclass(frozen=True)
class Request:
    """One inference as it arrived; `wanted` names the outputs asked for, empty for all of them."""

    inputs: tuple[Tensor, ...]
    wanted: tuple[str, ...] = ()
    id: str | None = None


class Contract:
    """The model's `contract.json`, as far as requests are checked against it."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.inputs, self.outputs = (
            {item["name"]: Spec(item["name"], item["datatype"], tuple(item["shape"])) for item in document[side]}
            for side in ("inputs", "outputs")
        )
        self.bounds: dict[str, Any] = {item["name"]: item["bounds"] for item in document["inputs"] if "bounds" in item}
        self.batch_cap: int | None = document.get("batch_cap")
        self.must_be_finite = document.get("finite", "required") == "required"

    def input(self, name: str) -> Spec:
        """The input called `name`."""
        if name not in self.inputs:
            raise _invalid(f"there is no input '{name[:64]}'; expected {', '.join(self.inputs)}")
        return self.inputs[name]

    def check(self, request: Request) -> tuple[Tensor, ...]:
        """The inputs in the contract's order; refused where they break it."""
        given = {tensor.name: self._check_input(self.input(tensor.name), tensor) for tensor in request.inputs}
        if len(given) != len(request.inputs):
            raise _invalid("an input is given twice")
        for name, spec in self.inputs.items():
            if name not in given:
                raise _invalid(f"input '{name}' is missing; expected {spec}")
        for name in request.wanted:
            if name not in self.outputs:
                raise _invalid(f"there is no output '{name[:64]}'; expected {', '.join(self.outputs)}")
        if self.batch_cap is not None:
            rows = {tensor.array.shape[0] for tensor in given.values()}
            if len(rows) > 1:
                raise _invalid(f"the inputs differ in rows: {sorted(rows)}; dimension 0 is the batch")
            if max(rows) > self.batch_cap:
                raise _invalid(f"{max(rows)} rows; a request takes at most {self.batch_cap}")
        return tuple(given[name] for name in self.inputs)

    def _check_input(self, spec: Spec, tensor: Tensor) -> Tensor:
        if tensor.datatype != spec.datatype:
            raise _invalid(f"input '{spec.name}' is {tensor.datatype}; expected {spec.datatype}")
        if not spec.fits(tensor.array.shape):
            raise _invalid(f"input '{spec.name}' has shape {list(tensor.array.shape)}; expected {list(spec.shape)}")
        if self.must_be_finite and not tensor.finite():
            raise _invalid(f"input '{spec.name}' holds NaN or infinity; expected finite values")
        if spec.name in self.bounds and (wrong := runtimes.beyond(tensor.array, **self.bounds[spec.name])):
            raise _invalid(f"input '{spec.name}' {wrong}")
        return tensor


def parse_json(text: str | bytes | bytearray | memoryview, what: str) -> object:
    """The JSON in `text`; refused where it is none."""
    try:
        return json.loads(text if isinstance(text, str) else bytes(text))
    except (ValueError, TypeError, RecursionError):
        raise _malformed(f"{what} is not JSON, or is nested too deeply") from None


def decode_frame(data: bytes | bytearray) -> Request:
    """A request from its frame; its arrays may be views of `data`. Refused where lengths disagree."""
    view = memoryview(data)
    size = struct.unpack_from("<I", view)[0] if len(view) >= 4 else 0
    offset = 4 + size
    if not 4 < offset <= len(view):
        raise _malformed(f"a frame of {len(view)} bytes cannot hold a header of {size} bytes")
    header: Any = parse_json(view[4:offset], "the frame's header")
    tensors = []
    for item in _field(header, "inputs", list):
        name, datatype, shape, length = _described(item)
        if length > len(view) - offset:
            raise _malformed(f"input '{name[:64]}': its {length} bytes reach beyond the frame's end")
        tensors.append(from_raw(name, datatype, shape, view[offset : offset + length]))
        offset += length
    if offset != len(view):
        raise _malformed(f"the frame has {len(view) - offset} bytes more than its header announces")
    wanted = tuple(_field(item, "name", str) for item in _field(header, "outputs", list)) if "outputs" in header else ()
    return Request(tuple(tensors), wanted, _field(header, "id", str) if "id" in header else None)


def _field(item: object, key: str, kind: type[T]) -> T:
    value = item.get(key) if isinstance(item, dict) else None
    if type(value) is not kind:  # not isinstance: to it, True is an int
        raise _malformed(f"the frame's header: '{key}' is missing or no {kind.__name__}")
    return value


def _described(item: object) -> tuple[str, str, tuple[int, ...], int]:
    name, datatype, shape = _field(item, "name", str), _field(item, "datatype", str), _field(item, "shape", list)
    length = _field(_field(item, "parameters", dict), "binary_data_size", int)
    if length < 0 or not all(type(size) is int and abs(size) < 2**63 for size in shape):
        raise _malformed(f"input '{name[:64]}': its shape or 'binary_data_size' is not made of sizes")
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise _invalid(f"input '{name[:64]}': negative dimensions, or more than {MAX_RANK}")
    if datatype not in NUMPY:
        raise _invalid(f"input '{name[:64]}': unknown datatype; expected one of {', '.join(NUMPY)}")
    return name, datatype, tuple(shape), length


def from_raw(name: str, datatype: str, shape: tuple[int, ...], raw: memoryview) -> Tensor:
    """A tensor from the raw layout; refused where the bytes do not make up the shape."""
    try:
        flat = _split(raw, math.prod(shape)) if datatype == "BYTES" else np.frombuffer(raw, NUMPY[datatype])
        array = flat.reshape(shape)
    except (ValueError, struct.error):
        raise _malformed(f"input '{name[:64]}': {len(raw)} bytes are not {datatype} of shape {list(shape)}") from None
    if datatype == "BOOL" and array.view(np.uint8).max(initial=0) > 1:
        raise _invalid(f"input '{name[:64]}': a BOOL byte is neither 0 nor 1")
    return Tensor(name, datatype, array)


def _split(raw: memoryview, count: int) -> np.ndarray[Any, Any]:
    # Each element takes at least its length, so that a huge count over little data allocates nothing.
    items, offset = np.empty(count if 4 * count <= len(raw) else 0, object), 0
    for index in range(len(items)):
        end = offset + 4 + struct.unpack_from("<I", raw, offset)[0]
        items[index], offset = bytes(raw[offset + 4 : end]), end
    if offset != len(raw):
        raise ValueError
    return items


def encode_frame(header: dict[str, Any], buffers: tuple[bytes, ...] = ()) -> bytes:
    """A frame. Spaces pad its header, so that the first buffer starts at a multiple of 8 bytes."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(4 + len(text)) % 8)
    return b"".join([struct.pack("<I", len(text)), text, *buffers])


def encode_reply(model: str, version: str, request_id: str | None, outputs: list[Tensor]) -> bytes:
    """The frame of an answer."""
    described, buffers = [], []
    for tensor in outputs:
        raw = tensor.array.tobytes()
        if tensor.datatype == "BYTES":
            raw = b"".join(struct.pack("<I", len(item)) + item for item in tensor.array.flat)
        entry = {"name": tensor.name, "shape": list(tensor.array.shape), "datatype": tensor.datatype}
        described.append({**entry, "parameters": {"binary_data_size": len(raw)}})
        buffers.append(raw)
    header = {"model_name": model, "model_version": version, "outputs": described}
    return encode_frame(header if request_id is None else {**header, "id": request_id}, tuple(buffers))


def decode_json(body: dict[str, Any] | list[Any] | str | bytearray, contract: Contract) -> Request:
    """A request from the JSON that TorchServe parsed, or from its text."""
    document = body if isinstance(body, (dict, list)) else parse_json(body, "the body")
    inputs = document.get("inputs") if isinstance(document, dict) and len(document) == 1 else None
    if not isinstance(inputs, dict):
        raise _invalid('the body is not {"inputs": {name: nested list}}')
    return Request(tuple(tensor_from_json(contract.input(name), value) for name, value in inputs.items()))


def tensor_from_json(spec: Spec, value: object) -> Tensor:
    """A tensor from a nested list; refused where it is ragged, of the wrong kind or shape, or out of range."""
    if spec.datatype in ("BF16", "BYTES"):
        raise Refused("unsupported_datatype", f"input '{spec.name}': {spec.datatype} travels in a frame only")
    flat: list[Any] = [value]
    shape: list[int] = []
    # One level deeper than the contract is enough to know that the shape is wrong, however deep the nesting goes.
    while list in (kinds := set(map(type, flat))) and len(shape) <= len(spec.shape):
        if len(kinds) > 1 or len(lengths := set(map(len, flat))) > 1:
            raise _invalid(f"input '{spec.name}' is ragged: its lists differ in length or in depth")
        shape += lengths
        flat = list(chain.from_iterable(flat))
    if not spec.fits(tuple(shape)):
        raise _invalid(f"input '{spec.name}' has shape {shape}; expected {list(spec.shape)}")
    allowed = {bool} if spec.datatype == "BOOL" else {int, float} if spec.datatype in FLOATS else {int}
    if kinds - allowed:
        raise _invalid(f"input '{spec.name}' holds other things than {spec.datatype} values")
    try:
        with np.errstate(over="raise"):
            wide = np.array(flat, np.float64 if spec.datatype in FLOATS else NUMPY[spec.datatype])
            array = wide.astype(NUMPY[spec.datatype]).reshape(shape)
    except (OverflowError, FloatingPointError):
        raise _invalid(f"input '{spec.name}' holds a number out of the range of {spec.datatype}") from None
    return Tensor(spec.name, spec.datatype, array)


def encode_json(outputs: list[Tensor]) -> bytes:
    """The JSON of an answer; refused where JSON cannot carry a value."""
    for tensor in outputs:
        if tensor.datatype in ("BF16", "BYTES") or not tensor.finite():
            what = tensor.datatype if tensor.finite() else "NaN or infinity"
            raise Refused("unsupported_datatype", f"output '{tensor.name}' holds {what}, which travels in a frame only")
    return json.dumps({"outputs": {t.name: t.array.tolist() for t in outputs}}, separators=(",", ":")).encode()


class Service:
    """One loaded model. Each request is answered for itself: one that fails never fails its neighbours.

    The requests of a TorchServe batch are not joined into one run: kernels round differently for another batch size,
    and the gateway batches before TorchServe.
    """

    def __init__(self, context: Context) -> None:
        properties, manifest = context.system_properties, context.manifest["model"]
        folder, gpu, config = Path(properties["model_dir"]), properties.get("gpu_id"), context.model_yaml_config or {}
        runtimes.set_up_torch(config.get("torch") or {})
        self.name, self.version = str(context.model_name), str(manifest["modelVersion"])
        self.variant: dict[str, Any] = config.get("variant") or {"name": "torchscript"}
        runtimes.check_files(folder, self.variant.get("files") or {})
        self.contract = Contract(json.loads((folder / "contract.json").read_text()))
        outputs = {name: spec.datatype for name, spec in self.contract.outputs.items()}
        self.runtime = runtimes.load(folder, manifest.get("serializedFile", ""), self.variant, outputs, gpu)
        self.text = runtimes.text(folder, config["preprocess"]) if "preprocess" in config else None
        where, threads = self.runtime.device, torch.get_num_threads()
        logger.info("Model %s version %s runs on %s, torch threads: %d", self.name, self.version, where, threads)
        logger.info("Model %s is variant %s, run by %s", self.name, self.variant["name"], self.runtime.kind)

    def warm_up(self) -> None:
        """Runs zeros of each size that the variant names, one row by default, twice.

        TorchScript profiles its first runs, and torch.compile compiles in them. Raises what the model raises where
        the variant must warm up.
        """
        for rows in self.variant.get("warm_up", [1]):
            tensors = tuple(self._zeros(spec, rows) for spec in self.contract.inputs.values())
            try:
                for _ in range(2):
                    self._run(tensors)
            except Exception:  # zeros need not be valid input: the first request will tell
                if self.variant.get("must_warm_up"):
                    raise
                logger.warning("The model did not run on zeros", exc_info=True)
        self.runtime.warmed_up()

    def _zeros(self, spec: Spec, rows: int) -> Tensor:
        batched = self.contract.batch_cap is not None
        # Another length for each size, so that torch.compile leaves both open; neither 0 nor 1, which it treats apart.
        length = rows + 8 if batched else 1
        shape = [length if size == -1 else size for size in spec.shape]
        if batched and shape:
            shape[0] = rows
        words = b"a " * length if self.text else b""
        array = np.full(shape, words if spec.datatype == "BYTES" else 0, NUMPY[spec.datatype])
        return Tensor(spec.name, spec.datatype, array)

    def describe(self) -> bytes:
        """What runs this model, for TorchServe's model description (`?customized=true`)."""
        told = {"variant": self.variant["name"], "runtime": self.runtime.kind, "device": str(self.runtime.device)}
        return json.dumps({**told, "files": self.variant.get("files", {})}).encode()

    def infer(self, request: Request) -> list[Tensor]:
        """The outputs that a request wants; refused where it breaks the contract, or the outputs do."""
        outputs = self._run(self.contract.check(request))
        return [self._output(name, outputs.get(name)) for name in request.wanted or self.contract.outputs]

    def answer(self, row: dict[str, Any], index: int, context: Context) -> bytes:
        """The body of the answer to request number `index` of a batch."""
        if not row and context.get_request_header(index, "describe") == "True":
            return self.describe()
        # TorchServe keeps a REST body's content type among the request's headers, under the body's own key.
        part = context.get_request_header(index, "body")
        framed = "frame" in row or (isinstance(part, dict) and part.get("content-type") == FRAME_TYPE)
        context.set_response_content_type(index, FRAME_TYPE if framed else "application/json")
        try:
            if framed:
                request = decode_frame(row.get("frame", row.get("body", b"")))
                return encode_reply(self.name, self.version, request.id, self.infer(request))
            return encode_json(self.infer(decode_json(row.get("data", row.get("body", b"")), self.contract)))
        except Refused as exc:
            refused = exc
        except Exception as exc:
            logger.warning("The model failed on a request", exc_info=True)
            # The last line says what went wrong; above it stands TorchScript's own trace.
            text = (str(exc).strip().splitlines() or [type(exc).__name__])[-1][:200]
            refused = Refused("upstream_failed", f"Prediction failed: {text}")
        if framed:
            return encode_frame({"error": str(refused), "cause": refused.cause})
        failed = refused.cause == "upstream_failed"
        code, kind = (503, "InternalServerException") if failed else (400, "BadRequestException")
        context.set_response_status(code, kind, index)
        return json.dumps({"code": code, "type": kind, "message": str(refused)}).encode()

    def _run(self, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        if self.text is None:
            return self.runtime.run([(tensor.datatype, tensor.array) for tensor in inputs])
        try:
            arrays = self.text(inputs[0].array)
        except ValueError as exc:
            raise _invalid(f"input '{inputs[0].name}' {exc}") from exc
        return self.runtime.run([("INT64", array) for array in arrays])

    def _output(self, name: str, array: np.ndarray[Any, Any] | None) -> Tensor:
        spec = self.contract.outputs[name]
        if array is None or not spec.fits(array.shape):
            raise Refused("upstream_failed", f"Prediction failed: the model gave no output '{name}' of {spec}")
        return Tensor(name, spec.datatype, array)


_loaded: list[Service] = []


def handle(data: list[dict[str, Any]] | None, context: Context) -> list[bytes] | None:
    """TorchServe's entry point: called once without data, to load the model, then with every batch."""
    if data is None:
        _loaded[:] = [Service(context)]
        _loaded[0].warm_up()
        return None
    return [_loaded[0].answer(row, index, context) for index, row in enumerate(data)]
