"""Digests of the elements that are not sampled: whatever changes them between two steps changes a digest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from crosscheck.trace.digest import digest, multipliers

_AT_ONCE = (
    1_000_000  # elements of each quantity that are held between two steps; of larger models another million each time
)

Range = tuple[int, int]
"""From the first element of a tensor, in C order, up to the one that is not held any more."""
NOTHING: Range = (0, 0)
Named = tuple[int, str]
"""A tensor's number, and `param` or a slot of the state."""


@dataclass(frozen=True, slots=True)
class Sight:
    """The digests of one moment; they may still be on the device."""

    ranges: Mapping[int, Range]  # by tensor
    names: Sequence[Named]
    digests: Tensor  # (len(names),) int64


def choose_ranges(sizes: Mapping[int, int], step: int) -> dict[int, Range]:
    """Return what to hold of each tensor between the step before `step` and `step`. `sizes`: elements, by tensor.

    A small model is held whole. Of a large one, a window over all tensors in a row moves on with each step.
    """
    total = sum(sizes.values())
    windows = max(-(-total // _AT_ONCE), 1)
    first = step % windows * _AT_ONCE
    ranges: dict[int, Range] = {}
    passed = 0
    for number, size in sizes.items():
        start, stop = (min(max(edge - passed, 0), size) for edge in (first, first + _AT_ONCE))
        ranges[number] = (start, stop) if start < stop else NOTHING
        passed += size
    return ranges


def look(quantities: Iterable[tuple[Named, Tensor]], ranges: Mapping[int, Range]) -> Sight:
    """Return the digests of the chosen elements of each quantity."""
    chosen = [(name, tensor.detach()) for name, tensor in quantities if ranges[name[0]] != NOTHING]
    parts = [(tensor, *ranges[name[0]]) for name, tensor in chosen]
    digests = on_host if all(tensor.device.type == "cpu" for _, tensor in chosen) else on_device
    return Sight(ranges, [name for name, _ in chosen], digests(parts))


def on_host(parts: Sequence[tuple[Tensor, int, int]]) -> Tensor:
    """Return the digests of elements from here to there. NumPy reads each word once and writes nothing: torch takes longer."""
    found: list[int] = []
    for tensor, start, stop in parts:
        array = tensor.view(torch.int16) if tensor.element_size() == 2 else tensor  # NumPy has no bfloat16
        found.append(digest(array.numpy().reshape(-1)[start:stop]))
    return torch.tensor(found, dtype=torch.int64)


def on_device(parts: Sequence[tuple[Tensor, int, int]]) -> Tensor:
    """Return the same with a few kernels for all tensors: a device takes longer to start on a tensor than to read it.

    The host waits for nothing once the tables are there.
    """
    device = parts[0][0].device
    words: list[Tensor] = []
    for tensor, start, stop in parts:
        flat = tensor.reshape(-1)[start:stop]
        words.append(flat.view(torch.int16 if flat.element_size() == 2 else torch.int32).to(device))
    sizes = tuple(len(part) for part in words)
    factors = _multipliers(1 << (max(sizes) - 1).bit_length(), device)
    sums = (torch.cat(words) * torch.cat([factors[:size] for size in sizes])).cumsum(0)
    ends = sums[_ends(sizes, device)]
    return torch.cat([ends[:1], ends[1:] - ends[:-1]])


@lru_cache(maxsize=4)
def _multipliers(count: int, device: torch.device) -> Tensor:
    return torch.tensor(multipliers(count), device=device)


@lru_cache(maxsize=16)
def _ends(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    return (torch.tensor(sizes).cumsum(0) - 1).to(device)
