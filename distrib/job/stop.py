"""Hears requests to stop, from a person, a batch system or a launcher.

A request is a wish: all ranks agree on it at the end of a step, write a checkpoint and leave with exit code 75.
Before the run has a process group there is nothing to agree on or to save, and it is left at once; so it is
on a second Ctrl-C.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from distrib.errors import EXIT_FAULT, EXIT_INSISTED, EXIT_STOPPED

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
_SAME_KEYPRESS_SECONDS = 2.0  # terminal and launcher both deliver the first Ctrl-C
_PERIOD = 0.5  # seconds between looks at the launcher
# Set by accelerate launch, and by torchelastic for each of several processes.
_LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")


LAUNCHER_DIED = "its launcher died"
"""The one reason that is no signal's name."""
BEFORE_THE_RUN = "before the run began; the same command starts it"
"""Where a run stands that was stopped while there was nothing to save."""


class Stopped(Exception):
    """The run was left because somebody asked; the message says who, and where it stands."""

    def __init__(self, reason: str, where: str, step: int | None) -> None:
        said = f"stopped because {reason}" if reason == LAUNCHER_DIED else f"stopped on request ({reason})"
        super().__init__(f"{said} {where}")
        self.code, self.step = code_for(reason), step


def code_for(reason: str) -> int:
    """Return the exit code of a stop. A launcher that died is a fault, although the run is saved, for a batch system to count."""
    return EXIT_FAULT if reason == LAUNCHER_DIED else EXIT_STOPPED


def signals_heard() -> list[signal.Signals]:
    """Return the signals that ask a run to stop. SIGHUP does not where it is ignored, as nohup wishes."""
    return [each for each in _SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]


class StopRequest:
    """A context: inside it the signals set `reason` instead of ending the process, and so does the launcher's end.

    Only a main thread can receive signals: in another one, nothing changes how the process takes them.

    A thread receives them, through the descriptor that the interpreter's own signal handler writes to: the main
    thread may wait in C for a peer or a download and run no Python for minutes.
    """

    def __init__(self, leave: Callable[[int, str], None] | None, environment: Mapping[str, str] = os.environ) -> None:
        """`leave(code, reason)` ends the process at once; it is called from the thread.

        None stands for a process that is not the run's to end, such as a notebook's: a first request always waits for
        agreement, and a second Ctrl-C raises KeyboardInterrupt in the main thread.
        """
        self.reason: str | None = None
        self._asked = threading.Event()
        self._leave = leave
        self._waits = leave is None
        self._since = 0.0
        self._launcher = os.getppid() if any(name in environment for name in _LAUNCHED) else None
        self._previous: dict[int, Any] = {}
        self._previous_descriptor: int | None = None

    def __enter__(self) -> "StopRequest":
        self._read, self._write = os.pipe()
        if threading.current_thread() is threading.main_thread():
            self._take_signals()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="stop requests")
        self._thread.start()
        return self

    def _take_signals(self) -> None:
        os.set_blocking(self._write, False)
        self._previous_descriptor = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in signals_heard():
            self._previous[number] = signal.signal(number, self._in_main_thread)

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._previous_descriptor is not None:
            signal.set_wakeup_fd(self._previous_descriptor)
        os.close(self._write)  # ends the thread
        self._thread.join()
        os.close(self._read)

    def ignore_afterwards(self) -> None:
        """Leave the signals ignored when the context ends, instead of as they were before it.

        A process that has said how its run ended still takes a third of a second to end, with torch in it. A signal that comes
        then, as from a batch system that repeats its own, must not change the exit code.
        """
        self._previous = dict.fromkeys(self._previous, signal.SIG_IGN)

    def wait_for_agreement(self) -> None:
        """Let no request end the process by itself from now on: there are peers to agree with, and a run to save."""
        self._waits = True

    def asked(self) -> bool:
        return self._asked.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait until somebody asks, at most so many seconds; return whether somebody did."""
        return self._asked.wait(seconds)

    def _watch(self) -> None:
        while True:
            ready, _, _ = select.select([self._read], [], [], _PERIOD)
            if self._launcher is not None and os.getppid() != self._launcher:
                self._launcher = None
                self._take(LAUNCHER_DIED, insists=False)
            if ready:
                received = os.read(self._read, 64)
                if not received:
                    return
                for number in received:
                    if number in self._previous:
                        self._take(signal.Signals(number).name, insists=number == signal.SIGINT)

    def _take(self, reason: str, *, insists: bool) -> None:
        now = time.monotonic()
        if self.reason is None:
            self.reason, self._since = reason, now
            self._asked.set()
            if self._leave is not None and not self._waits:
                self._leave(code_for(reason), reason)
        elif self._leave is not None and insists and self._asked_before(now):
            self._leave(EXIT_INSISTED, reason)

    def _asked_before(self, now: float) -> bool:
        """Return whether the first request came by another keypress than a Ctrl-C of this moment."""
        return self.reason is not None and now - self._since > _SAME_KEYPRESS_SECONDS

    def _in_main_thread(self, number: int, _frame: FrameType | None) -> None:
        """Do nothing, in most cases: the interpreter has written the number to the descriptor already."""
        if self._leave is None and number == signal.SIGINT and self._asked_before(time.monotonic()):
            raise KeyboardInterrupt
