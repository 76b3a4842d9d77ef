"""Computes accuracy and loss on the test images, each counted once whatever the number of ranks."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from distrib.data.batches.normalize import Normalize
from distrib.data.images import Split
from distrib.networks.views import AveragedViews, Tta
from distrib.training.metrics.mistakes import Mistakes


@dataclass(frozen=True, slots=True)
class Score:
    """How well a network does on the whole test set."""

    accuracy: float  # fraction, 0..1
    loss: float  # mean cross-entropy, no label smoothing
    images: int
    mistakes: Mistakes | None = field(default=None, compare=False)


def evaluate(
    model: nn.Module,
    split: Split,
    normalize: Normalize,
    autocast: AbstractContextManager[object],
    *,
    batch_size: int,
    rank: int,
    world_size: int,
    tta: Tta = "none",
    asked_to_stop: Callable[[], bool] = lambda: False,
    mistakes: Mistakes | None = None,
) -> Score | None:
    """Return the score of `model`, which is not wrapped in DDP, on the whole of `split`.

    Every rank takes a consecutive share, and the counts are summed as integers. Returns None, on every rank alike, if one
    of them was asked to stop before it was through. `mistakes` are counted meanwhile, and are part of the score.
    """
    first, last = len(split) * rank // world_size, len(split) * (rank + 1) // world_size
    largest_share = -(-len(split) // world_size)
    device = split.labels.device
    counts = torch.zeros(2, dtype=torch.int64, device=device)  # correct, seen
    loss = torch.zeros(1, dtype=torch.float64, device=device)
    training = model.training
    views = AveragedViews(model, tta)
    model.eval()
    with torch.inference_mode(), autocast:
        for done in range(0, largest_share, batch_size):  # as often on every rank
            # Without other ranks it stays on the CPU: reading it from a GPU would stall the queue.
            stop = torch.tensor([asked_to_stop()], dtype=torch.int32, device=device if world_size > 1 else "cpu")
            if _sum_over_ranks(stop, world_size):
                model.train(training)
                return None
            part = slice(min(first + done, last), min(first + done + batch_size, last))
            if part.start == part.stop:
                continue
            labels = split.labels[part]
            logits: Tensor = views(normalize(split.images[part]))
            counts[0] += (logits.argmax(dim=1) == labels).sum()
            counts[1] += len(labels)
            loss += functional.cross_entropy(logits, labels, reduction="sum")
            if mistakes is not None:
                mistakes.add(part.start, logits, labels)
        if mistakes is not None:
            mistakes.sum_up(lambda mine: _sum_over_ranks(mine, world_size), rank, world_size)
    model.train(training)
    correct, seen = (int(count) for count in _sum_over_ranks(counts, world_size))
    return Score(correct / seen, float(_sum_over_ranks(loss, world_size)) / seen, seen, mistakes)


def _sum_over_ranks(mine: Tensor, world_size: int) -> Tensor:
    if world_size > 1:
        dist.all_reduce(mine)
    return mine
