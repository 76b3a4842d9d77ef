"""Tells all ranks the global loss of a step and what any of them asked for, by one small all-reduce.

The loss must be known before the update (a loss that is not finite must not reach the weights),
yet reading it from a GPU at once would stall the queue. So the sum is started between the last
forward and its backward and read after the backward is queued: the copy waits for the forward
only, while the GPU works on the backward.
"""

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from distrib.errors import RunFault


@dataclass(frozen=True, slots=True)
class StepResult:
    """What the ranks know of a step together; the same on every rank."""

    loss: float  # mean over the global batch
    stop: bool  # some rank was asked to stop
    checkpoint: bool  # some rank wants a checkpoint after this step


class StepSync:
    """Each step calls `add` for each of its parts, `start` before the last backward, and `finish` before the update."""

    def __init__(self, device: torch.device, world_size: int) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, stop, checkpoint
        self._world_size = world_size
        self._work: dist.Work | None = None
        self._read: torch.cuda.Event | None = None
        self._host = self._sums
        if device.type == "cuda":
            self._host = torch.zeros(3, dtype=torch.float64, pin_memory=True)
            self._read = torch.cuda.Event()

    def add(self, loss: Tensor) -> None:
        """Add one part's share of the global mean loss."""
        self._sums[0] += loss.detach()

    def start(self, *, stop: bool, checkpoint: bool) -> None:
        """Start the sum over the ranks in the background, with this rank's wishes in it."""
        if stop:
            self._sums[1] = 1.0
        if checkpoint:
            self._sums[2] = 1.0
        if self._world_size > 1:
            self._work = dist.all_reduce(self._sums, async_op=True)
        if self._read is not None:
            if self._work is not None:
                self._work.wait()  # orders the streams; does not block the host
            self._host.copy_(self._sums, non_blocking=True)
            self._read.record()

    def finish(self, step: int) -> StepResult:
        """Wait for the sum and return it. Raises RunFault, on every rank alike, when the loss is not finite."""
        if self._read is not None:
            self._read.synchronize()
        elif self._work is not None:
            self._work.wait()
        loss, stop, checkpoint = (float(value) for value in self._host)
        self._sums.zero_()
        self._work = None
        if not math.isfinite(loss):
            raise RunFault(
                f"step {step}: the global loss is {loss}; all ranks stopped before this update, and any "
                "earlier checkpoint is kept. Likely causes: a learning rate that is too high (optimizer.lr, schedule), "
                "float16 without room (precision.mode), or bad images; training.clip_norm may help"
            )
        return StepResult(loss, stop > 0, checkpoint > 0)
