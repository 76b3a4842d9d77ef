"""Makes the parts of each step: the images that the plan gives to this rank, augmented, mixed and normalized."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from distrib.data.batches.augment import Augmentation
from distrib.data.batches.mixing import Cutmix, Mixed, Mixing, Mixup
from distrib.data.batches.normalize import Normalize
from distrib.data.batches.plan import Plan
from distrib.data.images import Split


@dataclass(frozen=True, slots=True)
class Part:
    """What one forward pass of one rank sees."""

    images: Tensor  # (share, C, H, W) float32
    labels: Tensor  # (share,) int64
    weights: Tensor  # (share,) float32, summing to 1 over all parts and ranks
    last: bool  # the last part of its step: gradients are averaged over the ranks in its backward
    mixed: Mixed | None = None  # with what the images were mixed, if they were


class Batches:
    """Training images on the device, cut into steps by a plan."""

    def __init__(
        self,
        split: Split,
        plan: Plan,
        normalize: Normalize,
        augmentation: Augmentation | None,
        mixing: Mixing | None = None,
    ) -> None:
        """Without an `augmentation` images stay as they are, and without `mixing` each is only itself."""
        self.split, self.plan, self.normalize, self.augmentation = split, plan, normalize, augmentation
        self.mixing = mixing

    def at(self, step: int) -> Iterator[Part]:
        """Yield this rank's parts of a step."""
        mix = self._mix(step)
        shares = self.plan.shares(step, self.split.labels.device, following=0 if mix is None else 1)
        for number, (index, weights) in enumerate(shares, start=1):
            images, labels, mixed = self._seen(step, index, mix)
            yield Part(self.normalize(images), labels, weights, number == self.plan.accumulate, mixed)

    def whole(self, step: int) -> tuple[Tensor, Tensor, Mixed | None]:
        """Return the global batch as all ranks together see it, but for rounding:
        images (B, H, W, C) uint8 and labels (B,) int64.
        """
        mix, index = self._mix(step), self.plan.global_batch(step, self.split.labels.device)
        images, labels, mixed = self._seen(step, index if mix is None else torch.cat((index, index[:1])), mix)
        return images.round().to(torch.uint8), labels, mixed

    def _mix(self, step: int) -> Mixup | Cutmix | None:
        if self.mixing is None:
            return None
        return self.mixing.at(self.plan.seed, step, self.split.images.shape[1])

    def _seen(self, step: int, index: Tensor, mix: Mixup | Cutmix | None) -> tuple[Tensor, Tensor, Mixed | None]:
        """Return the images (N, H, W, C) and labels (N,) of this index, (N,) or, to be mixed, (N + 1,)."""
        images, labels = self.split.images.index_select(0, index), self.split.labels[index]
        if self.augmentation is not None:
            images = self.augmentation(images, index, self.plan.seed, self.plan.epoch_of(step))
        if mix is None:
            return images, labels, None
        return mix(images), labels[:-1], Mixed(labels[1:], mix.share)
