"""Decides when the page is written: it must never cost a run more than a hundredth of its time, nor end it."""

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from distrib.display import Display
from distrib.layout import PAGE

EVERY = 30.0  # seconds between two pages, but at the end of an epoch
SHARE = 0.01  # of the time since training began
_FIRST = 0.3  # seconds that the first page is taken to cost: the template library is imported for it


def available() -> bool:
    """Return whether pages can be made here."""
    return find_spec("jinja2") is not None


class LivePage:
    """The page of a run that is going on. Rank 0 has one."""

    def __init__(self, display: Display, clock: Callable[[], float] = time.monotonic) -> None:
        self._display, self._clock = display, clock
        self._works, self._told = available(), False
        self._cost = _FIRST  # of the last page, in seconds
        self.begin()

    def begin(self) -> None:
        """Note that training begins: what the page may cost is a share of the time from here on."""
        self._began = self._written = self._clock()
        self.spent = 0.0  # seconds on all pages since then

    def due(self, *, epoch_ended: bool = False) -> bool:
        """Return whether it is time for a page, and pages will not have cost too much then."""
        now = self._clock()
        waited = epoch_ended or now - self._written >= EVERY
        return self._works and waited and self.spent + self._cost <= SHARE * (now - self._began)

    def write(self, folder: Path) -> None:
        """Write the page of the run in this folder."""
        if not self._works:
            return
        began = self._clock()

        def work() -> None:
            from distrib.page.render import write  # only now: it imports the template library

            write(folder)

        self.attempt(work, folder / PAGE)
        self._written = self._clock()
        self._cost = self._written - began
        self.spent += self._cost

    def attempt(self, work: Callable[[], None], path: Path) -> None:
        """Write something for the page. The first time that this fails a note says so, with the path; the run goes on."""
        try:
            work()
        except Exception as error:  # whatever it is, the run is worth more
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            if not self._told:
                self._display.say(f"note: {path} could not be written ({reason}); the run goes on without it")
            self._told = True
