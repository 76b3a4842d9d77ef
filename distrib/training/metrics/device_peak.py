"""Measures the FLOP a second that a device reaches in a large matrix product, because no table has every device."""

import math
import time
from functools import cache

import torch

from distrib.optim.precision import Precision
from distrib.ranks.world import synchronize

_SIZES = (256, 512, 1024, 2048, 4096, 8192)  # rows of the square matrices
_LEAST_SIZES = 2  # if the machine was busy, the smallest product may seem long enough
_LONG_ENOUGH = 1e-3  # seconds of a product: larger ones gain little
_FEWEST, _MOST_TRIES = 3, 10  # of a size; the fastest one counts, because others were disturbed
_ONE_SIZE, _ALL_SIZES = 0.01, 0.3  # seconds, after which there is no further try, and no further size


def peak_flop_per_second(device: torch.device, precision: Precision) -> float:
    """Return how many FLOP a second this process gets out of its device in the number format of the run.

    It is measured once for a process, which takes some ten milliseconds, on a busy machine some hundred, and leaves torch's
    random numbers alone. On a GPU the count of its peak memory begins anew.
    """
    return _measured(device, precision.compute, precision.mode, torch.get_num_threads())


@cache
def _measured(device: torch.device, compute: str, _mode: str, _threads: int) -> float:
    """Multiply ever larger matrices until one product takes long enough, and return the best rate of all."""
    dtype, generator = getattr(torch, compute), torch.Generator(device).manual_seed(0)
    best, began = 0.0, time.perf_counter()
    for number, size in enumerate(_SIZES, start=1):
        fastest = _fastest(torch.randn(size, size, device=device, generator=generator).to(dtype))
        best = max(best, 2 * size**3 / fastest)
        if (number >= _LEAST_SIZES and fastest >= _LONG_ENOUGH) or time.perf_counter() - began > _ALL_SIZES:
            break
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return best


def _fastest(matrix: torch.Tensor) -> float:
    """Return how long the fastest of several products of the matrix with itself takes."""
    torch.mm(matrix, matrix)  # the first one of its size chooses a kernel
    began, fastest = time.perf_counter(), math.inf
    for number in range(_MOST_TRIES):
        if number >= _FEWEST and time.perf_counter() - began > _ONE_SIZE:
            break
        fastest = min(fastest, _seconds(matrix))
    return fastest


def _seconds(matrix: torch.Tensor) -> float:
    """Return how long it takes to multiply the matrix with itself."""
    synchronize(matrix.device)
    began = time.perf_counter()
    torch.mm(matrix, matrix)
    synchronize(matrix.device)
    return max(time.perf_counter() - began, 1e-9)
