"""The protocol matrix: every front end, to every backend, with every datatype and shape, on real servers.

`make test` sends a diagonal of it, `make test-clients` the whole.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.matrix import page
from tests.matrix.cases import DATATYPES, VALUES
from tests.matrix.doors import WAYS
from tests.matrix.run import Results, on_diagonal, run
from tests.matrix.stack import BACKENDS, running

pytestmark = pytest.mark.servers

DOORS = [way.door.name for way in WAYS]
ENDPOINTS = [backend.name for backend in BACKENDS]


@pytest.fixture(scope="module")
def diagonal(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One question in as many as there are doors."""
    return asyncio.run(run(running(artifacts, tmp_path_factory.mktemp("diagonal")), diagonal=True))


@pytest.fixture(scope="module")
def results(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One run of the whole matrix; the tests look at its parts."""
    return asyncio.run(run(running(artifacts, tmp_path_factory.mktemp("matrix"))))


@pytest.mark.parametrize("backend", ENDPOINTS)
def test_the_answers_of_a_diagonal_are_the_expected_ones(diagonal: Results, backend: str) -> None:
    """Every door reaches every backend, and every case is asked of it, through one door or another."""
    assert [fault for door in DOORS for fault in diagonal.faults(door, backend)] == []
    assert diagonal.direct_faults(backend) == []
    its = BACKENDS[ENDPOINTS.index(backend)]
    expected = {
        (way.door.name, backend, case.key)
        for case in diagonal.cases
        for way in WAYS
        if its.serves(case) and way.asks(case) and on_diagonal(diagonal, way, its, case)
    }
    assert {key for key in diagonal.cells if key[1] == backend} == expected
    everywhere = {way.door.name for way in WAYS if sum(map(way.asks, diagonal.cases)) > len(WAYS)}
    assert {door for door, *_ in expected} >= everywhere


@pytest.mark.clients
@pytest.mark.parametrize("backend", ENDPOINTS)
@pytest.mark.parametrize("door", DOORS)
def test_every_answer_is_the_expected_one(results: Results, door: str, backend: str) -> None:
    """To the bit, within the contract's tolerance, or the refusal that the protocol documents."""
    assert results.faults(door, backend) == []


@pytest.mark.clients
@pytest.mark.parametrize("backend", [name for name in ENDPOINTS if name not in ("oip-rest", "oip-grpc")])
def test_the_servers_themselves_answer_the_same(results: Results, backend: str) -> None:
    """Asked without the gateway, by clients of their own protocols."""
    assert results.direct_faults(backend) == []
    assert len([key for key in results.direct if key[0] == backend]) >= len(DATATYPES)


@pytest.mark.clients
def test_nothing_is_left_out(results: Results) -> None:
    """Every datatype was asked through every door of every backend that has a form for tensors."""
    datatypes = {case.name for case in results.cases if case.section == VALUES}
    assert datatypes == set(DATATYPES)
    for way in WAYS:
        for backend in BACKENDS:
            asked = {key[2] for key in results.cells if key[:2] == (way.door.name, backend.name)}
            expected = {case.key for case in results.cases if way.asks(case) and backend.serves(case)}
            assert asked == expected


@pytest.mark.clients
def test_the_page_shows_this_run(results: Results) -> None:
    """`make matrix` writes docs/protocol-matrix.md anew."""
    shown = page.render(results)
    ran = results.servers["tf-rest"]
    if not ran.endswith("(stand-in)"):
        # Where the real server runs, it gives the same page, but for its name.
        shown = shown.replace(ran, "savedmodel-server 1.0 (stand-in)")
    assert shown == page.PAGE.read_text()
