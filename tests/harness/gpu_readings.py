"""What a real GPU tells the campaigns' meter: idle, then at work, and whether the readings agree with one another.

    python -m tests.harness.gpu_readings [--seconds 10] [-- COMMAND ...]

Needs an NVIDIA driver and the module `pynvml` (of nvidia-ml-py: one file); of ours only `loadtests.campaign.gpu`, which
needs the standard library alone. COMMAND is what keeps the GPU busy; without one this asks CUDA's driver itself to fill
2 GiB of the GPU's memory over and over. Exit code 0: all findings hold; 1: one does not; 2: there is nothing to read.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from loadtests.campaign.gpu import GpuMeter, Reading, gpu_meter

_EVERY_S = 0.1
_BYTES = 2 << 30
# The counter is the driver's own integral; ours has only what is read ten times a second.
_AGREE = 0.15


class _Filler:
    """Fills the first GPU's memory again and again; raises OSError or RuntimeError where CUDA's driver is not there."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._memory = ctypes.c_uint64()
        self._ask("cuInit", ctypes.c_uint(0))
        self._ask("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        self._ask("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self._ask("cuCtxSetCurrent", self._context)
        self._ask("cuMemAlloc_v2", ctypes.byref(self._memory), ctypes.c_size_t(_BYTES))

    def work(self, seconds: float) -> None:
        """Fills for so long, a few at a time, so that the driver's queue stays short."""
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            for value in range(20):
                self._ask("cuMemsetD32_v2", self._memory, ctypes.c_uint(value), ctypes.c_size_t(_BYTES // 4))
            self._ask("cuCtxSynchronize")

    def _ask(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            raise RuntimeError(f"{name} of CUDA's driver: error {code}")


@contextlib.contextmanager
def _busy(command: Sequence[str], seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    own = [sys.executable, "-m", "tests.harness.gpu_readings", "--fill", str(seconds)]
    process = subprocess.Popen(list(command) or own)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def watched(meter: GpuMeter, seconds: float, process: subprocess.Popen[bytes] | None = None) -> dict[str, Any]:
    """The meter's figures of so many seconds; of fewer where the process ends before."""
    began = time.perf_counter()
    meter.begin()
    while time.perf_counter() - began < seconds and (process is None or process.poll() is None):
        time.sleep(_EVERY_S)
        meter.sample()
    return {**meter.end(), "seconds": round(time.perf_counter() - began, 2)}


def findings(idle: dict[str, Any], busy: dict[str, Any], integral_j: float | None) -> list[tuple[str, str, bool]]:
    """What must hold of the busiest GPU: name, the two figures, whether it does. Nothing read is nothing held."""
    index = max(range(len(busy["devices"])), key=lambda place: busy["devices"][place]["utilisation_mean"] or 0)
    before, then = idle["devices"][index], busy["devices"][index]

    def rises(key: str) -> tuple[str, str, bool]:
        low, high = before[key], then[key]
        return key, f"idle {low}, busy {high}", low is not None and high is not None and high > low

    energy = then["energy_j"]
    agrees = energy is not None and integral_j is not None and abs(energy - integral_j) <= _AGREE * integral_j
    return [
        rises("utilisation_mean"),
        rises("memory_peak"),
        rises("power_w_mean"),
        ("energy", f"{then['energy']}: {energy} J; power over time: {integral_j} J", agrees),
    ]


class _Kept:
    """A machine's GPUs whose readings are kept, and how long each took."""

    def __init__(self, meter: GpuMeter) -> None:
        assert meter.gpus is not None
        self._gpus, self.readings, self.took = meter.gpus, list[Sequence[Reading]](), list[float]()
        self.names, self.driver = meter.gpus.names, meter.gpus.driver

    def read(self) -> Sequence[Reading]:
        """One reading of each GPU."""
        began = time.perf_counter()
        self.readings.append(self._gpus.read())
        self.took.append(time.perf_counter() - began)
        return self.readings[-1]

    def close(self) -> None:
        """Lets the library go."""
        self._gpus.close()


def main(arguments: Sequence[str]) -> int:
    """Reads, prints, returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.harness.gpu_readings", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the GPU is read while it works")
    parser.add_argument("--fill", type=float, help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="*", help="what keeps the GPU busy, after --")
    options = parser.parse_args(arguments)
    if options.fill is not None:
        _Filler().work(options.fill)
        return 0
    real = gpu_meter(time.perf_counter)
    if real.gpus is None:
        print(f"GPU: not measured: {real.why}")
        return 2
    kept = _Kept(real)
    meter = GpuMeter(kept)
    idle = watched(meter, 3.0)
    with _busy(options.command, options.seconds + 5) as process:
        # The process loads its libraries first.
        watched(meter, 3.0, process)
        first = len(kept.readings)
        busy = watched(meter, options.seconds, process)
        died = process.poll()
    meter.close()
    index = max(range(len(kept.names)), key=lambda place: busy["devices"][place]["utilisation_mean"] or 0)
    print(json.dumps({"idle": idle, "busy": busy}, indent=2))
    for each in kept.readings[first :: max(1, len(kept.readings[first:]) // 5)]:
        print(each[index])
    print(f"{len(kept.took)} readings, {1e3 * sum(kept.took) / len(kept.took):.2f} ms each on average")
    if died:
        print(f"what was to keep the GPU busy ended with exit code {died}")
        return 1
    found = findings(idle, busy, meter.devices[index].power_over_time_j)
    for name, text, holds in found:
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {name}: {text}")
    return 0 if all(holds for _, _, holds in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
