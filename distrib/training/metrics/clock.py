"""Measures how long steps take, and how much of that they wait for their batch, by the host's clock: no device is waited for."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Clock:
    """Counts the images of steps and the seconds that these took, without evaluations and checkpoints."""

    seconds: float = 0.0
    data_seconds: float = 0.0  # of these, until batches were there
    images: int = 0  # over all ranks
    _since: float = 0.0
    _waited: float = 0.0  # for the parts of this step's batch

    def start(self) -> None:
        """Leave out what went on since the last step, such as an evaluation or a checkpoint."""
        self._since, self._waited = time.perf_counter(), 0.0

    def waiting(self, parts: Iterable[T]) -> Iterator[T]:
        """Yield the parts of a step's batch, and count the time until each is there."""
        parts = iter(parts)
        while True:
            began = time.perf_counter()
            try:
                part = next(parts)
            except StopIteration:
                return
            finally:
                self._waited += time.perf_counter() - began
            yield part

    def lap(self, images: int) -> tuple[float, float]:
        """Count a step of so many images, and return the seconds that it took and those in which it waited for its batch."""
        now = time.perf_counter()
        lap, waited = now - self._since, self._waited
        self.seconds += lap
        self.data_seconds += waited
        self.images += images
        self._since, self._waited = now, 0.0
        return lap, waited

    def rate(self, since: "Clock") -> float | None:
        """Return the images a second since the clock stood like `since`."""
        seconds = self.seconds - since.seconds
        return (self.images - since.images) / seconds if seconds > 0 else None

    def data_share(self, since: "Clock") -> float | None:
        """Return the share of time, from 0 to 1, in which steps waited for their batches since the clock stood like `since`."""
        seconds = self.seconds - since.seconds
        return (self.data_seconds - since.data_seconds) / seconds if seconds > 0 else None
