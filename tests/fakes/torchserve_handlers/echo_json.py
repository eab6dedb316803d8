"""JSON `{"data": {"x": ..}}` in, `{"result": {"y": ..}}` out, for whatever tensors: each as it came, `x` called `y`.

Over REST the body arrives parsed, over gRPC as bytes.
"""

import json
from typing import Any


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[Any]:
    """One answer for each item of TorchServe's batch."""
    return [_answer(item.get("body") or item.get("data")) for item in data or []]


def _answer(body: Any) -> dict[str, Any]:
    if isinstance(body, bytes | bytearray):
        body = json.loads(body)
    return {"result": {f"y{name[1:]}": value for name, value in body["data"].items()}}
