"""Computes a 64-bit digest of each tensor where the tensor is; equal bytes have equal digests.

The bytes, in C order whatever the strides, are read as 64-bit words; word i plus i times an odd constant
goes through the finaliser of splitmix64, and the results are added modulo 2^64. The finaliser is a
bijection, so a change within one word, a flipped bit for one, changes the sum for certain. It also
scatters what it is given, so changes of several words, two that were swapped for one, cancel with a
probability of about 2^-64.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distrib import counter_rng

_WORD = 8  # bytes
_SMALL = 2**14  # words of a tensor in the mean; smaller ones are added up with one operation for all


def digests(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return each tensor's digest, independent of the others: (len(tensors),) int64 on `device`.

    All tensors in one pass, because a device takes longer to start on a small tensor than to read it;
    for that moment it holds a few copies of them.
    """
    zeros = torch.zeros(_WORD, dtype=torch.uint8, device=device)
    parts: list[Tensor] = []
    sizes: list[int] = []  # in words
    for tensor in tensors:
        data = tensor.detach().to(device).contiguous().view(-1).view(torch.uint8)
        parts += [data, zeros[: -len(data) % _WORD]]
        sizes.append(-(-len(data) // _WORD))
    words = torch.cat(parts).view(torch.int64)
    counts = torch.tensor(sizes).to(device)
    ends = counts.cumsum(0)
    starts = torch.repeat_interleave(ends - counts, counts, output_size=len(words))
    mixed = counter_rng.scatter(words, torch.arange(len(words), device=device) - starts)
    if len(words) > _SMALL * len(sizes):
        return torch.stack([part.sum() for part in torch.split(mixed, sizes)])
    sums = torch.cat([zeros.view(torch.int64), mixed.cumsum(0)])  # they wrap around, and so do their differences
    return sums[ends] - sums[ends - counts]
