"""Signals stay as they were, also after `twinstep train`, which leaves them ignored in a process that is about to end."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    found = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    }
    yield
    for number, handler in found.items():
        signal.signal(number, handler)
