"""Requests to stop, from a person, a batch system or a launcher.

A handler only sets a flag; all ranks agree on it at the end of a step, write a checkpoint and leave
with exit code 75. A second Ctrl-C stops at once.
"""

import signal
import time
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")
_SAME_KEYPRESS_SECONDS = 2.0  # terminal and launcher both deliver the first Ctrl-C


class StopRequest:
    """A context: inside it the signals set `reason` instead of ending the process."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for name in _SIGNALS:
            if hasattr(signal, name):
                number = getattr(signal, name)
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.reason is None:
            self.reason = signal.Signals(number).name
            self._since = now
        elif number == signal.SIGINT and now - self._since > _SAME_KEYPRESS_SECONDS:
            raise KeyboardInterrupt
