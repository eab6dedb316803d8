"""Bytes in, the same bytes out."""

from typing import Any


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[bytes]:
    """One answer for each item of TorchServe's batch; an empty body may be missing."""
    return [bytes(item.get("body") or item.get("data") or b"") for item in data or []]
