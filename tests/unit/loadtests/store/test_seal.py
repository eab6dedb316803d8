"""Sealing a round: every whole batch is kept, streams go only when the file is good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from loadtests.cell_spec import CellSpec
from loadtests.errors import LoadTestError
from loadtests.store import StoredRun, seal_round, torn_streams
from tests.unit.loadtests.synthetic import Law, rows_of, server_load, target, write_stream

SPEC = CellSpec("server-ts", target("ts"), "server", server_load(100, 5))


def _stream(run: Path, slug: str = "server-ts", worker: int = 0, seed: int = 0) -> Path:
    path = run / "raw" / "0" / f"{slug}.{worker}.arrow"
    write_stream(path, rows_of(replace(SPEC, campaign_seed=seed), Law(), warm_up=100), batch=100)
    return path


def test_a_round_becomes_one_file_and_its_streams_go(tmp_path: Path) -> None:
    """Rows of every worker and cell are in it, with round and cell in front."""
    expected = sum(rows_of(replace(SPEC, campaign_seed=seed), Law(), warm_up=100).num_rows for seed in (0, 1, 2))
    _stream(tmp_path), _stream(tmp_path, worker=1, seed=1), _stream(tmp_path, "server-a.b", seed=2)
    sealed = seal_round(tmp_path, 0)
    table = pq.read_table(sealed)
    assert table.column_names[:3] == ["round", "cell", "step"]
    assert table.num_rows == expected
    assert table["cell"].unique().to_pylist() == ["server-a.b", "server-ts"]
    assert (torn_streams(sealed), StoredRun(tmp_path).open_rounds()) == ({}, [])


@pytest.mark.parametrize("cut", [3, 1500])
def test_a_torn_stream_is_read_to_its_last_whole_batch_and_told(cut: int, tmp_path: Path) -> None:
    """A crash costs the batch being written and nothing before it."""
    path = _stream(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    table = pq.read_table(sealed := seal_round(tmp_path, 0))
    count = rows_of(SPEC, Law(), warm_up=100).num_rows
    assert count - 200 <= table.num_rows <= count
    assert list(torn_streams(sealed)) == ["server-ts.0"]


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff\xff", b"not arrow at all, and long enough to be read"])
def test_a_stream_without_one_batch_is_told_too(content: bytes, tmp_path: Path) -> None:
    """A recorder that died at once leaves a cell without rows, not a round without a file."""
    _stream(tmp_path)
    (tmp_path / "raw" / "0" / "dead.0.arrow").write_bytes(content)
    sealed = seal_round(tmp_path, 0)
    assert list(torn_streams(sealed)) == ["dead.0"]
    assert pq.read_table(sealed, columns=["cell"])["cell"].unique().to_pylist() == ["server-ts"]


def test_sealing_again_keeps_what_is_there_and_replaces_what_was_measured_anew(tmp_path: Path) -> None:
    """A resumed round adds its cells; a cell that was run again counts once."""
    _stream(tmp_path), _stream(tmp_path, "other")
    seal_round(tmp_path, 0)
    _stream(tmp_path, seed=5)
    table = pq.read_table(seal_round(tmp_path, 0))
    counted = {item["values"]: item["counts"] for item in table["cell"].value_counts().to_pylist()}
    assert counted["other"] == rows_of(SPEC, Law(), warm_up=100).num_rows
    assert counted["server-ts"] == rows_of(replace(SPEC, campaign_seed=5), Law(), warm_up=100).num_rows
    assert seal_round(tmp_path, 0) == tmp_path / "raw" / "0.parquet"


def test_a_round_that_was_never_recorded_is_said_so(tmp_path: Path) -> None:
    """The error names the folder that holds no stream."""
    with pytest.raises(LoadTestError, match=r"no \*\.arrow streams.*never recorded"):
        seal_round(tmp_path, 3)


def test_what_cannot_be_written_leaves_the_streams(tmp_path: Path) -> None:
    """The error says that nothing is lost, and nothing is."""
    path = _stream(tmp_path)
    (tmp_path / "raw" / "0.parquet.part").mkdir()
    with pytest.raises((LoadTestError, OSError)):
        seal_round(tmp_path, 0)
    assert path.is_file()


def test_a_record_of_another_schema_is_refused(tmp_path: Path) -> None:
    """The error names the columns that are missing."""
    write_stream(tmp_path / "raw" / "0" / "x.0.arrow", rows_of(SPEC, Law()).drop_columns(["t_end"]))
    with pytest.raises(LoadTestError, match="no column t_end"):
        seal_round(tmp_path, 0)
