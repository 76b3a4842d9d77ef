"""The images as torchvision's CIFAR10 gives them, one PIL image at a time, for the loops that load data in this way."""

from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from tests.bench import job


class PilImages(Dataset[tuple[Any, int]]):
    """Images in memory, each made a PIL image when it is asked for, and then whatever `transform` makes of it."""

    def __init__(self, transform: Any) -> None:
        drawn = job.images()
        self._pixels, self.transform = drawn.images.numpy(), transform
        self._labels: list[int] = drawn.labels.tolist()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self._pixels[index])), self._labels[index]


def loader(workers: int) -> DataLoader[Any]:
    """Return the loader of torchvision's usual transforms for CIFAR-10; workers live as long as it."""
    usual = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=job.PADDING),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(job.MEAN, job.STD),
        ]
    )
    torch.manual_seed(0)
    return DataLoader(
        PilImages(usual), job.BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
