"""The variants `eager` and `compile`: the network's own Python code and weights, run eagerly or behind torch.compile.

The archive holds the network as a pickle and, in source.zip, the modules of `models` that its classes come from.
"""

from __future__ import annotations

import ast
import importlib.util
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from models.export import archive
from models.export.archive import predict
from models.job import Job
from models.zoo import BATCH_CAP

if TYPE_CHECKING:
    from torch import nn

__all__ = ["export", "predict", "unavailable"]

NETWORK, SOURCE = "model.pt", "source.zip"
# Batch sizes that torch.compile meets before the worker is ready. It compiles one row apart, leaves the number of rows
# open from the second size on, and draws ranges by the shapes of a network's layers; there is a power of two in each.
WARM_UP = (1, 2, 4, 8, 16, 32, 64)
# Seconds: a worker compiles before it is ready, for minutes on a busy machine whose Inductor cache is empty.
COMPILE_TIMEOUT_S = 600


def unavailable(job: Job) -> str | None:
    """torch.compile needs a C++ compiler; eager nothing."""
    return None if job.variant.name == "eager" else without_compiler()


def without_compiler() -> str | None:
    """Why Inductor cannot compile here, None where it can."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as exc:
        return f"needs a C++ compiler where it is built and served: {exc}"
    return None


def export(job: Job) -> None:
    """The network, its modules and the archive around them."""
    with tempfile.TemporaryDirectory() as work:
        files, section = write(job.variant.name, job.torch_net(), Path(work), most=archive.cap(job))
        archive.pack(job, files, section, timeout_s=COMPILE_TIMEOUT_S if job.variant.name == "compile" else None)


def write(
    name: str, net: nn.Module, folder: Path, device: str = "cpu", most: int = BATCH_CAP
) -> tuple[list[Path], dict[str, Any]]:
    """Writes the files of the variant called `name`; with them the section that loads them."""
    network, source = folder / NETWORK, folder / SOURCE
    torch.save(net.eval(), network)
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as packed:
        for path, text in sources(type(net).__module__):
            # A fixed date, so that the same sources make the same file.
            packed.writestr(zipfile.ZipInfo(path), text)
    files = [network, source]
    more = {"warm_up": [size for size in WARM_UP if size <= most], "must_warm_up": True} if name == "compile" else {}
    runtime = "compile" if name == "compile" else "eager"
    return files, archive.section_of(name, runtime, files, device=device, source=SOURCE, **more)


def sources(module: str) -> Iterator[tuple[str, str]]:
    """The path and text of a module and of all that it imports of ours, with packages that are empty around them."""
    texts: dict[str, str] = {}
    _collect(module, texts)
    packages = {name.rpartition(".")[0] for name in texts}
    packages |= {name[:end] for name in packages for end in range(len(name)) if name[end] == "."}
    yield from ((f"{name.replace('.', '/')}/__init__.py", "") for name in sorted(packages))
    yield from ((f"{name.replace('.', '/')}.py", text) for name, text in sorted(texts.items()))


def _collect(module: str, texts: dict[str, str]) -> None:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # a name in a module
        return
    if found is None or found.origin is None or found.submodule_search_locations is not None or module in texts:
        return
    texts[module] = Path(found.origin).read_text("utf-8")
    for name in _imported(ast.parse(texts[module]).body):
        if name.startswith("models."):
            _collect(name, texts)


def _imported(body: Sequence[ast.stmt]) -> Iterator[str]:
    for node in body:  # not inside `if TYPE_CHECKING`
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
