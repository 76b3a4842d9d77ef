"""Draws images of ten shapes, a data set that needs no file, no network and no generator state.

Each image is one shape at a random place, size, tilt and pair of colours, over a shaded background
with noise. Colour and brightness say nothing about the class, so a linear model stays near chance
while the convolutional network learns; a trainer that is broken shows.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from distrib import counter_rng
from distrib.data.images import SIZE, Dataset, Split

_TRAIN, _TEST = 0, 1
_CHUNK = 2**20  # pixels drawn at a time: bounds the memory


def load(train_images: int, test_images: int, seed: int = 20261, size: int = SIZE) -> Dataset:
    """Return the set drawn in size x size pixels: the same shapes at any size, with noise in each pixel."""
    splits = (_split(seed, _TRAIN, train_images, size), _split(seed, _TEST, test_images, size))
    return Dataset("synthetic", CLASSES, *splits)


def _split(seed: int, split: int, count: int, size: int) -> Split:
    labels = torch.arange(count) % len(CLASSES)
    images = torch.empty(count, size, size, 3, dtype=torch.uint8)
    chunk = max(1, _CHUNK // size**2)
    for label in range(len(CLASSES)):
        members = torch.arange(count)[label :: len(CLASSES)]
        for first in range(0, len(members), chunk):
            index = members[first : first + chunk]
            images[index] = _draw(seed, split, label, index, size)
    return Split(images, labels)


def _draw(seed: int, split: int, label: int, index: Tensor, size: int) -> Tensor:
    """(n, H, W, C) uint8: the images `index`, all of one class."""
    streams = iter(range(1000))

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        """(n, *shape) float32 in [low, high), a function of the image and of how many were drawn before."""
        stream = counter_rng.key(seed, split, next(streams))
        numbers = counter_rng.draw(stream, index[:, None] * math.prod(shape) + torch.arange(math.prod(shape)))
        return (low + (high - low) * (numbers.double() / 2.0**63)).float().reshape(len(index), *shape)

    axis = (torch.arange(size) + 0.5) / (size / 2) - 1.0  # pixel centres in [-1, 1]
    radius = uniform(0.4, 0.75, 1, 1)
    x = axis[None, None, :] - uniform(-0.3, 0.3, 1, 1)
    y = axis[None, :, None] - uniform(-0.3, 0.3, 1, 1)
    tilt = uniform(-0.3, 0.3, 1, 1)  # radians: too little to turn one class into another
    u = (x * tilt.cos() + y * tilt.sin()) / radius
    v = (y * tilt.cos() - x * tilt.sin()) / radius
    cover = torch.sigmoid(-_DISTANCES[CLASSES[label]](u, v) * radius * size)[..., None]  # edge of about a pixel
    front, back = uniform(0.0, 1.0, 1, 1, 3), uniform(0.0, 1.0, 1, 1, 3)
    shade = uniform(-0.35, 0.35, 1, 1, 3) * x[..., None] + uniform(-0.35, 0.35, 1, 1, 3) * y[..., None]
    pixels = (cover * (front - back) + back + shade) * 255.0 + _noise(
        counter_rng.key(seed, split, next(streams)), index, size
    )
    return pixels.clamp_(0.0, 255.0).round_().to(torch.uint8)


def _noise(stream: int, index: Tensor, size: int) -> Tensor:
    """(n, H, W, C) float32, uniform over [-75, 75] grey levels. One 64-bit draw makes seven pixels' worth."""
    pixels = size * size * 3
    draws = -(-pixels // 7)
    words = counter_rng.draw(stream, index[:, None] * draws + torch.arange(draws))
    octets = words.view(torch.uint8).reshape(len(index), draws, 8)[..., :7]  # the eighth lacks its top bit
    centred = octets.reshape(len(index), -1)[:, :pixels].float().sub_(127.5)
    return centred.mul_(75.0 / 127.5).reshape(len(index), size, size, 3)


# Signed distance-like functions on a shape's own scale, negative inside. All are symmetric in
# u -> -u, so that the flips of the augmentation keep the class.
def _radius(u: Tensor, v: Tensor) -> Tensor:
    return (u**2 + v**2).sqrt()


def _box(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs())


def _stripes(along: Tensor) -> Tensor:
    """Three stripes in [-1, 1], one of them on the axis."""
    return (((along + 0.3).remainder(0.6)) - 0.3).abs() - 0.17


_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disc": lambda u, v: _radius(u, v) - 0.9,
    "ring": lambda u, v: (_radius(u, v) - 0.75).abs() - 0.2,
    "square": lambda u, v: _box(u, v) - 0.8,
    "frame": lambda u, v: (_box(u, v) - 0.7).abs() - 0.18,
    "diamond": lambda u, v: u.abs() + v.abs() - 1.05,
    "plus": lambda u, v: torch.maximum(torch.minimum(u.abs(), v.abs()) - 0.25, _box(u, v) - 0.95),
    "saltire": lambda u, v: torch.maximum((u.abs() - v.abs()).abs() - 0.3, _box(u, v) - 0.85),
    "bars": lambda u, v: torch.maximum(_stripes(v), _box(u, v) - 0.85),
    "columns": lambda u, v: torch.maximum(_stripes(u), _box(u, v) - 0.85),
    "wedge": lambda u, v: torch.maximum(u.abs() * 1.6 - (v + 0.8), v - 0.75),
}

CLASSES = tuple(_DISTANCES)
