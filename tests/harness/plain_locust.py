"""Locust as it comes, for comparison: FastHttpUsers with `constant_throughput(10)`, in a process of their own.

    python -m tests.harness.plain_locust ADDRESS RATE SECONDS

prints JSON: the requests that were sent, how late each user's were by its own pace (`lag_p99_ms`, `late_share`), the
CPU as a share of a core (`cpu_max`, in one second), and the achieved rate.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import gevent
from locust import FastHttpUser, constant_throughput, task
from locust.env import Environment

_A_USER = 10  # requests a second of each user
_WARM_UP_S = 2.0


def main(address: str, rate: float, seconds: float) -> dict[str, Any]:
    """Runs `rate` / 10 users against an address."""
    lags: list[float] = []
    cpu: list[float] = []
    clock = time.perf_counter
    begins = clock() + _WARM_UP_S

    class Plain(FastHttpUser):
        host = f"http://{address}"
        wait_time = constant_throughput(_A_USER)

        @task
        def ask(self) -> None:
            now = clock()
            # Its own pace says when it is due: a tenth of a second after the time before.
            if now >= begins:
                lags.append(max(0.0, now - getattr(self, "last", now) - 1 / _A_USER))
            self.last = now
            self.client.post("/predict", data=b'{"model": "oracle", "inputs": {"x": [[1.0]]}}')

    environment = Environment(user_classes=[Plain])
    runner = environment.create_local_runner()
    users = round(rate / _A_USER)
    runner.start(users, spawn_rate=users)
    gevent.sleep(max(0.0, begins - clock()))
    used, since = time.process_time(), clock()
    while (left := begins + seconds - clock()) > 0:
        gevent.sleep(min(1.0, left))
        now, spent = clock(), time.process_time()
        if now - since > 0.5:
            cpu.append((spent - used) / (now - since))
            used, since = spent, now
    sent = sorted(lags)
    runner.quit()
    return {
        "sent": len(sent),
        "rate": len(sent) / seconds,
        "lag_p50_ms": sent[len(sent) // 2] * 1e3,
        "lag_p99_ms": sent[int(len(sent) * 0.99)] * 1e3,
        "late_share": sum(lag > 0.001 for lag in sent) / len(sent),
        "cpu_max": max(cpu),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))), flush=True)
