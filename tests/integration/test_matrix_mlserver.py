"""The protocol matrix with a third party's server, MLServer, as the backend."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.matrix import mlserver
from tests.matrix.doors import WAYS
from tests.matrix.run import Results, run

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def results(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One run; the tests look at its parts."""
    if not mlserver.PROGRAM.exists():
        pytest.skip(f"no MLServer at {mlserver.PROGRAM.parent}; `make test-clients` installs it")
    return asyncio.run(run(mlserver.running(artifacts, tmp_path_factory.mktemp("matrix"))))


@pytest.mark.parametrize("backend", [backend.name for backend in mlserver.BACKENDS])
@pytest.mark.parametrize("door", [way.door.name for way in WAYS])
def test_every_answer_is_the_expected_one(results: Results, door: str, backend: str) -> None:
    """To the bit, within the contract's tolerance, or the refusal that the protocol documents."""
    assert results.faults(door, backend) == []


@pytest.mark.parametrize("backend", [backend.name for backend in mlserver.BACKENDS])
def test_the_server_itself_answers_the_same(results: Results, backend: str) -> None:
    """Asked without the gateway."""
    assert results.direct_faults(backend) == []


def test_the_page_shows_this_run(results: Results) -> None:
    """`make matrix` writes docs/protocol-matrix-mlserver.md anew."""
    assert mlserver.render(results) == mlserver.PAGE.read_text()
