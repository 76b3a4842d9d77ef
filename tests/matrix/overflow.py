"""Makes gradients overflow at chosen steps of a real run. The ranks import this module, so it must not import JAX."""

from contextlib import nullcontext

import torch
from torch import Tensor

from distrib.training.run import Run
from tests.matrix.cells import OVERFLOWS

_backward = Run.backward


def plant(rank: int) -> None:
    """From now on let the gradients of the last rank overflow at the steps OVERFLOWS.

    Every rank calls this. DDP spreads the overflow to the other ranks.
    """
    del rank
    Run.backward = _overflowing


def _overflowing(self: Run, share: Tensor) -> None:
    step = self.update.applied + self.update.skipped + 1
    overflows = step in OVERFLOWS and self.plan.rank == self.plan.world_size - 1
    with next(self.module.parameters()).register_hook(_infinite) if overflows else nullcontext():
        _backward(self, share)


def _infinite(grad: Tensor) -> Tensor:
    return torch.full_like(grad, torch.inf)
