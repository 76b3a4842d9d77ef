"""Signals ask; only a later Ctrl-C insists, and before there is anything to save the first one is enough."""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from distrib.job import stop
from distrib.job.stop import LAUNCHER_DIED, Stopped, StopRequest
from tests.clock import FakeClock
from tests.support import wait_until

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
each_signal = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)


class Left:
    """Stands for the end of the process."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, str]] = []

    def __call__(self, code: int, reason: str) -> None:
        self.calls.append((code, reason))


def running(left: Left | None = None) -> StopRequest:
    """Of a run that has begun."""
    request = StopRequest(left or Left(), {})
    request.wait_for_agreement()
    return request


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(stop, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[signal.Signals, Any]]:
    """What is installed before; what was is put back even if a test fails."""
    found = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    yield {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in found.items():
        signal.signal(number, handler)


def send(number: signal.Signals, until: Callable[[], object] = lambda: True) -> None:
    os.kill(os.getpid(), number)
    wait_until(lambda: bool(until()), 5, every=0.01)
    time.sleep(0.05)


def test_no_signal_no_reason() -> None:
    with running() as request:
        assert request.reason is None


@each_signal
def test_signal_sets_the_reason_and_the_program_goes_on(number: signal.Signals) -> None:
    left = Left()
    with running(left) as request:
        send(number, lambda: request.reason)
        assert request.reason == number.name
    assert request.reason == number.name
    assert left.calls == []


@each_signal
def test_first_reason_stays(number: signal.Signals) -> None:
    with running() as request:
        send(number, lambda: request.reason)
        send(signal.SIGTERM)
        send(signal.SIGUSR1)
        assert request.reason == number.name


@each_signal
def test_before_the_run_has_begun_the_process_is_left_at_once(number: signal.Signals) -> None:
    left = Left()
    with StopRequest(left, {}):
        send(number, lambda: left.calls)
    assert left.calls == [(75, number.name)]


@each_signal
@pytest.mark.parametrize("signalled", [False, True])
def test_handlers_are_restored(number: signal.Signals, signalled: bool, handlers: dict[signal.Signals, Any]) -> None:
    with running():
        assert signal.getsignal(number) != handlers[number]
        if signalled:
            send(number)
    assert signal.getsignal(number) == handlers[number]


def test_handlers_are_restored_after_an_error(handlers: dict[signal.Signals, Any]) -> None:
    with pytest.raises(ZeroDivisionError), running():
        raise ZeroDivisionError
    assert {number: signal.getsignal(number) for number in SIGNALS} == handlers


def test_a_process_that_ends_stays_deaf() -> None:
    with running() as request:
        request.ignore_afterwards()
        send(signal.SIGTERM, request.asked)
    assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}


def test_what_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with running() as request:
        send(signal.SIGHUP)
        assert request.reason is None


@pytest.mark.parametrize("seconds", [0.0, 0.5, 2.0])
def test_same_keypress_is_not_a_second_wish(clock: FakeClock, seconds: float) -> None:
    left = Left()
    with running(left) as request:
        send(signal.SIGINT, lambda: request.reason)
        clock.now += seconds
        send(signal.SIGINT)
        assert request.reason == "SIGINT"
    assert left.calls == []


@pytest.mark.parametrize("seconds", [2.1, 600.0])
def test_later_ctrl_c_stops_at_once(clock: FakeClock, seconds: float) -> None:
    left = Left()
    with running(left) as request:
        send(signal.SIGINT, lambda: request.reason)
        clock.now += seconds
        send(signal.SIGINT, lambda: left.calls)
    assert left.calls == [(130, "SIGINT")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP], ids=lambda number: number.name)
def test_other_signals_never_stop_at_once(clock: FakeClock, number: signal.Signals) -> None:
    left = Left()
    with running(left) as request:
        for _ in range(3):
            send(number, lambda: request.reason)
            clock.now += 600.0
        assert request.reason == number.name
    assert left.calls == []


def test_a_request_is_heard_while_the_main_thread_waits_in_c() -> None:
    """For a peer, or a download: no Python runs there, so no Python handler does."""
    blocked = """
import ctypes, os, sys
from distrib.job.stop import StopRequest
def leave(code, reason):
    os.write(1, reason.encode())
    os._exit(code)
with StopRequest(leave, {}):
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    libc.pthread_mutex_lock(mutex)
    os.write(1, b"waiting ")
    libc.pthread_mutex_lock(mutex)  # for ever; no signal interrupts it
"""
    with subprocess.Popen([sys.executable, "-c", blocked], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(8) == b"waiting "
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 75
        assert process.stdout.read() == b"SIGTERM"


LAUNCHER = """
import os, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env={**os.environ, "TORCHELASTIC_RUN_ID": "x"})
worker.wait()
"""
WORKER = """
import os, time
from distrib.job.stop import StopRequest
with StopRequest(lambda code, reason: None) as request:
    request.wait_for_agreement()
    os.write(1, b"ready ")
    while request.reason is None:
        time.sleep(0.05)
    os.write(1, request.reason.encode())
"""


def test_in_somebody_elses_process_a_second_ctrl_c_raises(clock: FakeClock) -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest(None, {}) as request:
        signal.raise_signal(signal.SIGINT)
        assert request.wait(60)
        signal.raise_signal(signal.SIGINT)  # of the same keypress: terminal and launcher both deliver it
        clock.now += 10
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert request.reason == "SIGINT"
    assert signal.getsignal(signal.SIGINT) == before


def test_a_thread_that_is_not_the_main_one_takes_no_signals() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), list[object]()

    def work() -> None:
        with StopRequest(None, {}) as request:
            seen.extend((signal.getsignal(signal.SIGTERM), request.asked()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, False]


def test_the_launchers_death_is_a_request() -> None:
    with subprocess.Popen([sys.executable, "-c", LAUNCHER, WORKER], stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.read(6) == b"ready "
        launcher.kill()
        ready, _, _ = select.select([launcher.stdout], [], [], 10)
        assert ready
        assert launcher.stdout.read() == b"its launcher died"


def test_a_launchers_death_is_a_fault_that_was_survived() -> None:
    asked, died = Stopped("SIGTERM", "after step 3", 3), Stopped(LAUNCHER_DIED, "after step 3", 3)
    assert (asked.code, str(asked)) == (75, "stopped on request (SIGTERM) after step 3")
    assert (died.code, str(died)) == (1, "stopped because its launcher died after step 3")
