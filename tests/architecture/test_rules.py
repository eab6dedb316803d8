"""Rules about the code itself that no other tool checks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gateway", "models", "serving", "loadtests", "twinserve", "tests")
SOURCES = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "_generated" not in path.parts
)
MAX_LINES = 400

IMPORT_GATEWAY = """
import sys
import gateway.__main__
heavy = sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'tensorflow', 'keras', 'locust', 'sklearn'})
print(','.join(heavy))
"""


def test_the_gateway_imports_no_framework() -> None:
    """Everything that the gateway's process needs is imported without torch, tensorflow or locust."""
    reply = subprocess.run([sys.executable, "-c", IMPORT_GATEWAY], capture_output=True, text=True, check=True, cwd=ROOT)
    assert reply.stdout.strip() == ""


def test_importing_the_gateway_has_no_side_effect() -> None:
    """No argument is parsed, no environment read and nothing printed on import."""
    code = "import gateway, gateway.dataplane, gateway.settings, gateway.server"
    reply = subprocess.run(
        [sys.executable, "-c", code, "--nonsense"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert (reply.stdout, reply.stderr) == ("", "")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_a_god_file(path: Path) -> None:
    """400 lines are enough for one thing."""
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_nothing_is_left_unfinished() -> None:
    """No marks of work to do, and no method that only raises."""
    marks = re.compile("TO" + r"DO|FIX" + r"ME|raise NotImplemented" + "Error")
    found = [str(path.relative_to(ROOT)) for path in SOURCES if marks.search(path.read_text())]
    assert found == []


def test_every_test_says_its_behaviour() -> None:
    """A test's docstring is its sentence."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in SOURCES
        if path.name.startswith("test_")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_the_torchserve_handler_imports_what_its_image_has() -> None:
    """torch, numpy, the standard library and its siblings; the packages of one runtime where that is loaded."""
    folder = ROOT / "serving" / "torchserve"
    packed = ("handler", "runtimes", "instructions", "text")
    files = {name: ast.parse((folder / f"{name}.py").read_text()) for name in packed}
    allowed = {"torch", "numpy", "ts", "onnxruntime", "tokenizers", *files, *sys.stdlib_module_names}
    for name, tree in files.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found = {alias.name.partition(".")[0] for alias in node.names}
            else:
                found = {(node.module or "").partition(".")[0]} if isinstance(node, ast.ImportFrom) else set()
            # In the repository, siblings are imported by their package's name.
            foreign = found - allowed - ({"serving"} if name in ("handler", "runtimes") else set())
            assert not foreign, f"{name}.py imports {foreign}"
