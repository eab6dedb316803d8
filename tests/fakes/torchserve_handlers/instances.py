"""JSON `{"instances": [{"x": [a, b]}, ..]}` in, `{"predictions": [{"y": [2a, 2b], "sum": a + b}, ..]}` out.

Over REST the body arrives parsed, over gRPC as bytes. Values make trouble: 13 an exception, 14 a status 422 and 15 a
status 503 of the handler's own, 16 a long silence.
"""

import json
import time
from typing import Any


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[Any]:
    """One answer for each item of TorchServe's batch."""
    if not data:
        return []
    return [_answer(item.get("body") or item.get("data"), context, index) for index, item in enumerate(data)]


def _answer(body: Any, context: Any, index: int) -> dict[str, Any]:
    if isinstance(body, bytes | bytearray):
        body = json.loads(body)
    rows = [row["x"] for row in body["instances"]]
    values = {value for row in rows for value in row}
    if 13 in values:
        raise RuntimeError("thirteen is unlucky")
    for value, status in ((14, 422), (15, 503)):
        if value in values:
            context.set_response_status(code=status, phrase="Mine", idx=index)
            return {"error": f"I do not like {value}"}
    if 16 in values:
        time.sleep(1.5)
    return {"predictions": [{"y": [2 * value for value in row], "sum": sum(row)} for row in rows]}
