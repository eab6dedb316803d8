"""The examples of docs/clients.md print what the page says that they print."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.integration.clients.world import PROGRAM_TAKES_S, ROOT, World, environment_of

pytestmark = pytest.mark.clients

PAGE = ROOT / "docs" / "clients.md"
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
LIBRARIES = ("tritonclient", "kserve", "tensorflow_serving", "ovmsclient", "inference_pb2", "requests")
# The program of `programs/` whose environment has the library.
PROGRAMS = {
    "tritonclient": "triton_http",
    "ovmsclient": "ovms",
    "inference_pb2": "torchserve",
    "requests": "torchserve",
}


def library_of(code: str) -> str:
    """The client library that an example is about."""
    return next(name for name in LIBRARIES if re.search(rf"^(import|from) {name}", code, re.MULTILINE))


def test_every_client_has_its_example() -> None:
    """No library is left out, and no example has lost its output."""
    assert {library_of(code) for code, _ in EXAMPLES} == set(LIBRARIES)
    assert PAGE.read_text().count("```python\n") == len(EXAMPLES)


@pytest.mark.parametrize(("code", "printed"), EXAMPLES, ids=[library_of(code) for code, _ in EXAMPLES])
def test_an_example_prints_what_the_page_says(world: World, tmp_path: Path, code: str, printed: str) -> None:
    """Run as it stands, but for the gateway's ports."""
    addresses, library = world.gateways["every"], library_of(code)
    program = tmp_path / "example.py"
    program.write_text(code.replace("localhost:8000", addresses.rest).replace("localhost:8001", addresses.grpc))
    stubs = str(world.stubs) if library == "inference_pb2" else ""
    done = subprocess.run(
        [str(environment_of(PROGRAMS.get(library, library))), str(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PROGRAM_TAKES_S,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": stubs, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == printed
