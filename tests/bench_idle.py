"""The gateway's start time and idle memory, beside a bare Python as the baseline: `make bench-idle`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

from tests.builders import contract

RUNS = 5
CONFIG = """
server: {{host: 127.0.0.1, rest_port: {port}, grpc_port: 0}}
endpoints: {{none: {{stack: noop}}}}
models: {{doubler: {{contract: contract.json, targets: [{{endpoint: none}}]}}}}
"""


def main() -> None:
    """Prints medians over several starts."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "contract.json").write_text(contract().to_json())
        bare = statistics.median(_bare() for _ in range(RUNS))
        starts, sizes = zip(*(_gateway(Path(folder), 18400 + run) for run in range(RUNS)), strict=True)
    start, size = statistics.median(starts), statistics.median(sizes)
    print(f"bare python          {bare:6.3f} s")
    print(f"gateway until ready  {start:6.3f} s   {start / bare:.1f} x a bare python   (bar: 2 s)")
    print(f"gateway idle RSS     {size:6.1f} MB                          (bar: 150 MB)")


def _bare() -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - begin


def _gateway(folder: Path, port: int) -> tuple[float, float]:
    config = folder / "gateway.yaml"
    config.write_text(CONFIG.format(port=port))
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "--config", str(config)], stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while not _ready(port):
            if process.poll() is not None:
                raise SystemExit(f"the gateway ended with status {process.returncode}")
            time.sleep(0.005)
        took = time.perf_counter() - begin
        time.sleep(1.0)
        return took, psutil.Process(process.pid).memory_info().rss / 1e6
    finally:
        process.terminate()
        process.wait(10)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    main()
