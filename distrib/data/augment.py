"""Shift and flip, a pure function of (seed, epoch, image index); whole batches at a time."""

import torch
from torch import Tensor

from distrib import counter_rng

SHIFT = 4  # pixels an image may move in each direction; what comes in is its own mirror image

_ROWS, _COLUMNS, _FLIP = 1, 2, 3  # streams; 0 is the order of the epoch


def augment(images: Tensor, index: Tensor, seed: int, epoch: int) -> Tensor:
    """(B, H, W, C) uint8 -> the same shape, each image shifted and perhaps flipped.

    `index` (B,) int64 says which images of the training set these are. Rank, world size and batch
    play no part, so 1 and 512 ranks see the same pixels.
    """
    height, width = images.shape[1:3]
    down = counter_rng.draw(counter_rng.key(seed, epoch, _ROWS), index) % (2 * SHIFT + 1) - SHIFT  # (B,)
    right = counter_rng.draw(counter_rng.key(seed, epoch, _COLUMNS), index) % (2 * SHIFT + 1) - SHIFT
    flip = (counter_rng.draw(counter_rng.key(seed, epoch, _FLIP), index) & 1).bool()
    rows = _mirror(down[:, None] + torch.arange(height, device=images.device), height)  # (B, H)
    columns = _mirror(right[:, None] + torch.arange(width, device=images.device), width)  # (B, W)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    batch = torch.arange(len(images), device=images.device)
    return images[batch[:, None, None], rows[:, :, None], columns[:, None, :]]


def _mirror(position: Tensor, size: int) -> Tensor:
    """Return positions outside 0 … size-1 reflected at the border pixel: -1 is 1, size is size - 2."""
    return size - 1 - (size - 1 - position.abs()).abs()


class Normalize:
    """uint8 (B, H, W, C) -> float32 (B, C, H, W), zero mean and unit variance a channel over the training set.

    The result keeps the memory order of its input, which is torch's channels_last.
    """

    def __init__(self, mean: Tensor, std: Tensor, device: torch.device, *, channels_last: bool) -> None:
        self.scale = (1.0 / (255.0 * std)).to(device)  # (C,)
        self.shift = (-mean / std).to(device)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images: Tensor) -> Tensor:
        pixels = torch.addcmul(self.shift, images.float(), self.scale)
        return pixels.permute(0, 3, 1, 2).contiguous(memory_format=self.memory_format)
