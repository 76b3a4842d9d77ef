"""The digest that holds elements which nobody samples: 64 bits, exact, and cheap. NumPy only.

The bits of the elements are read as signed words of 32 bits (a float64 is two, the lower half first), those of halves as words
of 16 bits. Word k is multiplied by an odd number that depends on k, and the products are added modulo 2^64. A change within one
word changes the digest for certain, because an odd number has an inverse. The odd numbers are scrambled, so changes of several
words, such as two that were swapped, cancel with a probability of about 2^-32 or less.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def multipliers(count: int) -> NDArray[np.int64]:
    """Return the odd numbers of the first `count` words: splitmix64 of the position, with the lowest bit set."""
    table = _table(1 << max(count - 1, 0).bit_length())
    return table[:count]


@lru_cache(maxsize=4)
def _table(count: int) -> NDArray[np.int64]:
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    odd = ((z ^ (z >> np.uint64(31))) | np.uint64(1)).view(np.int64)
    odd.flags.writeable = False
    return odd


def digest(values: NDArray[Any]) -> int:
    """Return the digest of an array of floats, or of integers that have their bits, in C order."""
    flat = np.ascontiguousarray(values).reshape(-1)
    words = flat.view(np.int16 if flat.dtype.itemsize == 2 else np.int32)
    return int(np.einsum("i,i->", words, multipliers(len(words))))
