"""One generator process: Locust as a library, its users sending a cell's requests.

    python -m loadtests.engine.worker CELL-FILE INDEX ARTIFACTS CONTROL-FD ROWS-FD

It needs LOCUST_SKIP_MONKEY_PATCH=1: our clients name gevent's sockets themselves, and gRPC's threads need the standard
library as it is. `control` says what it tells and hears.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import gevent
from gevent.event import Event
from locust import User, task
from locust.env import Environment

from loadtests.cell_spec import CellSpec
from loadtests.engine.control import Control
from loadtests.engine.dispatch import ClosedLoop, OpenLoop, Share, StoppedError, loop_of
from loadtests.engine.sink import Sink, pipe_writer
from loadtests.errors import LoadTestError

logger = logging.getLogger(__name__)

_FOR_EVER_S = 1e6
# The watch ends with the measured part; on a busy machine a little later.
_WATCH_ENDS_S = 2.0


def user_class(loop: OpenLoop | ClosedLoop) -> type[User]:
    """Locust's user of a loop; each of its users runs it once."""

    class CellUser(User):
        numbers = iter(range(loop.users))

        @task
        def send(self) -> None:
            """Sends its part, then has nothing more to do."""
            try:
                loop.run(next(self.numbers))
            except StoppedError:
                pass  # a stop that came at its end
            except Exception as exc:
                logger.exception("a user of the cell failed")
                failures.append(exc)
            finished.append(self)
            if len(finished) == loop.users:
                done.set()
            gevent.sleep(_FOR_EVER_S)

    finished: list[User] = []
    done = Event()
    failures: list[Exception] = []
    CellUser.done = done  # type: ignore[attr-defined]
    CellUser.failures = failures  # type: ignore[attr-defined]
    return CellUser


def on_our_clock(unix: float) -> float:
    """A wall-clock instant on `time.perf_counter`."""
    return time.perf_counter() + (unix - time.time())


def run(spec: CellSpec, index: int, artifacts: Path, control: Control, sink: Sink) -> None:
    """Prepares, waits for the others, sends, reports. Raises LoadTestError where the cell cannot be sent."""
    environment = Environment()
    share = Share.of(spec, index, artifacts, sink)
    share.fire = environment.events.request
    loop = loop_of(share, lambda: control.tell({"warm": True}))
    users = user_class(loop)
    environment.user_classes = [users]
    runner = environment.create_local_runner()
    # Nothing that lives now is garbage, and a collection in the run would hold up what is due.
    gc.collect()
    gc.freeze()
    gc.disable()
    control.tell({"ready": loop.warm_up_seconds})
    begins = control.wait("begin")
    background = [gevent.spawn(_stopper, control, loop)]
    if isinstance(loop, OpenLoop):
        t0_unix = begins + loop.warm_up_seconds
        share.begin(t0_unix, on_our_clock(t0_unix))
    else:
        gevent.sleep(max(0.0, begins - time.time()))
        background.append(gevent.spawn(loop.watch_warm_up))
        background.append(gevent.spawn(_measure, control, loop))
    watch = gevent.spawn(_watch, share)
    background += [watch, gevent.spawn(sink.pump)]
    runner.start(loop.users, spawn_rate=loop.users)
    try:
        users.done.wait()  # type: ignore[attr-defined]
        if not share.stopped:
            watch.join(_WATCH_ENDS_S)
    finally:
        gevent.killall(background)
        for target in share.targets:
            target.clients.close()
    runner.quit()
    if failures := users.failures:  # type: ignore[attr-defined]
        raise LoadTestError(f"a user of the generator failed: {failures[0]!r}") from failures[0]
    sink.drain()
    control.tell(
        {
            "done": share.health.to_json(),
            "scheduled": loop.scheduled,
            "rows": share.health.rows,
            "stopped": share.stopped,
            "t0_unix": t0_unix if isinstance(loop, OpenLoop) else control.values.get("measure"),
        }
    )


def _stopper(control: Control, loop: OpenLoop | ClosedLoop) -> None:
    control.said["stop"].wait()
    loop.stop()


def _measure(control: Control, loop: ClosedLoop) -> None:
    t0_unix = control.wait("measure")
    loop.begin(t0_unix, on_our_clock(t0_unix))


def _watch(share: Share) -> None:
    while share.t0 != share.t0:  # NaN: a closed loop's warm-up is not over
        gevent.sleep(0.01)
    share.health.watch(share.t0, share.spec.load.seconds, lambda: share.under_way, share.opened)


def main(arguments: Sequence[str]) -> int:
    """Runs one worker; returns its exit code."""
    # What gRPC's threads do between two looks at the clock must not make a send late.
    sys.setswitchinterval(0.0001)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    source, index, artifacts, control_fd, rows_fd = arguments
    control = Control(int(control_fd))
    listening = gevent.spawn(control.listen)
    sink = Sink(pipe_writer(int(rows_fd)), control.said["stop"].set)
    try:
        spec = CellSpec.from_json(json.loads(Path(source).read_text("utf-8")), source)
        run(spec, int(index), Path(artifacts), control, sink)
    except LoadTestError as exc:
        logger.error("%s", exc)
        control.tell({"error": str(exc)})
        return 2
    finally:
        listening.kill()
        control.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
