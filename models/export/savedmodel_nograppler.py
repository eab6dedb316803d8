"""The `savedmodel-nograppler` variant: a SavedModel that runs as it was written, to show what Grappler does.

A session's own option is not enough: the functions of a SavedModel are called with a configuration of their own, empty
where none was set, and an empty one means that Grappler rewrites them. So the same option is written into every call,
and the server's session is given it too (`serving/tfserving/nograppler.config`). Which operations are executed then
is read from a trace.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tensorflow.core.protobuf import config_pb2, saved_model_pb2

from models.export import savedmodel
from models.job import Job
from models.variants import VariantError
from models.zoo.dataset import Rows, part

# What Grappler's remapper leaves in a graph, and nobody else: operations that do the work of several. A batch
# normalisation is called fused by itself, and oneDNN's own pass joins a convolution with its padding or bias.
FUSED = re.compile(r"_\w*Fused(?!BatchNorm(V\d)?$)")


def unavailable(job: Job) -> str | None:
    """It can always be had."""
    return None


def export(job: Job) -> None:
    """Copies the model's SavedModel, writes the option into it, and proves that it is honoured."""
    version = str(job.definition.version)
    target = job.folder / version
    shutil.copytree(job.base / "savedmodel" / version, target)
    _switch_off(target / "saved_model.pb")
    (target / "fingerprint.pb").unlink(missing_ok=True)  # of the file before
    operations = savedmodel.executed(job.definition, job.folder, part(job.test_rows, 0, 2), session_config())
    if fused := sorted({name for name in operations if FUSED.match(name)}):
        raise VariantError(f"with Grappler off, {', '.join(fused)} were executed, which only Grappler makes")


def predict(job: Job, rows: Rows) -> Rows:
    """The outputs in a session with Grappler off."""
    return savedmodel.predict(job.definition, job.folder, rows, session_config())


def session_config() -> config_pb2.ConfigProto:
    """A session's configuration with Grappler off."""
    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config


def _switch_off(path: Path) -> None:
    document = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    text = session_config().SerializeToString()
    for graph in (meta.graph_def for meta in document.meta_graphs):
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            for node in nodes:
                if "config_proto" in node.attr:
                    node.attr["config_proto"].s = text
    path.write_bytes(document.SerializeToString())
