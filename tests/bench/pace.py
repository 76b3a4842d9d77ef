"""How a loop is timed: it waits for a signal before each epoch, and tells afterwards what the epoch took.

A line on standard input starts an epoch; a line of JSON on standard output, `{"wall": seconds, "cpu": seconds}`, ends it. All
loops are started first and then take turns, so that a machine whose speed drifts drifts for all of them.
"""

import json
import os
import sys
import time


class Pace:
    """The clock of one loop."""

    def __init__(self) -> None:
        self._started: tuple[float, float] | None = None

    def lap(self) -> bool:
        """Tell of the epoch that ends here, if one does, and wait for the next. Return False if there is none."""
        if self._started is not None:
            wall, cpu = time.perf_counter() - self._started[0], _cpu_seconds() - self._started[1]
            print(json.dumps({"wall": wall, "cpu": cpu}), flush=True)
        if not sys.stdin.readline():
            return False
        self._started = time.perf_counter(), _cpu_seconds()
        return True


def _cpu_seconds() -> float:
    """Return what this process has used on all its threads. Workers of its data loader are not counted."""
    times = os.times()
    return times.user + times.system
