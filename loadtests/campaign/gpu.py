"""What the GPUs of this machine do in a cell, from NVIDIA's management library; "not measured" where there is none."""

from __future__ import annotations

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
class Mean:
    """Mean and largest of values that come one by one; what is None was not told."""

    _sum: float = 0.0
    _count: int = 0
    most: float | None = None

    def add(self, value: float | None) -> None:
        """Takes a value."""
        if value is not None:
            self._sum, self._count = self._sum + value, self._count + 1
            self.most = value if self.most is None else max(self.most, value)

    @property
    def mean(self) -> float | None:
        """The mean, None without values."""
        return round(self._sum / self._count, 3) if self._count else None


@dataclass(slots=True)
class Device:
    """What the readings of one GPU amount to, one after another: none is kept, however long a soak lasts."""

    name: str
    power_over_time_j: float | None = None  # of the watts that were read, by trapezoids
    _shares: Mean = field(default_factory=Mean)
    _watts: Mean = field(default_factory=Mean)
    _memory: int | None = None
    _power: tuple[float, float] | None = None
    _counter: list[float] = field(default_factory=list)

    def add(self, reading: Reading) -> None:
        """Takes a reading."""
        self._shares.add(reading.utilisation)
        self._watts.add(reading.power_w)
        if reading.memory is not None:
            self._memory = max(self._memory or 0, reading.memory)
        if reading.power_w is not None:
            if self._power is not None:
                at, watts = self._power
                joules = (reading.at - at) * (watts + reading.power_w) / 2
                self.power_over_time_j = (self.power_over_time_j or 0.0) + joules
            self._power = reading.at, reading.power_w
        if reading.energy_j is not None:
            # The first and the latest.
            self._counter = [*self._counter[:1], reading.energy_j]

    def to_json(self) -> Json:
        """Means and peaks. Energy is the driver's own counter where it has one, else the power over time."""
        energy, how = self.power_over_time_j, "estimated"
        if len(self._counter) == 2 and self._counter[1] >= self._counter[0]:
            energy, how = self._counter[1] - self._counter[0], "measured"
        return {
            "name": self.name,
            "utilisation_mean": self._shares.mean,
            "utilisation_max": self._shares.most,
            "memory_peak": self._memory,
            "power_w_mean": self._watts.mean,
            "power_w_max": self._watts.most,
            "energy_j": None if energy is None else round(energy, 3),
            "energy": "not measured" if energy is None else how,
        }


@dataclass(slots=True)
class GpuMeter:
    """Takes readings between `begin` and `end`."""

    gpus: Gpus | None
    why: str = ""
    devices: Sequence[Device] = ()

    def begin(self) -> None:
        """Forgets earlier readings and takes the first."""
        self.devices = [Device(name) for name in self.gpus.names] if self.gpus is not None else ()
        self.sample()

    def sample(self) -> None:
        """Takes a reading."""
        if self.gpus is not None:
            for device, reading in zip(self.devices, self.gpus.read(), strict=True):
                device.add(reading)

    def end(self) -> Json:
        """The figures of each GPU and the energy of all, as JSON; idle power is in it."""
        if self.gpus is None:
            return {"status": "not measured", "why": self.why}
        self.sample()
        devices = [device.to_json() for device in self.devices]
        energies = [device["energy_j"] for device in devices if device["energy_j"] is not None]
        return {
            "status": "measured",
            "driver": self.gpus.driver,
            "devices": devices,
            "energy_j": round(sum(energies), 3) if energies else None,
        }

    def close(self) -> None:
        """Lets the library go."""
        if self.gpus is not None:
            self.gpus.close()


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
