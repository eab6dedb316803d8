"""A servable that computes nothing, and remembers whether it was closed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving.tfserving.savedmodel_server.errors import invalid
from serving.tfserving.savedmodel_server.executor import Servable, Signature
from serving.tfserving.savedmodel_server.versions import State, Version, Versions


def served(models: Mapping[str, Servable]) -> Versions:
    """A table with version 1 of each model, available."""
    table = Versions(lambda _: None)
    for name, model in models.items():
        version = Version(name, 1, Path("/"), State.LOADING)
        table.add(version)
        table.available(version, model)
    return table


class FakeServable:
    """Has one signature, with one input and one output, that is never run."""

    def __init__(self) -> None:
        self.closed = False

    @property
    def signature_defs(self) -> Mapping[str, meta_graph_pb2.SignatureDef]:
        """The one signature's definition."""
        info = meta_graph_pb2.TensorInfo(name="x:0", dtype=types_pb2.DT_FLOAT)
        info.tensor_shape.dim.add(size=-1)
        definition = meta_graph_pb2.SignatureDef(inputs={"x": info}, outputs={"y": info}, method_name="predict")
        definition.defaults["x"].dtype = types_pb2.DT_FLOAT
        return {"serving_default": definition}

    def signature(self, name: str) -> Signature | None:
        """None: nothing here runs."""
        return None

    def close(self) -> None:
        """Notes it."""
        self.closed = True


class FakeLoader:
    """Loads a FakeServable from any folder; a folder with a file `broken` fails."""

    def __init__(self) -> None:
        self.loaded: list[tuple[Path, FakeServable]] = []

    def __call__(self, path: Path) -> FakeServable:
        """The servable of a folder."""
        if (path / "broken").exists():
            raise invalid("it is broken")
        servable = FakeServable()
        self.loaded.append((path, servable))
        return servable
