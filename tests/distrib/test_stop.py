"""Signals ask; only a later Ctrl-C insists."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from distrib import stop
from distrib.stop import StopRequest

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
each_signal = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)


class Clock:
    """Stands for the time module: seconds pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stop, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[signal.Signals, Any]]:
    """What was installed before; put back even if a test fails."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    signal.getsignal(number)  # Python runs handlers between two instructions; here is one


def test_no_signal_no_reason() -> None:
    with StopRequest() as request:
        assert request.reason is None


@each_signal
def test_signal_sets_the_reason_and_the_program_goes_on(number: signal.Signals) -> None:
    with StopRequest() as request:
        send(number)
        assert request.reason == number.name
    assert request.reason == number.name


@each_signal
def test_first_reason_stays(number: signal.Signals) -> None:
    with StopRequest() as request:
        send(number)
        send(signal.SIGTERM)
        send(signal.SIGUSR1)
        assert request.reason == number.name


@each_signal
@pytest.mark.parametrize("signalled", [False, True])
def test_handlers_are_restored(number: signal.Signals, signalled: bool, handlers: dict[signal.Signals, Any]) -> None:
    with StopRequest():
        assert signal.getsignal(number) != handlers[number]
        if signalled:
            send(number)
    assert signal.getsignal(number) == handlers[number]


def test_handlers_are_restored_after_an_error(handlers: dict[signal.Signals, Any]) -> None:
    with pytest.raises(ZeroDivisionError), StopRequest():
        raise ZeroDivisionError
    assert {number: signal.getsignal(number) for number in SIGNALS} == handlers


@pytest.mark.parametrize("seconds", [0.0, 0.5, 2.0])
def test_same_keypress_is_not_a_second_wish(clock: Clock, seconds: float) -> None:
    with StopRequest() as request:
        send(signal.SIGINT)
        clock.now += seconds
        try:
            send(signal.SIGINT)
        except KeyboardInterrupt:  # would end the whole test session
            pytest.fail("one keypress was taken for two")
        assert request.reason == "SIGINT"


@pytest.mark.parametrize("seconds", [2.1, 600.0])
def test_later_ctrl_c_stops_at_once(clock: Clock, seconds: float) -> None:
    with StopRequest():
        send(signal.SIGINT)
        clock.now += seconds
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_other_signals_never_stop_at_once(clock: Clock, number: signal.Signals) -> None:
    with StopRequest() as request:
        for _ in range(3):
            send(number)
            clock.now += 600.0
        assert request.reason == number.name
