"""Shifts or crops training images, flips them and paints squares over, as a pure function of (seed, epoch, image index).

It works on whole batches at a time.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distrib import counter_rng
from distrib.data.batches import crop

_ROWS, _COLUMNS, _FLIP, _CUTOUT_ROW, _CUTOUT_COLUMN, _AREA, _RATIO = range(1, 8)  # streams; 0 is the order of the epoch
_EVERY_EPOCH = 0  # stands for the epoch in what an image keeps for the whole run


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images are varied. Rank, world size and batch play no part, so 1 and 512 ranks see the same pixels."""

    shift: int = 4
    """Pixels that an image may move in each direction; what comes in is its own mirror image."""
    crop_scale: tuple[float, float] | None = None
    """The least and the most of an image's area that a random resized crop shows, which takes the place of the shift."""
    flip: Literal["random", "alternate", "none"] = "random"
    """Left and right: by chance in each epoch; in every second epoch, with a first one by chance; or never.

    Alternating shows each image both ways in any two epochs (Jordan, arXiv 2404.00498, section 3.6).
    """
    cutout: int = 0
    """Height and width of a square that is painted over, around any pixel of the image, so that it may stick out (DeVries and
    Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017)."""
    paint: tuple[int, ...] = (0, 0, 0)
    """The colour of that square: the mean of the training images, which the network sees as zero."""

    def __call__(self, images: Tensor, index: Tensor, seed: int, epoch: int) -> Tensor:
        """(B, H, W, C) uint8 -> the same shape; `index` (B,) int64 says which images of the training set these are."""
        varied = self._shifted if self.crop_scale is None else self._cropped
        seen = varied(images, index, seed, epoch)
        return self._painted(seen, index, seed, epoch) if self.cutout else seen

    def _shifted(self, images: Tensor, index: Tensor, seed: int, epoch: int) -> Tensor:
        count, height, width, channels = images.shape
        down, across, flip = self._draws(index, seed, epoch)
        rows = self._moved(down, height)  # (B, H)
        columns = self._flipped(self._moved(across, width), flip, epoch)  # (B, W)
        lines = torch.arange(count, device=images.device)[:, None] * height + rows
        pixels = lines[:, :, None] * width + columns[:, None, :]  # of all images, one behind the other
        # A third of the time that images[batch, rows, columns] takes on a CPU.
        return images.reshape(-1, channels).index_select(0, pixels.flatten()).view(images.shape)

    def _cropped(self, images: Tensor, index: Tensor, seed: int, epoch: int) -> Tensor:
        assert self.crop_scale is not None
        height, width = images.shape[1:3]
        keys = counter_rng.key(seed, epoch, _AREA), counter_rng.key(seed, epoch, _RATIO)
        tall, wide = crop.window_sizes(keys, index, height, width, self.crop_scale)
        down, across, flip = self._draws(index, seed, epoch)
        top, left = down % (height - tall + 1), across % (width - wide + 1)
        columns = self._flipped(crop.enlarged(left, wide, width), flip, epoch)
        return crop.resampled(images, crop.enlarged(top, tall, height), columns)

    def _draws(self, index: Tensor, seed: int, epoch: int) -> Tensor:
        """Return (3, B) numbers in [0, 2**63), by which images move down and across and are flipped."""
        flips = _EVERY_EPOCH if self.flip == "alternate" else epoch
        streams = ((epoch, _ROWS), (epoch, _COLUMNS), (flips, _FLIP))
        return counter_rng.draw_each(tuple(counter_rng.key(seed, *stream) for stream in streams), index)

    def _painted(self, images: Tensor, index: Tensor, seed: int, epoch: int) -> Tensor:
        height, width = images.shape[1:3]
        down = self._cut(counter_rng.key(seed, epoch, _CUTOUT_ROW), index, height)
        right = self._cut(counter_rng.key(seed, epoch, _CUTOUT_COLUMN), index, width)
        paint = torch.tensor(self.paint, dtype=torch.uint8, device=images.device)
        return torch.where((down[:, :, None] & right[:, None, :])[..., None], paint, images)

    def _moved(self, draws: Tensor, size: int) -> Tensor:
        """Return from where each row or column is taken, (B, size) int64."""
        by = draws % (2 * self.shift + 1) - self.shift
        return _mirror(by[:, None] + torch.arange(size, device=draws.device), size)

    def _flipped(self, columns: Tensor, draws: Tensor, epoch: int) -> Tensor:
        """Return the columns (B, W), in reverse order for images that are flipped."""
        if self.flip == "none":
            return columns
        flipped = (draws & 1).bool()
        if self.flip == "alternate" and epoch % 2 == 0:
            flipped = ~flipped
        return torch.where(flipped[:, None], columns.flip(1), columns)

    def _cut(self, key: int, index: Tensor, size: int) -> Tensor:
        """Return which rows or columns the square covers, (B, size) bool."""
        first = counter_rng.draw(key, index) % size - self.cutout // 2
        place = torch.arange(size, device=index.device) - first[:, None]
        return (place >= 0) & (place < self.cutout)


def _mirror(position: Tensor, size: int) -> Tensor:
    """Return positions outside 0 … size-1 reflected at the border pixel: -1 is 1, size is size - 2."""
    return size - 1 - (size - 1 - position.abs()).abs()
