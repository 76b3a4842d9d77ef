"""Computes random numbers as a pure function of (seed, epoch, stream, index): there is no generator and no state.

A counter-based generator: the finaliser of splitmix64 (Steele, Lea & Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014) applied to a key and a counter. The same integers
come out on every device, in any order and for any batch size.
"""

from functools import lru_cache

import torch
from torch import Tensor

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def key(*parts: int) -> int:
    """Return one 64-bit key made from several integers."""
    state = 0
    for part in parts:
        state = _mix((state + part * _GOLDEN + _GOLDEN) & _MASK)
    return state


def draw(stream_key: int, index: Tensor) -> Tensor:
    """Return uniform integers in [0, 2**63), one for each entry of `index` (int64); they depend on nothing else."""
    return _shift_right(scatter(_signed(stream_key), index), 1)


def draw_each(stream_keys: tuple[int, ...], index: Tensor) -> Tensor:
    """Return what `draw` does for each key, (keys, len(index)), in as many operations as one of them takes."""
    return _shift_right(scatter(_starts(stream_keys, index.device), index), 1)


@lru_cache(maxsize=8)
def _starts(stream_keys: tuple[int, ...], device: torch.device) -> Tensor:
    """(keys, 1) int64. They are the same for a whole epoch, and a copy to a GPU waits for what it is doing."""
    return torch.tensor([[_signed(one)] for one in stream_keys], device=device)


def scatter(start: int | Tensor, index: Tensor) -> Tensor:
    """Return number `index` of the generator that starts at `start`: int64, all 64 bits; a bijection in `start`."""
    z = start + (index + 1) * _signed(_GOLDEN)
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        z = (z ^ _shift_right(z, shift)) * _signed(multiplier)
    return z ^ _shift_right(z, 31)


def permutation(stream_key: int, length: int, device: torch.device) -> Tensor:
    """Return a permutation of 0 … length-1 (int64), the same on every device."""
    return torch.argsort(draw(stream_key, torch.arange(length, device=device)), stable=True)


def _mix(z: int) -> int:
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        z = ((z ^ (z >> shift)) * multiplier) & _MASK
    return z ^ (z >> 31)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift to the right and fill with zeros; torch's >> on int64 fills with the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
