"""How fast codecs are beside what one would write by hand, in the same run: `make bench-codecs`."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from gateway.codecs import predict_json
from gateway.core.errors import Cause, GatewayError
from tests.benchmarks.doors import SHAPES, Case, binary_cases, contract, json_cases, values

CASES = [case for shape in SHAPES for case in (*json_cases(shape), *binary_cases(shape))]
MEASURED = [
    pytest.param(case, direction, way, id=f"{case.door}-{'x'.join(map(str, case.shape))}-{direction}-{way}")
    for case in CASES
    for direction, ways in (("in", case.ways_in), ("out", case.ways_out))
    for way in ways
]


@pytest.mark.parametrize(("case", "direction", "way"), MEASURED)
def test_codec(benchmark: Any, case: Case, direction: str, way: str) -> None:
    """One way in or out; the table at the end compares those of a door and shape."""
    ways = case.ways_in if direction == "in" else case.ways_out
    benchmark.extra_info.update(door=case.door, shape=case.shape, direction=direction, way=way)
    benchmark(ways[way])


@pytest.mark.parametrize("kind", ["regular", "ragged", "nested deep", "many objects", "cut off"])
def test_stall(benchmark: Any, kind: str) -> None:
    """A body of 8 MB, which holds the event loop while it is read; refused ones do too."""
    text = orjson.dumps(np.tile(values((64, 784)), (15, 1)), option=orjson.OPT_SERIALIZE_NUMPY)
    text = {
        "regular": text,
        "ragged": text[:-2] + b",1.0]]",
        "nested deep": b"[" + b",".join([b"[[[[1]]]]"] * 800_000) + b"]",
        "many objects": b"[" + b"{}," * 2_600_000 + b"{}]",
        "cut off": text[:-1],
    }[kind]
    body = b'{"model":"m","inputs":{"x":' + text + b"}}"
    model = contract((1, 784))
    benchmark.extra_info.update(stall=kind, megabytes=len(body) / 1e6)

    def decode() -> Cause | None:
        try:
            predict_json.decode_request(body, lambda _: model)
        except GatewayError as exc:
            return exc.cause
        return None

    expected = {
        "ragged": Cause.INVALID_INPUT,
        "many objects": Cause.INVALID_INPUT,
        "cut off": Cause.UNPARSEABLE,
    }
    assert benchmark.pedantic(decode, rounds=5, warmup_rounds=1) is expected.get(kind)
