"""The generated messages: up to date, reproducible, and the official ones on the wire."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gateway

ROOT = Path(gateway.__file__).parent.parent
GENERATE = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("generate", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.generate(pathlib.Path(sys.argv[2]))
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python process in the repository's root."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_generated_files_are_what_the_protos_give(tmp_path: Path) -> None:
    """Generation is reproducible, and its last result is the one in the tree."""
    result = run("-c", GENERATE, str(ROOT / "gateway" / "protos" / "generate.py"), str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    fresh = {path.name: path.read_bytes() for path in (tmp_path / "gateway" / "_generated").glob("*.py*")}
    kept = {path.name: path.read_bytes() for path in (ROOT / "gateway" / "_generated").glob("*_pb2.py*")}
    assert sorted(fresh) == sorted(f"{name}_pb2.{kind}" for name in MODULES for kind in ("py", "pyi"))
    assert fresh == kept


MODULES = ("oip", "tensorflow", "tfserving", "torchserve")


def test_our_messages_live_beside_the_official_ones_and_equal_them_on_the_wire() -> None:
    """One process imports both, compares all fields, and exchanges every message and tensor byte for byte."""
    result = run("-m", "tests.unit.gateway.codecs.official")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("ok")


def test_codecs_import_no_transport_and_no_framework() -> None:
    """Codecs are pure: neither gRPC nor a web framework comes with them, nor TensorFlow with the messages."""
    names = sorted(path.stem for path in (ROOT / "gateway" / "codecs").glob("*.py") if path.stem != "__init__")
    program = "import sys\n" + "".join(f"import gateway.codecs.{name}\n" for name in names)
    program += "print(sorted({'grpc', 'fastapi', 'starlette', 'aiohttp', 'pydantic', 'tensorflow'} & set(sys.modules)))"
    result = run("-c", program)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
