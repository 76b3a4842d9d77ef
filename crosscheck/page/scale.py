"""How an eta is drawn: its place on a logarithmic axis, and its class."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from crosscheck.tolerance import FAIL, OCTAVES, WARN

LEAST = 2.0 ** OCTAVES[0]
"""What is smaller stands with the zeros."""
CLASSES = (
    "at most 1",
    "at most 2",
    f"at most {WARN:g}",
    f"at most {FAIL:g}: worth a look",
    f"above {FAIL:g}: wrong",
    "infinite",
)


def class_of(eta: float) -> int:
    """Return the number of the class of an eta among `CLASSES`."""
    if math.isinf(eta):
        return len(CLASSES) - 1
    return sum(eta > edge for edge in (1.0, 2.0, WARN, FAIL))


def number(value: float) -> str:
    """Return an eta as a person reads it."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class EtaAxis:
    """A vertical logarithmic axis between two heights: zeros at the bottom, infinities at the top."""

    top: float
    bottom: float
    largest: float  # finite
    infinite: bool

    @classmethod
    def around(cls, etas: Iterable[float], top: float, bottom: float) -> "EtaAxis":
        """Return an axis that holds these etas and the limits."""
        each = list(etas)
        finite = [eta for eta in each if math.isfinite(eta)]
        return cls(top, bottom, max([2 * FAIL, *finite]), len(finite) < len(each))

    def at(self, eta: float) -> float:
        """Return the height of an eta."""
        if math.isinf(eta):
            return self.top
        above = self.top + (16 if self.infinite else 0)
        below = self.bottom - 8
        if eta < LEAST:
            return self.bottom
        share = math.log(eta / LEAST) / math.log(self.largest / LEAST)
        return round(below - share * (below - above), 1)

    def ticks(self) -> Iterator[Tick]:
        """Yield zero, some powers of ten, and infinity where there is one."""
        yield Tick(self.bottom, "0")
        powers = range(-1, math.floor(math.log10(self.largest)) + 1)
        for power in powers[:: 1 + len(powers) // 6]:
            yield Tick(self.at(10.0**power), f"{10.0**power:g}" if power < 5 else f"1e{power}")
        if self.infinite:
            yield Tick(self.top, "inf")
