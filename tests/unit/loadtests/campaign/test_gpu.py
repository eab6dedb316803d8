"""What is made of the readings of GPUs: recorded ones, as a machine without any has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from loadtests.campaign.gpu import GpuMeter, Reading, gpu_meter
from tests.harness.gpu_readings import findings

# A card under load for a second: power in watts, energy in joules since the driver's start.
RECORDED = (
    Reading(0.0, 0.0, 530_907_136, 67.2, 81_203.4),
    Reading(0.25, 0.41, 3_221_225_472, 180.5, 81_234.9),
    Reading(0.5, 0.97, 3_489_660_928, 254.1, 81_289.2),
    Reading(0.75, 0.95, 3_489_660_928, 251.8, 81_352.4),
    Reading(1.0, 0.32, 3_489_660_928, 120.0, 81_398.6),
)


class RecordedGpus:
    """Gives recorded readings one after another, each of them of every card."""

    driver = "550.90.07"

    def __init__(self, readings: Sequence[Sequence[Reading]], *names: str) -> None:
        self._left = list(readings)
        self.names: Sequence[str] = names

    def read(self) -> Sequence[Reading]:
        """The next reading."""
        return self._left.pop(0)

    def close(self) -> None:
        """Nothing to let go."""


def metered(readings: Sequence[Sequence[Reading]], *names: str) -> dict[str, Any]:
    """The meter's figures of recorded readings."""
    meter = GpuMeter(RecordedGpus(readings, *names))
    meter.begin()
    for _ in readings[2:]:
        meter.sample()
    return meter.end()


def test_the_energy_is_the_drivers_own_counter_where_it_has_one() -> None:
    """And the rest are means and peaks."""
    found = metered([[each] for each in RECORDED], "NVIDIA L4")
    (device,) = found["devices"]
    assert (found["status"], found["driver"], device["name"]) == ("measured", "550.90.07", "NVIDIA L4")
    assert (device["energy"], device["energy_j"]) == ("measured", pytest.approx(195.2))
    assert found["energy_j"] == device["energy_j"]
    assert device["utilisation_mean"] == pytest.approx(0.53)
    assert (device["utilisation_max"], device["memory_peak"]) == (0.97, 3_489_660_928)
    assert device["power_w_mean"] == pytest.approx(174.72)
    assert device["power_w_max"] == 254.1


def test_without_a_counter_the_energy_is_estimated_from_the_power() -> None:
    """By trapezoids over the time between the readings; a counter that went back is none."""
    for lost in (None, 0.0):
        without = [
            Reading(each.at, each.utilisation, each.memory, each.power_w, lost if place else 5.0 if lost == 0 else None)
            for place, each in enumerate(RECORDED)
        ]
        (device,) = metered([[each] for each in without], "card")["devices"]
        assert device["energy"] == "estimated"
        assert device["energy_j"] == pytest.approx(0.25 * (67.2 / 2 + 180.5 + 254.1 + 251.8 + 120 / 2), abs=1e-3)


def test_what_a_gpu_does_not_tell_is_not_measured() -> None:
    """Never zero."""
    silent = [[Reading(at, None, None, None, None)] for at in (0.0, 1.0)]
    (device,) = metered(silent, "card")["devices"]
    assert (device["energy"], device["energy_j"], device["utilisation_mean"], device["memory_peak"]) == (
        "not measured",
        None,
        None,
        None,
    )


def test_the_energy_of_several_gpus_adds_up() -> None:
    """One that does not tell is left out."""
    pair = [
        [Reading(at, 0.5, 1, 100.0, energy), Reading(at, None, None, None, None)]
        for at, energy in ((0.0, 10.0), (1.0, 110.0))
    ]
    assert metered(pair, "a", "b")["energy_j"] == 100.0


def test_a_machine_without_gpus_says_why_nothing_was_measured() -> None:
    """The library's own words; where there is one, a figure."""
    meter = gpu_meter(lambda: 0.0)
    meter.begin()
    meter.sample()
    found = meter.end()
    assert found["status"] in ("measured", "not measured")
    assert found["status"] == "measured" or found["why"]


def _device(busy: bool, energy_j: float | None) -> dict[str, object]:
    return {
        "utilisation_mean": 0.9 if busy else 0.0,
        "memory_peak": 3 << 30 if busy else 1 << 29,
        "power_w_mean": 300.0 if busy else 70.0,
        "energy_j": energy_j,
        "energy": "measured",
    }


@pytest.mark.parametrize(("counter_j", "holds"), [(2_900.0, True), (5_000.0, False), (None, False)])
def test_a_real_gpus_readings_must_agree_with_one_another(counter_j: float | None, holds: bool) -> None:
    """The check of a real GPU believes an energy counter that its power confirms, and nothing that was not read."""
    idle, busy = {"devices": [_device(False, 70.0)]}, {"devices": [_device(True, counter_j)]}
    found = {name: held for name, _, held in findings(idle, busy, 3_000.0)}
    assert found == {"utilisation_mean": True, "memory_peak": True, "power_w_mean": True, "energy": holds}


def test_a_gpu_that_does_not_rise_under_load_is_told() -> None:
    """A card that shows the same figures at work as idle was not read."""
    same = {"devices": [_device(False, 70.0)]}
    assert not any(held for _, _, held in findings(same, same, 300.0))
