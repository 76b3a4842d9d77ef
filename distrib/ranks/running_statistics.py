"""Averages over the ranks the running statistics of batch norms, which every rank takes from its own images."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

_NAMES = ("running_mean", "running_var")


class RunningStatistics:
    """Replaces the running means and variances of a network's batch norms by their means over the ranks.

    That is done at every step, not only before they are used: the sum would round differently, and a run that was
    interrupted would end with other bits than one that was not. DDP's own way, to give every rank the statistics of rank 0,
    leaves out the images of all others.
    """

    def __init__(self, network: nn.Module, world_size: int) -> None:
        """A world of one has nothing to average, and so has torch's SyncBatchNorm."""
        self._world_size = world_size
        self._modules = [  # not their buffers, which Module.to may replace by others
            module
            for module in network.modules()
            if world_size > 1
            and not isinstance(module, nn.SyncBatchNorm)
            and next(_statistics(module), None) is not None
        ]

    @torch.no_grad()
    def average(self) -> None:
        """Average them over the ranks; every rank calls this after the last forward pass of a step."""
        if not self._modules:
            return
        buffers = [buffer for module in self._modules for buffer in _statistics(module)]
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        dist.all_reduce(flat)
        flat /= self._world_size
        done = 0
        for buffer in buffers:
            buffer.copy_(flat[done : done + buffer.numel()].view_as(buffer))
            done += buffer.numel()


def _statistics(module: nn.Module) -> Iterator[Tensor]:
    """Yield the running statistics of this module itself; torch's batch and instance norms, and those made after them,
    have two.
    """
    for name, buffer in module.named_buffers(recurse=False):
        if name in _NAMES:
            yield buffer
