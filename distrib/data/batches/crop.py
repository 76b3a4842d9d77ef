"""Computes random resized crops in whole numbers, so that every device makes the same pixels.

A window of each image is enlarged to the size of the image (Szegedy et al., "Going Deeper with Convolutions", 2015; the draws
are those of torchvision's RandomResizedCrop with its default ratio).
"""

import math

import torch
from torch import Tensor

from distrib import counter_rng

_TRIES = 10  # windows that are drawn for an image until one fits; the whole image stands in for one that does not
_FINE = 128  # positions are whole numbers of these parts of a pixel: 255 * 128 is the most that int16 holds
_RATIOS = 1024
_LOWEST, _HIGHEST = math.log(3 / 4), math.log(4 / 3)
# A table, because each device has its own exponential function.
_STRETCH = [math.exp((_LOWEST + (_HIGHEST - _LOWEST) * (n + 0.5) / _RATIOS) / 2) for n in range(_RATIOS)]


def window_sizes(
    keys: tuple[int, int], index: Tensor, height: int, width: int, scale: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Return height and width of a window for each image, (B,) int64.

    It has a share of the image's area within `scale`, and a ratio of width to height from 3/4 to 4/3. `keys` are of the streams
    of area and ratio.
    """
    counter = index[:, None] * _TRIES + torch.arange(_TRIES, device=index.device)
    chance = counter_rng.draw(keys[0], counter).double() / 2.0**63
    side = (scale[0] + (scale[1] - scale[0]) * chance).mul_(height * width).sqrt_()
    table = torch.tensor(_STRETCH, dtype=torch.float64, device=index.device)
    stretch = table[counter_rng.draw(keys[1], counter) % _RATIOS]
    tall, wide = (side / stretch).round_().long(), (side * stretch).round_().long()
    fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
    first = fits.int().argmax(dim=1, keepdim=True)
    fitting = fits.any(dim=1)
    return (
        torch.where(fitting, tall.gather(1, first)[:, 0], height),
        torch.where(fitting, wide.gather(1, first)[:, 0], width),
    )


def enlarged(first: Tensor, length: Tensor, size: int) -> Tensor:
    """Return where `size` pixels are taken that show the window from `first` on of this `length`, (B, size) int64 in 128ths."""
    # They count in 2 * size parts of a 128th.
    centres = torch.arange(1, 2 * size, 2, device=first.device) * length[:, None] * _FINE
    within = (centres + size) // (2 * size) - _FINE // 2
    return first[:, None] * _FINE + within.clamp_(min=0).minimum((length[:, None] - 1) * _FINE)


def resampled(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the images (B, H, W, C) uint8 at these positions, (B, H) and (B, W) in 128ths,
    between two pixels by linear interpolation.
    """
    across = _along_rows(images, rows).transpose(1, 2)
    return _along_rows(across, columns).transpose(1, 2).contiguous()


def _along_rows(images: Tensor, positions: Tensor) -> Tensor:
    """Return a mean of two rows of each image for each position."""
    count, height = images.shape[:2]
    lines = images.reshape(count * height, -1)
    above = positions >> 7
    below = (above + 1).clamp_(max=height - 1)  # has no weight where that changes it
    image = torch.arange(count, device=images.device)[:, None] * height
    one, two = (lines.index_select(0, (image + line).flatten()).to(torch.int16) for line in (above, below))
    weight = (positions & (_FINE - 1)).to(torch.int16).view(-1, 1)
    mean = two.sub_(one).mul_(weight).add_(one.mul_(_FINE).add_(_FINE // 2)) >> 7
    return mean.to(torch.uint8).view(count, positions.shape[1], *images.shape[2:])
