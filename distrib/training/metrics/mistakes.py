"""Counts what a network takes for what, and finds the test images that it gets most wrong, while it is evaluated anyway."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from distrib.data.images import Split

MOST_CLASSES = 40  # whose confusions fit a page
_WORST = 24  # images


class Mistakes:
    """The confusions of one evaluation, and its worst mistakes; after `sum_up` those of all ranks."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        """Of more than `MOST_CLASSES` no confusions are counted."""
        size = num_classes if num_classes <= MOST_CLASSES else 0
        self.confusion = torch.zeros(size, size, dtype=torch.int64, device=device)  # (true class, predicted class)
        self._worst = torch.zeros(_WORST, 3, dtype=torch.float64, device=device)  # loss, image, predicted class

    def add(self, first: int, logits: Tensor, labels: Tensor) -> None:
        """Count some images of the test set, which begin with that of number `first`."""
        predicted = logits.argmax(dim=1)
        if len(self.confusion):
            one = torch.ones((), dtype=torch.int64, device=labels.device)
            self.confusion.index_put_((labels, predicted), one, accumulate=True)
        losses = functional.cross_entropy(logits, labels, reduction="none")
        losses = torch.where(predicted == labels, 0.0, losses)
        image = torch.arange(first, first + len(labels), device=labels.device)
        rows = torch.cat((self._worst, torch.stack((losses, image, predicted), dim=1).double()))
        self._worst = rows[rows[:, 0].topk(_WORST).indices]

    def sum_up(self, sum_over_ranks: Callable[[Tensor], Tensor], rank: int, world_size: int) -> None:
        """Join what all ranks have counted; each of them calls this."""
        if len(self.confusion):
            sum_over_ranks(self.confusion)
        everywhere = self._worst.new_zeros(world_size, _WORST, 3)
        everywhere[rank] = self._worst
        rows = sum_over_ranks(everywhere).flatten(0, 1)
        self._worst = rows[rows[:, 0].topk(_WORST).indices]

    def to_json(self, test: Split, classes: tuple[str, ...], png: Callable[[Tensor], str]) -> dict[str, Any]:
        """Return all of it for the page, the worst mistake first."""
        worst: list[dict[str, Any]] = []
        for loss, image, predicted in self._worst.cpu().numpy():
            if 0 < loss < math.inf:  # not NaN either
                index, label = int(image), int(test.labels[int(image)])
                taken_for = classes[int(predicted)]
                worst.append(
                    {
                        "label": classes[label],
                        "predicted": taken_for,
                        "loss": float(loss),
                        "png": png(test.images[index].cpu()),
                    }
                )
        return {"classes": list(classes), "confusion": self.confusion.tolist(), "worst": worst}
