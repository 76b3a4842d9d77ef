"""Faults that a test plants in a rank's own process. Rank processes import this module: no JAX."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distrib.checkpoint import store
from distrib.training.observers import Observers
from tests.disk import Disk

NOBODY = 65534


def killed_after(step: int, rank: int) -> None:
    """kill -9 when this step has been taken, before anything is written after it."""
    del rank
    _after(step, lambda: os.kill(os.getpid(), signal.SIGKILL))


def killed_in_save(number: int, seconds: float, rank: int) -> None:
    """kill -9 so long after the number-th save of a checkpoint began, be it over by then or not."""
    del rank
    save, begun = store.save, [0]

    def killing(*arguments: Any, **others: Any) -> Path:
        begun[0] += 1
        if begun[0] == number:
            threading.Thread(target=_kill_after, args=(seconds,), daemon=True).start()
        return save(*arguments, **others)

    setattr(store, "save", killing)  # noqa: B010


def read_only_after(step: int, disk: Disk, rank: int) -> None:
    del rank
    _after(step, lambda: disk.become("ro"))


def as_nobody(rank: int) -> None:
    """Root ignores permissions."""
    del rank
    os.seteuid(NOBODY)


def killed_as_nobody(step: int, rank: int) -> None:
    as_nobody(rank)
    killed_after(step, rank)


def deaf_after(step: int, rank: int) -> None:
    """Waits for ever, as for a GPU that waits for a peer: no error reaches the main thread, and no signal wakes it."""
    del rank
    _after(step, threading.Event().wait)


def fails_after(step: int, victim: int, error: Exception, rank: int) -> None:
    """Raised in the main thread of one rank."""

    def fail() -> None:
        raise error

    if rank == victim:
        _after(step, fail)


def flip(file: Path) -> None:
    """One bit, in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _after(step: int, act: Callable[[], object]) -> None:
    after_step: Any = Observers.after_step

    def acting(self: Observers, number: int, *arguments: Any, **others: Any) -> None:
        after_step(self, number, *arguments, **others)
        if number == step:
            act()

    setattr(Observers, "after_step", acting)  # noqa: B010


def _kill_after(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)
