"""A toy server, a clock-free engine and the small campaigns of these tests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from loadtests.analysis.cell import summarise
from loadtests.analysis.search import next_rate
from loadtests.campaign.seams import Seams
from loadtests.cell_spec import CellSpec, Target
from loadtests.raw import RAW_SCHEMA
from loadtests.replies import ServedBy
from loadtests.store import seal_round
from tests.unit.loadtests.builders import toy_model

Answer = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


@contextmanager
def toy_server(answer: Answer = toy_model, status: int = 200) -> Iterator[str]:
    """A server of `POST /predict` on a free port; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            outputs = {"y": answer(np.asarray(request["inputs"]["x"], np.float32)).tolist()}
            body = json.dumps({"outputs": outputs} if status == 200 else {"error": "no such model"}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def target(name: str = "toy", *, address: str = "127.0.0.1:1", **fields: Any) -> Target:
    """A target that speaks /predict."""
    return Target(name=name, protocol="predict", address=address, model="toy", **fields)


def rows_of(spec: CellSpec, latency_s: float = 0.002, origin: ServedBy | None = None) -> pa.Table:
    """The raw record of a cell whose every request takes as long, and names its `origin`."""
    rate = next((step.rate for step in spec.load.steps if step.rate), 100.0)
    count = int(rate * spec.load.seconds)
    at = np.arange(count) / rate
    columns: dict[str, Any] = {
        "step": np.zeros(count, np.int16),
        "worker": np.zeros(count, np.int16),
        "seq": np.arange(count),
        "question": np.zeros(count, np.int32),
        "measured": np.ones(count, bool),
        "t_int": at,
        "t_snd": at,
        "t_end": at + latency_s,
        "outcome": pa.array(["ok"] * count).dictionary_encode(),
        "bytes_out": np.full(count, 10, np.int32),
        "bytes_in": np.full(count, 20, np.int32),
    }
    if origin is not None:
        columns |= {name: pa.array([text] * count) for name, text in asdict(origin).items() if text}
    arrays = [
        pa.array(columns[name]).cast(kind) if name in columns else pa.nulls(count, kind)
        for name, kind in zip(RAW_SCHEMA.names, RAW_SCHEMA.types, strict=True)
    ]
    return pa.table(arrays, schema=RAW_SCHEMA)


@dataclass
class FakeEngine:
    """Leaves the files of a measured cell at once; `latency` is what its requests took, `before` may interfere."""

    latency: Callable[[CellSpec], float] = lambda _: 0.002
    before: Callable[[CellSpec], None] = lambda _: None
    measured: list[CellSpec] = field(default_factory=list)
    # The busiest second of its one worker, as a share of a core.
    cpu: float = 0.1

    def run_cell(
        self,
        spec: CellSpec,
        *,
        artifacts: Path,
        raw: Path,
        health: Path,
        log: Path,
        stop: threading.Event | None = None,
    ) -> None:
        """Writes the raw stream and the health file."""
        self.before(spec)
        rows = rows_of(spec, self.latency(spec))
        with pa.OSFile(str(raw / f"{spec.slug}.0.arrow"), "wb") as file, pa.ipc.new_stream(file, RAW_SCHEMA) as out:
            out.write_table(rows)
        count = rows.num_rows
        health.write_text(
            json.dumps({"schema": 1, "t0_unix": 0.0, "workers": [{"cpu_max": self.cpu}], "scheduled": count})
        )
        self.measured.append(spec)

    def seams(self, reported: list[Path] | None = None) -> Seams:
        """This engine with the real analysis and store."""

        def write(run: Path, formats: Sequence[str] = ("html",)) -> list[Path]:
            if reported is not None:
                reported.append(run)
            return [run / "report.html"]

        return Seams(lambda: nullcontext(self.run_cell), lambda *_: None, summarise, seal_round, write, next_rate)


def campaign_text(address: str, **changes: Any) -> str:
    """A campaign of one server scenario on one address, as JSON, which is YAML."""
    document: Mapping[str, Any] = {
        "tier": "quick",
        "seed": 7,
        "rounds": 2,
        "models": ["toy"],
        "scenarios": [{"name": "s", "kind": "server", "rate": 100, "duration_s": 5, "warm_up_s": 3}],
        "targets": [{"name": "a", "protocol": "predict", "address": address}],
        "cool_down_s": 0,
        **changes,
    }
    return json.dumps(document)
