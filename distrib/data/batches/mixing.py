"""Mixes each image of a global batch with the one behind it (mixup, cutmix), by draws that follow from (seed, step) alone."""

import math
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from distrib import counter_rng

_MIXING = 0  # the fourth part of a key, which no other key has
_KIND, _SHARE, _ROW, _COLUMN = range(4)
_PARTS = 2**16  # a share is a whole number of these, so that float32 mixes two bytes without rounding


@dataclass(frozen=True, slots=True)
class Mixed:
    """With what the images of a batch were mixed."""

    labels: Tensor  # (N,) int64: of the images that were mixed in
    share: float  # how much of each image is its own, 0 to 1


@dataclass(frozen=True, slots=True)
class Mixup:
    """Each image and the next one as a weighted mean (Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018)."""

    share: float

    def __call__(self, images: Tensor) -> Tensor:
        """(N + 1, H, W, C) uint8 -> (N, H, W, C) float32."""
        pixels = images.float()
        return torch.lerp(pixels[1:], pixels[:-1], self.share)


@dataclass(frozen=True, slots=True)
class Cutmix:
    """Each image with a rectangle out of the next one (Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers
    with Localizable Features", 2019).
    """

    share: float
    rows: slice
    columns: slice

    def __call__(self, images: Tensor) -> Tensor:
        """(N + 1, H, W, C) uint8 -> (N, H, W, C) uint8."""
        mixed = images[:-1].clone()
        mixed[:, self.rows, self.columns] = images[1:, self.rows, self.columns]
        return mixed


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixing:
    """How training images are mixed. All images of a step are mixed alike, whatever ranks and parts divide its batch."""

    mixup: float
    """The alpha of the distribution Beta(alpha, alpha) that mixup draws its share from; 0 means no mixup."""
    cutmix: float
    """The same of cutmix. With both, each step takes one of them by chance."""

    def at(self, seed: int, step: int, size: int) -> Mixup | Cutmix:
        """Return what mixes the images of a step, which are size x size."""

        def draw(stream: int) -> int:
            return counter_rng.key(seed, step, stream, _MIXING)

        cuts = self.mixup == 0 or (self.cutmix > 0 and draw(_KIND) % 2 == 1)
        share = _share(draw(_SHARE), self.cutmix if cuts else self.mixup)
        if not cuts:
            return Mixup(share)
        side = round(size * math.sqrt(1 - share))
        rows, columns = (_span(draw(stream) % size - side // 2, side, size) for stream in (_ROW, _COLUMN))
        cut = (rows.stop - rows.start) * (columns.stop - columns.start)
        return Cutmix(1 - cut / size**2, rows, columns)


def _share(key: int, alpha: float) -> float:
    """Return one draw from Beta(alpha, alpha), by the generator whose numbers NumPy keeps the same in all versions."""
    drawn = numpy.random.RandomState(numpy.random.Philox(key=key)).beta(alpha, alpha)
    return round(drawn * _PARTS) / _PARTS


def _span(first: int, length: int, size: int) -> slice:
    """Return what of these places is within the image."""
    return slice(max(0, first), min(size, first + length))
