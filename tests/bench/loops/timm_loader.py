"""timm's data loader, which normalises a batch of bytes at a time, with the number of workers as the argument."""

import sys
from typing import Any, cast

import torch
from timm.data import loader as timm
from torch.nn import functional
from torchvision import transforms

from tests.bench import job
from tests.bench.dataset import PilImages
from tests.bench.pace import Pace


def _loader(workers: int) -> Any:
    """Return timm's loader; of its transform the crop is the one for small images, as DeiT's training has it."""
    images = PilImages(None)
    create: Any = cast(Any, timm).create_loader
    loader = create(
        images,
        (3, 32, 32),
        job.BATCH,
        is_training=True,
        use_prefetcher=True,
        hflip=0.5,
        color_jitter=0.0,
        mean=job.MEAN,
        std=job.STD,
        num_workers=workers,
        pin_memory=False,
        persistent_workers=workers > 0,
        device=torch.device("cpu"),
    )
    images.transform.transforms[0] = transforms.RandomCrop(32, padding=job.PADDING)
    return loader


def main(workers: int) -> None:
    pace = Pace()
    loader, model = _loader(workers), job.network()
    optimizer = job.sgd(model.parameters())
    scheduler = job.one_cycle(optimizer)
    while pace.lap():
        for images, labels in loader:
            loss = functional.cross_entropy(model(images.contiguous(memory_format=job.MEMORY_FORMAT)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()


if __name__ == "__main__":
    main(int(sys.argv[1]))
