"""What a device can do at its best: the FLOP a second of a large matrix product, measured, because no table has every device."""

import time
from functools import cache

import torch

from distrib.optim.precision import Precision

_SMALLEST, _LARGEST = 256, 8192  # rows of the square matrices
_LONG_ENOUGH = 1e-3  # seconds of a product: larger ones gain little
_TRIES = 3  # the fastest one counts; others were disturbed
_MOST = 0.05  # seconds for all of it


def peak_flop_per_second(device: torch.device, precision: Precision) -> float:
    """Return how many FLOP a second this process gets out of its device in the number format of the run.

    It is measured once for a process, which takes some ten milliseconds and leaves torch's random numbers alone. On a GPU the
    count of its peak memory begins anew.
    """
    return _measured(device, precision.compute, precision.mode, torch.get_num_threads())


@cache
def _measured(device: torch.device, compute: str, _mode: str, _threads: int) -> float:
    """Multiply ever larger matrices until one product takes long enough, and return the best rate of all."""
    dtype, generator = getattr(torch, compute), torch.Generator(device).manual_seed(0)
    size, best, began = _SMALLEST, 0.0, time.perf_counter()
    while True:
        matrix = torch.randn(size, size, device=device, generator=generator).to(dtype)
        torch.mm(matrix, matrix)  # the first one of its size chooses a kernel
        fastest = min(_seconds(matrix) for _ in range(_TRIES))
        best = max(best, 2 * size**3 / fastest)
        if fastest >= _LONG_ENOUGH or size >= _LARGEST or time.perf_counter() - began > _MOST:
            break
        size *= 2
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return best


def _seconds(matrix: torch.Tensor) -> float:
    """Return how long it takes to multiply the matrix with itself."""
    _wait(matrix.device)
    began = time.perf_counter()
    torch.mm(matrix, matrix)
    _wait(matrix.device)
    return max(time.perf_counter() - began, 1e-9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
