"""Recorded winners of max-poolings, held against the values in float64: ties are decided by rounding, others are not."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WRONG = 32.0
"""Beyond this gap a recorded winner is no near-tie that rounding decided."""


@dataclass(slots=True)
class Pooling:
    """What became of one max-pooling's winners."""

    name: str  # of the layer, as torch names it
    windows: int = 0
    flips: int = 0  # windows that another element wins in float64
    wrong: int = 0  # of those, how many by a gap beyond WRONG
    gap: float = 0.0  # the largest, in standard deviations of the two elements' rounding errors

    def look(self, windows: NDArray[Any], winners: NDArray[Any], deviation: NDArray[Any], roundoff: float) -> None:
        """Add n images: values (n, H, W, 4, C), winners (n, H, W, C), and by channel how far rounding before this
        layer moves a value; it is itself rounded once more.
        """
        self.windows += winners.size
        taken = np.take_along_axis(windows, winners[:, :, :, None].astype(np.int64), axis=3)[:, :, :, 0]
        largest = windows.max(axis=3)
        flipped = np.nonzero(~(taken >= largest))  # NaN is a flip
        if not len(flipped[0]):
            return
        a, b = taken[flipped], largest[flipped]
        gap = (b - a) / np.sqrt(2.0 * deviation[flipped[3]] ** 2 + roundoff**2 * (a**2 + b**2))
        gap = np.where(np.isnan(gap), np.inf, gap)
        self.flips += len(gap)
        self.wrong += int(np.sum(gap > WRONG))
        self.gap = max(self.gap, float(gap.max()))
