"""The worker's end of the control socket, and the end of who is at the other."""

from __future__ import annotations

import socket
from collections.abc import Callable

import gevent
import pytest

from loadtests.engine.control import Control
from loadtests.errors import LoadTestError

PATIENCE_S = 10.0


@pytest.mark.parametrize("last", [lambda _: None, lambda near: near.recv(100)], ids=["in the middle", "after reading"])
def test_whoever_conducts_being_gone_is_a_stop(last: Callable[[socket.socket], object]) -> None:
    """Whether it had read what it was told (then its end is seen as an end) or not (then as an error)."""
    near, far = socket.socketpair()
    control = Control(far.detach())
    listening = gevent.spawn(control.listen)
    control.tell({"ready": 0.5})
    last(near)
    near.close()
    with pytest.raises(LoadTestError, match="stopped before the run began"), gevent.Timeout(PATIENCE_S):
        control.wait("begin")
    listening.join(PATIENCE_S)
    assert listening.successful()
    control.close()


def test_what_is_told_arrives_with_its_instant() -> None:
    """In lines, however they are cut."""
    near, far = socket.socketpair()
    control = Control(far.detach())
    listening = gevent.spawn(control.listen)
    near.sendall(b'{"be')
    gevent.sleep(0.01)
    near.sendall(b'gin": 12.5}\n{"measure": 14}\n')
    with gevent.Timeout(PATIENCE_S):
        assert (control.wait("begin"), control.wait("measure")) == (12.5, 14.0)
    near.close()
    listening.join(PATIENCE_S)
    assert control.said["stop"].is_set()
    control.close()
