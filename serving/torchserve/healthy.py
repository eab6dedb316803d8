"""The container's health check: every model has a worker that is ready. `/ping` alone says healthy while loading."""

import json
import os
import sys
import urllib.request
from typing import Any

MANAGEMENT = f"http://127.0.0.1:{os.environ['TWINSERVE_TORCHSERVE_MANAGEMENT_PORT']}"


def _ask(path: str) -> Any:  # noqa: ANN401 - JSON
    with urllib.request.urlopen(MANAGEMENT + path, timeout=3) as reply:  # noqa: S310 - our own server, over HTTP
        return json.load(reply)


def main() -> int:
    """0 where all models can answer, 1 where one cannot."""
    try:
        names = [model["modelName"] for model in _ask("/models?limit=100")["models"]]
        versions = [_ask(f"/models/{name}")[0] for name in names]
    except OSError as exc:
        print(f"no answer: {exc}")
        return 1
    waiting = [
        version["modelName"]
        for version in versions
        if not any(worker["status"] == "READY" for worker in version["workers"])
    ]
    print("waiting for " + ", ".join(waiting) if waiting else "ready")
    return 1 if waiting or not names else 0


if __name__ == "__main__":
    sys.exit(main())
