"""The recorder: a process beside the generators that appends what they send through pipes to Arrow streams.

    python -m loadtests.engine.recorder FD=FILE ...

It ends when every pipe is closed. Whatever happens to it or to the generators, a file is readable up to its last whole
batch; where a write fails, the file is cut back to that and the reason is the last line on the standard error.
"""

from __future__ import annotations

import json
import os
import selectors
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from loadtests.engine.rows import Kind, batch_of, frames_of
from loadtests.raw import RAW_SCHEMA, SCHEMA_VERSION

# A batch is written when it is this old or this large.
_BATCH_S = 1.0
_BATCH_BYTES = 4 * 1024 * 1024
_READ_BYTES = 1024 * 1024


class Stream:
    """One worker's file. `take` accepts the bytes of the pipe, in pieces of any size."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._parts: list[bytes] = []
        self._buffer, self._rows = bytearray(), bytearray()
        self._texts: list[str] = []
        self._schema = RAW_SCHEMA
        self._writer: pa.RecordBatchStreamWriter | None = None
        self._size = 0
        self._since = 0.0
        self._failed = False

    def take(self, data: bytes, now: float) -> None:
        """Adds what a pipe gave; raises OSError where the batch that became due cannot be written."""
        self._buffer += data
        for kind, content in frames_of(self._buffer):
            if kind is Kind.BEGIN:
                metadata = {"schema_version": SCHEMA_VERSION, **json.loads(content)}
                self._schema = RAW_SCHEMA.with_metadata({key: str(value) for key, value in metadata.items()})
            elif kind is Kind.TEXTS:
                self._texts += json.loads(content)
            else:
                if not self._rows:
                    self._since = now
                self._rows += content
        self.settle(now)

    def settle(self, now: float) -> None:
        """Writes the batch if it is due."""
        if self._rows and (now - self._since >= _BATCH_S or len(self._rows) >= _BATCH_BYTES):
            self._write_batch()

    def close(self) -> None:
        """Writes what is left and the end of the stream, and sees it on the disk. Nothing more after a failure."""
        try:
            if self._failed:
                return
            if self._rows or self._writer is None:
                self._write_batch()
            if self._writer is not None:
                self._writer.close()
            self._flush()
            os.fsync(self._fd)
        finally:
            os.close(self._fd)

    def _write_batch(self) -> None:
        if self._writer is None:
            # The writer writes to memory; the file gets whole batches, or is cut back to them.
            options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
            self._writer = pa.ipc.new_stream(_Parts(self._parts), self._schema, options=options)
        self._writer.write_batch(batch_of(self._rows, self._texts, self._schema))
        self._rows = bytearray()
        self._flush()

    def _flush(self) -> None:
        data = memoryview(b"".join(self._parts))
        self._parts.clear()
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError as exc:
            self._failed = True
            os.ftruncate(self._fd, self._size)
            raise OSError(exc.errno, f"{self._path}: {exc.strerror}") from exc
        self._size += len(data)


class _Parts:
    """The file that Arrow needs, as the list of what was written to it."""

    closed = False

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The list stays."""


def record(pipes: Sequence[tuple[int, Path]]) -> None:
    """Reads the pipes until each is closed. Raises OSError where a file cannot be written; the others are closed."""
    streams = {fd: Stream(path) for fd, path in pipes}
    try:
        with selectors.DefaultSelector() as selector:
            for fd in streams:
                selector.register(fd, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(_BATCH_S / 2)
                now = time.monotonic()
                for key, _ in ready:
                    data = os.read(key.fd, _READ_BYTES)
                    streams[key.fd].take(data, now)
                    if not data:
                        selector.unregister(key.fd)
                        streams.pop(key.fd).close()
                for stream in streams.values():
                    stream.settle(now)
    finally:
        # After a failure the disk may be full for these as well; what they have on it stays.
        for stream in streams.values():
            _close_if_possible(stream)


def _close_if_possible(stream: Stream) -> None:
    try:
        stream.close()
    except OSError as exc:
        print(f"recorder: {exc.strerror}", file=sys.stderr)


def main(arguments: Sequence[str]) -> int:
    """Runs the recorder; returns its exit code."""
    pairs = [argument.split("=", 1) for argument in arguments]
    try:
        record([(int(fd), Path(path)) for fd, path in pairs])
    except OSError as exc:
        print(f"recorder: {exc.strerror or exc}; all rows before are kept", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # Ctrl-C is for the campaign; the recorder ends when its generators do.
    sys.exit(main(sys.argv[1:]))
