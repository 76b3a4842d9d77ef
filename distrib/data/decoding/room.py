"""Keeps the pixels that all threads decode at a time within what memory has room for."""

import threading
from collections.abc import Generator
from contextlib import contextmanager


class Room:
    """The memory for decoded pixels that all threads share."""

    def __init__(self, pixels: int) -> None:
        self._left = pixels
        self._changed = threading.Condition()

    @contextmanager
    def for_pixels(self, pixels: int) -> Generator[None]:
        """Wait until there is room for so many pixels, which must not be more than there ever is, and take it."""
        with self._changed:
            self._changed.wait_for(lambda: self._left >= pixels)
            self._left -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify_all()
