"""Each worker's part of what the configuration allows the gateway as a whole."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.settings import EndpointSettings, Settings


def part(total: int, worker: int, workers: int) -> int:
    """What worker number `worker`, from 1, has of a total: as good as the same for each, together all of it.

    At least 1, so that workers of which there are more than that have more together.
    """
    return max(1, total // workers + (worker <= total % workers))


def share_of(settings: Settings, worker: int) -> Settings:
    """The configuration of worker number `worker`, from 1: its part of slots, queues and requests in flight.

    Every worker takes at least one request of the largest size that the configuration allows.
    """
    workers = settings.server.workers
    limits = settings.limits.model_copy(
        update={
            "in_flight": part(settings.limits.in_flight, worker, workers),
            "in_flight_bytes": max(settings.limits.body_bytes, part(settings.limits.in_flight_bytes, worker, workers)),
        }
    )
    endpoints = {name: _endpoint(spec, worker, workers) for name, spec in settings.endpoints.items()}
    return settings.model_copy(update={"limits": limits, "endpoints": endpoints})


def too_small(settings: Settings) -> Iterator[str]:
    """A sentence about everything that is not enough for all workers, so that together they have more."""
    workers = settings.server.workers
    for name, spec in settings.endpoints.items():
        if spec.slots < workers:
            yield (
                f"endpoint {name}: slots: {spec.slots} cannot be divided among {workers} workers, which have one each: "
                f"up to {workers} calls may run there at once"
            )


def _endpoint(spec: EndpointSettings, worker: int, workers: int) -> EndpointSettings:
    queue = part(spec.queue, worker, workers) if spec.queue else 0
    return spec.model_copy(update={"slots": part(spec.slots, worker, workers), "queue": queue})
