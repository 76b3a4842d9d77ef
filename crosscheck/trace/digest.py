"""The digest that holds elements which nobody samples: 64 bits, exact, and cheap. NumPy only.

The bytes of the elements are read as signed words of 64 bits, the last one filled up with zeros; a float64 is two words, its
lower 32 bits and its upper ones. Word k is multiplied by two odd numbers, one that depends on k modulo 256 and one on k divided
by 256, and the products are added modulo 2^64. A change within one word changes the digest for certain, because an odd number has
an inverse. The odd numbers are scrambled, so changes of several words, such as two that were swapped, cancel with a probability
of about 2^-32 or less. The one exception is the sign of elements that end their words, every second float32: changes of nothing
but an even number of these cancel. Two short tables stay in the cache, where one as long as the tensor would take more time to
read than the tensor.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROW = 256  # words
WORD = 8  # bytes


def digest(values: NDArray[Any]) -> int:
    """Return the digest of an array of floats, or of integers that have their bits, in C order."""
    flat = np.ascontiguousarray(values)
    data = (flat.view(np.int32).astype(np.int64) if flat.dtype.itemsize == WORD else flat).tobytes()
    words = np.frombuffer(data.ljust(-(-len(data) // (ROW * WORD)) * ROW * WORD, b"\0"), np.int64).reshape(-1, ROW)
    within, across = odd_numbers(len(words))
    return int((np.einsum("ij,j->i", words, within) * across).sum())


def odd_numbers(rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the odd numbers by place within a row, and those by row."""
    table = _table(ROW + (1 << rows.bit_length()))
    return table[:ROW], table[ROW : ROW + rows]


@lru_cache
def _table(count: int) -> NDArray[np.int64]:
    """Return the first outputs of splitmix64 with seed 0, each with its lowest bit set."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    odd = ((z ^ (z >> np.uint64(31))) | np.uint64(1)).view(np.int64)
    odd.flags.writeable = False
    return odd
