"""The servers, gateways and client environments, started once for all tests of this folder."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import pytest
from grpc_tools import protoc

from tests.integration.clients.world import World, running


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python stubs of TorchServe's gRPC interface, made as its documentation says of the .proto in its own wheel."""
    folder = tmp_path_factory.mktemp("stubs")
    # Found without importing it, which would load torch.
    package = find_spec("ts")
    assert package is not None
    assert package.origin is not None
    with zipfile.ZipFile(Path(package.origin).parent / "frontend" / "model-server.jar") as archive:
        for name in ("inference.proto", "google/rpc/status.proto"):
            archive.extract(name, folder)
    include = resources.files("grpc_tools") / "_proto"
    options = [f"--proto_path={folder}", f"--proto_path={include}", f"--python_out={folder}"]
    sources = ["inference.proto", "google/rpc/status.proto"]
    assert protoc.main(["protoc", *options, f"--grpc_python_out={folder}", *sources]) == 0
    return folder


@pytest.fixture(scope="session")
def world(artifacts: Path, stubs: Path) -> Iterator[World]:
    """Every server and every gateway."""
    with running(artifacts, stubs) as world:
        yield world
