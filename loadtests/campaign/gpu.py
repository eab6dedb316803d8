"""What the GPUs of this machine do in a cell, from NVIDIA's management library; "not measured" where there is none."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """One GPU at one instant; None is what the driver does not tell. `energy_j` counts since the driver's start."""

    at: float
    utilisation: float | None
    memory: int | None
    power_w: float | None
    energy_j: float | None


class Gpus(Protocol):
    """The GPUs of a machine."""

    names: Sequence[str]
    driver: str

    def read(self) -> Sequence[Reading]:
        """One reading of each GPU, in the order of `names`."""
        ...

    def close(self) -> None:
        """Lets the library go."""
        ...


@dataclass(slots=True)
class GpuMeter:
    """Collects readings between `begin` and `end`."""

    gpus: Gpus | None
    why: str = ""
    _readings: list[Sequence[Reading]] = field(default_factory=list)

    def begin(self) -> None:
        """Forgets earlier readings and takes the first."""
        self._readings = []
        self.sample()

    def sample(self) -> None:
        """Takes a reading."""
        if self.gpus is not None:
            self._readings.append(self.gpus.read())

    def end(self) -> Json:
        """The figures, as JSON."""
        if self.gpus is None:
            return {"status": "not measured", "why": self.why}
        self.sample()
        return summary(self.gpus.names, self.gpus.driver, self._readings)

    def close(self) -> None:
        """Lets the library go."""
        if self.gpus is not None:
            self.gpus.close()


def summary(names: Sequence[str], driver: str, readings: Sequence[Sequence[Reading]]) -> Json:
    """Every GPU's figures, and the energy of all of them.

    Energy is the driver's own counter where it has one ("measured"), else the power over time ("estimated"); idle power
    is in it.
    """
    devices = [_device(name, [each[index] for each in readings]) for index, name in enumerate(names)]
    energies = [device["energy_j"] for device in devices if device["energy_j"] is not None]
    return {
        "status": "measured",
        "driver": driver,
        "devices": devices,
        "energy_j": round(sum(energies), 3) if energies else None,
    }


def _device(name: str, readings: Sequence[Reading]) -> Json:
    utilisation = [each.utilisation for each in readings if each.utilisation is not None]
    memory = [each.memory for each in readings if each.memory is not None]
    power = [(each.at, each.power_w) for each in readings if each.power_w is not None]
    counter = [each.energy_j for each in readings if each.energy_j is not None]
    energy, how = None, "not measured"
    if len(counter) > 1 and counter[-1] >= counter[0]:
        energy, how = counter[-1] - counter[0], "measured"
    elif len(power) > 1:
        energy, how = integral(power), "estimated"
    return {
        "name": name,
        "utilisation_mean": _mean(utilisation),
        "utilisation_max": max(utilisation, default=None),
        "memory_peak": max(memory, default=None),
        "power_w_mean": _mean([watts for _, watts in power]),
        "power_w_max": max((watts for _, watts in power), default=None),
        "energy_j": energy if energy is None else round(energy, 3),
        "energy": how,
    }


def integral(power: Sequence[tuple[float, float]]) -> float:
    """Joules of watts at instants in seconds, by trapezoids."""
    pairs = itertools.pairwise(power)
    return sum((later - earlier) * (before + after) / 2 for (earlier, before), (later, after) in pairs)


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 3) if values else None


def gpu_meter(clock: Callable[[], float]) -> GpuMeter:
    """A meter of this machine's GPUs; `clock` gives seconds."""
    try:
        return GpuMeter(NvidiaGpus(clock))
    except Exception as exc:
        return GpuMeter(None, str(exc) or type(exc).__name__)


class NvidiaGpus:
    """NVIDIA's GPUs; raises the library's own error where there is no driver or no GPU."""

    def __init__(self, clock: Callable[[], float]) -> None:
        import pynvml  # noqa: PLC0415 - loads the driver's library

        self._nvml, self._clock = pynvml, clock
        pynvml.nvmlInit()
        try:
            count = pynvml.nvmlDeviceGetCount()
            if count == 0:
                raise RuntimeError("the driver lists no GPU")
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
            self.names: Sequence[str] = [_text(pynvml.nvmlDeviceGetName(handle)) for handle in self._handles]
            self.driver = _text(pynvml.nvmlSystemGetDriverVersion())
        except BaseException:
            pynvml.nvmlShutdown()
            raise

    def read(self) -> Sequence[Reading]:
        """One reading of each GPU; what a GPU does not tell is None."""
        return [self._reading(handle) for handle in self._handles]

    def _reading(self, handle: Any) -> Reading:  # noqa: ANN401 - the library's own
        nvml = self._nvml
        rates = self._told(nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = self._told(nvml.nvmlDeviceGetMemoryInfo, handle)
        # The library gives milliwatts and millijoules.
        power = self._told(nvml.nvmlDeviceGetPowerUsage, handle)
        energy = self._told(nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
        return Reading(
            at=self._clock(),
            utilisation=None if rates is None else rates.gpu / 100,
            memory=None if memory is None else memory.used,
            power_w=None if power is None else power / 1e3,
            energy_j=None if energy is None else energy / 1e3,
        )

    def close(self) -> None:
        """Lets the library go."""
        self._nvml.nvmlShutdown()

    def _told(self, ask: Callable[[Any], Any], handle: Any) -> Any:  # noqa: ANN401 - the library's own
        try:
            return ask(handle)
        except self._nvml.NVMLError:
            return None


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
