"""TorchServe's entry point of an archive with many models: each in a folder of its own, all in one worker process.

Everything but the choice of the model is our handler's; it lies beside this file in the archive.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import handler

_services: dict[str, handler.Service] = {}


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[bytes] | None:
    """Loads every model; then answers each frame by the model that its first input is called after: `model.input`."""
    if data is None:
        properties = context.system_properties
        for contract in sorted(Path(properties["model_dir"]).glob("*/contract.json")):
            told = SimpleNamespace(
                system_properties={**properties, "model_dir": str(contract.parent)},
                manifest=context.manifest,
                model_name=context.model_name,
                model_yaml_config=context.model_yaml_config,
            )
            _services[contract.parent.name] = handler.Service(told)
        return None
    return [_service(row).answer(row, index, context) for index, row in enumerate(data)]


def _service(row: dict[str, Any]) -> handler.Service:
    first = handler.decode_frame(row.get("frame", row.get("body", b""))).inputs[0].name
    return _services[first.partition(".")[0]]
