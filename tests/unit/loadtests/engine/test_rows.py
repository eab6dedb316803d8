"""Rows on their way: packed, through a pipe in any pieces, to a file that survives a torn end."""

from __future__ import annotations

import errno
import math
import os
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from loadtests.engine import recorder
from loadtests.engine.recorder import Stream, record
from loadtests.engine.rows import Kind, Packer, Row, frame
from loadtests.errors import LoadTestError
from loadtests.raw import RAW_SCHEMA, read_rows
from loadtests.replies import Outcome

NAN = float("nan")


def _row(seq: int, **changes: object) -> Row:
    row = Row(
        0, 1, seq, 5, True, 0.25, 0.26, 0.5, Outcome.OK, 100, 20, "tf", "tfserving", "server 1.0", (1, 2, 3, 4, 9)
    )
    return row._replace(**changes)  # type: ignore[arg-type]


def _sent(*rows: Row) -> bytes:
    packer = Packer()
    for row in rows:
        packer.add(row)
    return frame(Kind.BEGIN, b'{"t0_unix": 12.5, "slug": "s", "worker": 1}') + packer.taken()


def test_what_is_recorded_is_what_was_added(tmp_path: Path) -> None:
    """Every column, with nulls where a request was never sent or nobody told."""
    never = _row(8, t_snd=NAN, t_end=NAN, outcome=Outcome.DROPPED_BY_CLIENT, endpoint="", timings=(NAN,) * 5)
    stream = Stream(tmp_path / "a")
    stream.take(_sent(_row(7), never), 0.0)
    stream.close()
    table = read_rows(tmp_path / "a")
    assert table.schema.metadata[b"t0_unix"] == b"12.5"
    first, second = table.to_pylist()
    assert first == {
        "step": 0, "worker": 1, "seq": 7, "question": 5, "measured": True, "t_int": 0.25, "t_snd": 0.26, "t_end": 0.5,
        "outcome": "ok", "bytes_out": 100, "bytes_in": 20, "endpoint": "tf", "stack": "tfserving",
        "server": "server 1.0", "gw_decode_ms": 1, "gw_queue_ms": 2, "gw_upstream_ms": 3, "gw_encode_ms": 4,
        "gw_total_ms": 9, "detail": None, "model": None,
    }  # fmt: skip
    assert second["outcome"] == "dropped_by_client"
    assert [name for name, value in second.items() if value is None] == [
        "t_snd", "t_end", "endpoint", "gw_decode_ms", "gw_queue_ms", "gw_upstream_ms", "gw_encode_ms", "gw_total_ms",
        "detail", "model",
    ]  # fmt: skip


def test_frames_may_come_in_any_pieces(tmp_path: Path) -> None:
    """A pipe gives what it has; texts that come later join those before."""
    packer, data = Packer(), bytearray(_sent())
    for seq in range(20):
        packer.add(_row(seq, detail=f"why {seq % 3}"))
        data += packer.taken()
    stream = Stream(tmp_path / "a")
    for begin in range(0, len(data), 7):
        stream.take(bytes(data[begin : begin + 7]), float(begin))
    stream.close()
    rows = read_rows(tmp_path / "a").to_pylist()
    assert [(row["seq"], row["detail"]) for row in rows] == [(seq, f"why {seq % 3}") for seq in range(20)]


def test_a_torn_end_costs_the_last_batch_only(tmp_path: Path) -> None:
    """Cut anywhere, the file gives whole batches from its beginning."""
    packer, stream = Packer(), Stream(tmp_path / "whole")
    stream.take(_sent(), 0.0)
    for number in range(4):
        packer.add(_row(number, detail=f"text {number}"))
        stream.take(packer.taken(), 10.0 * number)
        stream.settle(10.0 * number + 5)
    stream.close()
    data = (tmp_path / "whole").read_bytes()
    counts = []
    for size in (*range(0, len(data), 97), len(data)):
        (tmp_path / "torn").write_bytes(data[:size])
        table = read_rows(tmp_path / "torn")
        assert [row["detail"] for row in table.to_pylist()] == [f"text {n}" for n in range(table.num_rows)]
        counts.append(table.num_rows)
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2, 3, 4}


def test_a_file_that_is_no_stream_is_refused(tmp_path: Path) -> None:
    """A wrong file is not taken for a torn one."""
    (tmp_path / "a").write_text("seq,step\n1,2\n")
    with pytest.raises(LoadTestError, match="not a stream of measured rows"):
        read_rows(tmp_path / "a")
    with pa.ipc.new_stream(tmp_path / "b", pa.schema([("x", pa.int8())])):
        pass
    with pytest.raises(LoadTestError, match="another one"):
        read_rows(tmp_path / "b")


def test_a_full_disk_keeps_what_was_recorded_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is cut back to its last whole batch, and the error names it."""
    stream, packer = Stream(tmp_path / "a"), Packer()
    stream.take(_sent(_row(0)), 0.0)
    stream.settle(5.0)

    class FullDisk:
        """The module `os`, whose writes stop half-way."""

        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def write(self, fd: int, data: bytes) -> int:
            os.write(fd, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(recorder, "os", FullDisk())
    packer.add(_row(1))
    stream.take(packer.taken(), 6.0)
    with pytest.raises(OSError, match="No space left"):
        stream.settle(20.0)
    assert [row["seq"] for row in read_rows(tmp_path / "a").to_pylist()] == [0]


def test_the_recorder_ends_with_its_pipes(tmp_path: Path) -> None:
    """One file for each pipe, an empty one where nothing came."""
    pipes = [os.pipe() for _ in range(2)]
    paths = [tmp_path / "0", tmp_path / "1"]
    thread = threading.Thread(target=record, args=([(pipe[0], path) for pipe, path in zip(pipes, paths, strict=True)],))
    thread.start()
    os.write(pipes[0][1], _sent(_row(0), _row(1)))
    for _, write in pipes:
        os.close(write)
    thread.join(10)
    for read, _ in pipes:
        os.close(read)
    assert [read_rows(path).num_rows for path in paths] == [2, 0]
    assert read_rows(paths[1]).schema.equals(RAW_SCHEMA)


def test_texts_without_end_are_not_kept_apart(tmp_path: Path) -> None:
    """A server that gives each failure another text must not fill the memory."""
    stream = Stream(tmp_path / "a")
    stream.take(_sent(*(_row(seq, detail=f"reason {seq}") for seq in range(5000))), 0.0)
    stream.close()
    details = read_rows(tmp_path / "a")["detail"].to_pylist()
    assert len(set(details)) < 4200
    assert math.isclose(details.count("(further texts are not kept apart)"), 5000 - 4096, abs_tol=10)
