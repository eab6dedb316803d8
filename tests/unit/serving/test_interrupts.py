"""Signals as exceptions, once, and never in the middle of the ending."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from serving.interrupts import Interrupts, Terminated


def _send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated)],
)
def test_a_signal_raises_in_the_block(number: signal.Signals, error: type[BaseException]) -> None:
    """SIGINT as Python does, the others as an exit with 128 and the signal's number."""
    before = signal.getsignal(number)
    with pytest.raises(error) as raised, Interrupts():
        _send(number)
    assert signal.getsignal(number) is before
    if isinstance(raised.value, Terminated):
        assert raised.value.code == 128 + number


def test_the_same_signal_twice_at_once_is_one() -> None:
    """A signal sent to the process and to its group does not raise again in the handling of the first."""
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            _send(signal.SIGINT)
        _send(signal.SIGINT)
        assert not interrupts.hurry


def test_while_closing_a_signal_hurries_and_is_raised_at_the_end() -> None:
    """Nothing that is being ended is left half done; the signal is not lost."""
    interrupts = Interrupts()

    def end() -> None:
        with interrupts:
            interrupts.close()
            _send(signal.SIGTERM)
            assert interrupts.hurry

    with pytest.raises(Terminated):
        end()


def test_an_error_on_its_way_is_not_replaced() -> None:
    """A signal that comes while an error unwinds only hurries."""
    interrupts = Interrupts()

    def fail() -> None:
        with interrupts:
            interrupts.close()
            _send(signal.SIGTERM)
            raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        fail()


def test_ignored_hangups_stay_ignored() -> None:
    """What nohup started goes on without its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts():
            _send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_leave_the_signals_alone() -> None:
    """Python handles signals in its main thread only."""
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def body() -> None:
        with Interrupts():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [before]
