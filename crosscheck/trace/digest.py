"""The digest that holds elements which nobody samples: 64 bits, exact, and cheap. NumPy only.

The bits of the elements are read as signed words of 32 bits (a float64 is two, the lower half first), those of halves as words
of 16 bits. Word k is multiplied by two odd numbers, one that depends on k modulo 1,024 and one on k divided by 1,024, and the
products are added modulo 2^64. A change within one word changes the digest for certain, because an odd number has an inverse. The
odd numbers are scrambled, so changes of several words, such as two that were swapped, cancel with a probability of about 2^-32 or
less. Two short tables stay in the cache, where one as long as the tensor would take more time to read than the tensor.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROW = 1024  # words


def multipliers(count: int) -> NDArray[np.int64]:
    """Return the product of both odd numbers for each of the first `count` words."""
    rows = -(-count // _ROW)
    within, across = _odd_numbers(rows)
    return (across[:rows, None] * within).reshape(-1)[:count]


def digest(values: NDArray[Any]) -> int:
    """Return the digest of an array of floats, or of integers that have their bits, in C order."""
    flat = np.ascontiguousarray(values).reshape(-1)
    words = flat.view(np.int16 if flat.dtype.itemsize == 2 else np.int32)
    whole, rest = divmod(len(words), _ROW)
    within, across = _odd_numbers(whole + 1)
    sums = np.empty(whole + 1, np.int64)
    np.einsum("ij,j->i", words[: whole * _ROW].reshape(whole, _ROW), within, out=sums[:whole])
    sums[whole] = np.einsum("i,i->", words[whole * _ROW :], within[:rest])
    return int(np.einsum("i,i->", sums, across[: whole + 1]))


def _odd_numbers(rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the odd numbers by position within a row, and those by row, of which there are at least `rows`."""
    table = _table(_ROW + max(_ROW, 1 << rows.bit_length()))
    return table[:_ROW], table[_ROW:]


@lru_cache
def _table(count: int) -> NDArray[np.int64]:
    """Return the first outputs of splitmix64 with seed 0, each with its lowest bit set."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    odd = ((z ^ (z >> np.uint64(31))) | np.uint64(1)).view(np.int64)
    odd.flags.writeable = False
    return odd
