"""A part that dies as a process dies of a fault in a driver, after its first case."""

import os
import signal
import sys

from tests.gpu.part import Case, Cases, Figures
from tests.gpu.report import Column


def _die() -> Figures:
    print("the device fell off the bus", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("unreachable")


PART = Cases(
    title="crash",
    columns=(Column(key="x", title="x"),),
    cases=lambda _: [Case("one", lambda: {"x": 1.0}), Case("two", _die)],
)
