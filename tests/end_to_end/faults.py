"""Faults that a test plants in the process of a rank. The ranks import this module, so it must not import JAX.

Each function takes the number of its rank last and is called before the rank trains.
"""

import functools
import itertools
import os
import pkgutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distrib.checkpoint import store
from distrib.job.stop import StopRequest
from distrib.training.observers import Observers
from tests.disk import Disk
from tests.support import replace_attribute

NOBODY = 65534
UPDATE = ("distrib.optim.update:Update", "step")
"""The place and the name of the function that makes an update, for `asked_in`."""


def killed_after(step: int, rank: int) -> None:
    """Kill the rank (SIGKILL) right after this step, before the next one begins."""
    del rank
    _after(step, lambda: os.kill(os.getpid(), signal.SIGKILL))


def asked_in(place: str, name: str, call: int, rank: int) -> None:
    """Send the rank SIGTERM when it enters the function `name` of this module or class for the `call`-th time."""
    del rank
    owner, requests, calls = pkgutil.resolve_name(place), list[StopRequest](), itertools.count(1)
    function, enter = getattr(owner, name), StopRequest.__enter__

    def entering(self: StopRequest) -> StopRequest:
        requests.append(self)
        return enter(self)

    @functools.wraps(function)
    def asking(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
            assert requests[-1].wait(300)  # a thread hears of the signal
            time.sleep(0.1)  # and ends the process if there is nobody to agree with
        return function(*arguments, **named)

    replace_attribute(StopRequest, "__enter__", entering)
    replace_attribute(owner, name, asking)


def killed_in_save(number: int, seconds: float, rank: int) -> None:
    """Kill the rank (SIGKILL) so many seconds after it began its `number`-th save, whether this is over by then or not."""
    del rank
    save, begun = store.save, [0]

    def killing(*arguments: Any, **others: Any) -> Path:
        begun[0] += 1
        if begun[0] == number:
            threading.Thread(target=_kill_after, args=(seconds,), daemon=True).start()
        return save(*arguments, **others)

    replace_attribute(store, "save", killing)


def read_only_after(step: int, disk: Disk, rank: int) -> None:
    """Make the disk read-only after this step."""
    del rank
    _after(step, lambda: disk.become("ro"))


def moved_after(step: int, folder: Path, to: Path, rank: int) -> None:
    """Move the run's folder after this step."""
    del rank
    _after(step, lambda: folder.rename(to))


def as_nobody(rank: int) -> None:
    """Make the rank another user than root, whom permissions would not stop."""
    del rank
    os.seteuid(NOBODY)


def killed_as_nobody(step: int, rank: int) -> None:
    """Let the rank run as nobody, and kill it after this step."""
    as_nobody(rank)
    killed_after(step, rank)


def deaf_after(step: int, rank: int) -> None:
    """Let the main thread wait for ever after this step, as it does for a GPU that waits for another rank.

    No error reaches it, and no signal wakes it.
    """
    del rank
    _after(step, threading.Event().wait)


def fails_after(step: int, victim: int, error: Exception, rank: int) -> None:
    """Raise the error in the main thread of the rank `victim` after this step."""

    def fail() -> None:
        raise error

    if rank == victim:
        _after(step, fail)


def flip(file: Path) -> None:
    """Change one bit in the middle of the file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _after(step: int, act: Callable[[], object]) -> None:
    """Let the rank do `act` after this step."""
    after_step: Any = Observers.after_step

    def acting(self: Observers, number: int, *arguments: Any, **others: Any) -> None:
        after_step(self, number, *arguments, **others)
        if number == step:
            act()

    replace_attribute(Observers, "after_step", acting)


def _kill_after(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)
