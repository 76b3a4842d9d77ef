"""The way of airbench (Jordan, arXiv 2404.00498): all images are one tensor, and an epoch of them is augmented at once."""

import torch
from torch import Tensor
from torch.nn import functional

from tests.bench import job
from tests.bench.pace import Pace


class Epochs:
    """All images, normalised and padded by reflection once, and then cropped and flipped anew for each epoch."""

    def __init__(self) -> None:
        drawn = job.images()
        pixels = drawn.images.permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (job.MEAN, job.STD))
        self._padded = functional.pad((pixels - mean) / std, (job.PADDING,) * 4, mode="reflect")
        self._labels = drawn.labels

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return the images (N, 3, 32, 32) and labels (N,) of an epoch in a random order."""
        count, size = len(self._labels), self._padded.shape[-1] - 2 * job.PADDING
        across, down = torch.randint(0, 2 * job.PADDING + 1, (2, count))
        rows = torch.empty(count, 3, size, self._padded.shape[-1])
        for shift in range(2 * job.PADDING + 1):
            rows[down == shift] = self._padded[down == shift, :, shift : shift + size]
        crops = torch.empty(count, 3, size, size)
        for shift in range(2 * job.PADDING + 1):
            crops[across == shift] = rows[across == shift, :, :, shift : shift + size]
        flipped = torch.rand(count) < 0.5
        crops[flipped] = crops[flipped].flip(-1)
        order = torch.randperm(count)
        return crops[order].contiguous(memory_format=job.MEMORY_FORMAT), self._labels[order]


def main() -> None:
    pace = Pace()
    epochs, model = Epochs(), job.network()
    optimizer = job.sgd(model.parameters())
    scheduler = job.one_cycle(optimizer)
    while pace.lap():
        images, labels = epochs.draw()
        for first in range(0, len(labels), job.BATCH):
            chosen = slice(first, first + job.BATCH)
            functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


if __name__ == "__main__":
    main()
