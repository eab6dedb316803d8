"""What every program here shares: where to ask and what, and telling in JSON what the client library gave back.

It runs in each client's environment: the standard library and numpy, nothing of ours.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Check = Callable[["Task"], object]


@dataclass(frozen=True)
class Task:
    """Where the gateway listens, and a model with right answers; `headers` are those of every request, or metadata."""

    rest: str
    """host:port."""
    grpc: str
    """host:port."""
    model: str
    input: str
    output: str
    golden: str
    """The path of the model's golden.npz."""
    rows: int
    """How many of the golden rows go into one request."""
    headers: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Inputs for identity models, by the model's name, as `shown` tells an array."""

    @property
    def rows_in(self) -> np.ndarray:
        """The golden inputs of one request."""
        with np.load(self.golden) as archive:
            return np.ascontiguousarray(archive[self.input][: self.rows])

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """`headers` as gRPC takes them."""
        return tuple(self.headers.items())


def array(told: dict[str, Any]) -> np.ndarray:
    """The array that `shown` told; BYTES are an object array of `bytes`."""
    if told["dtype"] == "object":
        values = [text.encode("latin-1") for text in told["data"]]
        made = np.empty(len(values), object)
        made[:] = values
    elif told["dtype"] == "bfloat16":
        import ml_dtypes  # noqa: PLC0415 - the libraries that know this datatype bring it

        made = np.array(told["data"], ml_dtypes.bfloat16)
    else:
        made = np.array(told["data"], told["dtype"])
    return made.reshape(told["shape"])


def shown(value: Any) -> Any:
    """`value` as JSON has it; arrays with their dtype and shape, `bytes` as latin-1 text."""
    if isinstance(value, np.ndarray):
        flat = value.reshape(-1).tolist()
        return {"dtype": str(value.dtype), "shape": list(value.shape), "data": [shown(item) for item in flat]}
    if isinstance(value, np.generic):
        return shown(value.item())
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {str(key): shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def refusal(call: Callable[[], object]) -> dict[str, str]:
    """What the client library raises for `call`: the exception's class and text; `none` where it raises nothing."""
    try:
        answer = call()
    except Exception as exc:
        return {"raised": f"{type(exc).__module__}.{type(exc).__qualname__}", "text": str(exc)}
    return {"raised": "none", "text": repr(answer)}


def run(checks: dict[str, Check]) -> None:
    """Does the checks that the task on standard input names, and prints what came of each as one JSON object.

    A check that raises is told with its traceback under `failed`, and the next one is done.
    """
    asked = json.load(sys.stdin)
    wanted = asked.pop("checks", None) or list(checks)
    task = Task(**asked)
    told: dict[str, Any] = {}
    for name in wanted:
        try:
            told[name] = shown(checks[name](task))
        except Exception:
            told[name] = {"failed": traceback.format_exc()}
    print(json.dumps(told))
