"""Defines the form that images have in memory, whatever source they come from."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SIZE = 32  # pixels, height and width, unless data.image_size says otherwise


class Sizes(NamedTuple):
    """How large image files are, in pixels: width and height of the one with the fewest and of the one with the most."""

    smallest: tuple[int, int]
    largest: tuple[int, int]

    @classmethod
    def of(cls, sizes: Iterable[tuple[int, int]]) -> "Sizes":
        """Return those of images with these widths and heights; there must be one at least."""
        by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
        return cls(by_area[0], by_area[-1])

    def __str__(self) -> str:
        small, large = (f"{width} x {height}" for width, height in self)
        return small if small == large else f"{small} to {large}"

    def notes(self, size: int) -> tuple[str, ...]:
        """Return what is to be said of images that come in these sizes and are seen as size x size: nothing,
        if none is resized.
        """
        if self == ((size, size), (size, size)):
            return ()
        return (f"images of {self} pixels are resized to {size} x {size}",)


def evenly_spaced(count: int | None, total: int) -> Tensor:
    """Return `count` positions spread evenly over `total`, (count,) int64, ascending; all of them for None."""
    taken = total if count is None else min(count, total)
    return torch.arange(taken) * total // max(1, taken)


@dataclass(frozen=True, slots=True)
class Split:
    """Images and their labels, all of them in memory."""

    images: Tensor  # (N, H, W, C) uint8
    labels: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))

    def evenly(self, count: int | None) -> "Split":
        """Return `count` images spread evenly over the set, so that classes stay balanced; all of them for None."""
        if count is None or count >= len(self):
            return self
        chosen = evenly_spaced(count, len(self))
        return Split(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a run trains on, and what it is tested on."""

    name: str  # as a person would say it: "CIFAR-10", "synthetic", "folder /data/birds"
    classes: tuple[str, ...]
    train: Split
    test: Split
    notes: tuple[str, ...] = ()  # what its owner should know of how it was read, in sentences

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each channel of the training images, in [0, 1], (C,) float32.

        From exact integer counts of the 256 values, so they do not depend on summation order.
        """
        values = torch.arange(256, dtype=torch.float64)
        counts = torch.zeros(self.train.images.shape[-1], 256, dtype=torch.float64)
        for first in range(0, len(self.train), 1024):  # bincount widens its input eightfold
            images = self.train.images[first : first + 1024]
            for channel, histogram in enumerate(counts):
                histogram += torch.bincount(images[..., channel].flatten(), minlength=256)
        share = counts / counts.sum(dim=1, keepdim=True)
        mean = share @ values
        variance = (share * (values - mean[:, None]) ** 2).sum(dim=1)
        std = variance.sqrt().clamp(min=1.0)  # a channel of one value would divide by zero
        return (mean / 255.0).float(), (std / 255.0).float()

    def fingerprint(self) -> str:
        """Return the sha256 of pixels and labels, by which a resumed run knows that it sees the same images."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            for tensor in (split.images, split.labels):
                digest.update(str(tuple(tensor.shape)).encode())
                digest.update(as_bytes(tensor))
        return digest.hexdigest()


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of the tensor's elements, in order; on the CPU without a copy."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())  # pyright: ignore[reportArgumentType] (an array is a buffer)
