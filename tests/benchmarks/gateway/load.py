"""The load: `wrk` with a fixed body, and what it counted."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

WRK = "wrk"
# `wrk` reports in microseconds; errors are counted apart, since a refused request is a fast one.
SCRIPT = """
local file = assert(io.open({body}, "rb"))
wrk.body = file:read("*a")
file:close()
wrk.method = "POST"
wrk.headers["Content-Type"] = {content_type}
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\nRESULT {{"requests":%d,"seconds":%.6f,"p50":%.1f,"p99":%.1f,"statuses":%d,"sockets":%d}}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
"""


class LoadError(RuntimeError):
    """Raised where a run of the load tool cannot be counted; the text says why."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run did: answers, its length in seconds, and latencies in milliseconds."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds

    def __str__(self) -> str:
        return f"{self.per_second:.0f}/s p50 {self.p50_ms:.2f} p99 {self.p99_ms:.1f} ms"


class Wrk:
    """Posts one body again and again; its files are in `folder`."""

    def __init__(self, folder: Path, name: str, body: bytes, content_type: str = "application/json") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        data = folder / f"{name}.body"
        data.write_bytes(body)
        self._script = folder / f"{name}.lua"
        self._script.write_text(SCRIPT.format(body=json.dumps(str(data)), content_type=json.dumps(content_type)))

    def run(self, url: str, *, connections: int, seconds: float) -> Load:
        """One run with one thread; raises LoadError where a single answer was no success."""
        command = [
            *(WRK, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"),
            *("-s", str(self._script), url),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
        line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
        if done.returncode or line is None:
            raise LoadError(f"{' '.join(command)} failed: {(done.stdout + done.stderr).strip()}")
        told = json.loads(line.removeprefix("RESULT "))
        if told["statuses"] or told["sockets"] or not told["requests"]:
            raise LoadError(
                f"{url}: of {told['requests']} answers {told['statuses']} were no success, and {told['sockets']} "
                "requests were lost"
            )
        return Load(told["requests"], told["seconds"], told["p50"] / 1e3, told["p99"] / 1e3)


def wrk_version() -> str:
    """The version of `wrk`, such as `wrk 4.1.0`."""
    # It prints its usage after the version, and ends with 1.
    told = subprocess.run([WRK, "-v"], capture_output=True, text=True, check=False).stdout
    return " ".join(told.split()[:2])


def missing_tools() -> list[str]:
    """The programs that this machine lacks."""
    return [program for program in (WRK, "nginx") if shutil.which(program) is None]
