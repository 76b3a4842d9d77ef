"""How many elements have an eta of which size: counts between powers of two."""

import numpy as np
from jaxtyping import Bool, Float64, Int64

from crosscheck.rules.arrays import Array
from crosscheck.tolerance import OCTAVES

NUM_OCTAVES = len(OCTAVES) + 2
"""Up to the lowest power, between each two, above the highest, and infinite."""
_BIAS = 1024  # of the exponents of float64, and one for the zeros
_EDGES = [0, *(power + _BIAS for power in OCTAVES)]


def count_octaves(
    eta: Float64[Array, "rows width"], judged: Bool[Array, "rows width"]
) -> Int64[np.ndarray, " octaves"]:
    """Return how many elements have an eta of each size: of those that are judged, and of those that have an eta though they are
    not.

    A power of two belongs to what is below it. This reads the exponents, which is ten times as fast as a search for the edges.
    """
    flat = np.ascontiguousarray(np.asarray(eta)).ravel()
    # The exponent of what is in (2^k, 2^(k + 1)]; -1 for a zero.
    exponents = (flat.view(np.int64) - 1) >> 52
    counts = np.add.reduceat(np.bincount(exponents + 1, minlength=2 * _BIAS), _EDGES)
    infinite = np.count_nonzero(np.isinf(flat))
    counts[-1] -= infinite
    # What is no element, or is not judged, has an eta of 0.
    counts[0] -= flat.size - np.count_nonzero(np.asarray(judged).ravel() | (flat > 0))
    return np.append(counts, infinite)
