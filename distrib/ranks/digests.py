"""A 64-bit digest of each tensor, computed where the tensor is; equal bytes, equal digest.

The bytes, in C order whatever the strides, are read as 64-bit words; word i plus i times an odd constant
goes through the finaliser of splitmix64, and the results are added modulo 2^64. The finaliser is a
bijection, so a change within one word, a flipped bit for one, changes the sum for certain. It also
scatters what it is given, so changes of several words, two that were swapped for one, cancel with a
probability of about 2^-64.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from distrib import counter_rng

_WORD = 8  # bytes


def digests(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return each tensor's digest, independent of the others: (len(tensors),) int64 on `device`.

    All tensors in one pass, because a device takes longer to start on a small tensor than to read it;
    for that moment it holds a few copies of them.
    """
    words = [_words(tensor.detach().to(device)) for tensor in tensors]
    sizes = [len(part) for part in words]
    positions = torch.arange(max(sizes, default=0), device=device)
    counters = torch.cat([positions[:size] for size in sizes])
    mixed = counter_rng.scatter(torch.cat(words), counters)
    return torch.stack([part.sum() for part in torch.split(mixed, sizes)])


def _words(tensor: Tensor) -> Tensor:
    """Return the tensor's bytes as int64, filled up with zeros."""
    data = tensor.contiguous().view(-1).view(torch.uint8)
    return functional.pad(data, (0, -len(data) % _WORD)).view(torch.int64)
