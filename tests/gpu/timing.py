"""Time of work on a device, and the rate at which it moves memory: the ceiling beside which other figures stand."""

import itertools
import time
from collections.abc import Callable
from statistics import median

import torch

from tests.gpu.part import Device


def seconds_of(work: Callable[[], object], device: Device, *, repeats: int = 20, warm_up: int = 3) -> float:
    """The median of `repeats` calls, one right behind the other, as a training loop makes them."""
    for _ in range(warm_up):
        work()
    if device == "cpu":
        ends = [time.perf_counter()]
        for _ in range(repeats):
            work()
            ends.append(time.perf_counter())
        return median(end - begin for begin, end in itertools.pairwise(ends))
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    return median(begin.elapsed_time(end) for begin, end in itertools.pairwise(events)) / 1e3


def wall_seconds(work: Callable[[], object], device: Device) -> float:
    """Of one call, from an idle device to an idle device."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def copy_bandwidth(device: Device) -> float:
    """Bytes a second, read plus written, of a large copy on the device."""
    source = torch.randn((2**24 if device == "cpu" else 2**30) // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_of(lambda: target.copy_(source), device)
