"""Tests the parts of a step: images as the plan and the augmentation say, whatever divides the batch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distrib.data.batches.augment import Augmentation
from distrib.data.batches.batches import Batches
from distrib.data.batches.normalize import Normalize
from distrib.data.batches.plan import Plan
from distrib.data.images import Split

CPU = torch.device("cpu")
PLAN = Plan(num_images=100, batch_size=24, last_batch="drop", accumulate=1, seed=0, rank=0, world_size=1)

IMAGES = torch.randint(0, 256, (100, 12, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SPLIT = Split(IMAGES, torch.arange(100) * 3)
VARIED = Augmentation()
AS_THEY_ARE = Normalize(torch.zeros(3), torch.ones(3), CPU, channels_last=True)


def pixels(images: Tensor) -> Tensor:
    """Undo AS_THEY_ARE."""
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


@pytest.mark.parametrize("accumulate", [1, 2, 3, 8])
@pytest.mark.parametrize("augmented", [False, True])
def test_only_the_last_part_is_marked_last(accumulate: int, augmented: bool) -> None:
    batches = Batches(SPLIT, replace(PLAN, accumulate=accumulate), AS_THEY_ARE, VARIED if augmented else None)
    for step in (1, 4, 5):
        assert [part.last for part in batches.at(step)] == [False] * (accumulate - 1) + [True]


@pytest.mark.parametrize("step", [1, 5, 6])
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("augmented", [False, True])
def test_parts_hold_the_images_of_the_plan(step: int, world_size: int, augmented: bool) -> None:
    for rank in range(world_size):
        plan = replace(PLAN, accumulate=2, world_size=world_size, rank=rank, last_batch="mask", seed=9)
        batches = Batches(SPLIT, plan, AS_THEY_ARE, VARIED if augmented else None)
        for part, (index, weights) in zip(batches.at(step), plan.shares(step, CPU), strict=True):
            expected = IMAGES[index]
            if augmented:
                expected = VARIED(expected, index, seed=9, epoch=plan.epoch_of(step))
            assert part.images.dtype == torch.float32
            assert part.labels.tolist() == (index * 3).tolist()
            assert part.weights.tolist() == weights.tolist()
            assert torch.equal(pixels(part.images), expected)


def test_the_next_epoch_augments_anew() -> None:
    batches = Batches(SPLIT, replace(PLAN, batch_size=100), AS_THEY_ARE, VARIED)
    first, second = (pixels(part.images)[part.labels.argsort()] for part in (next(batches.at(1)), next(batches.at(2))))
    assert torch.equal(first, VARIED(IMAGES, torch.arange(100), seed=0, epoch=1))
    assert torch.equal(second, VARIED(IMAGES, torch.arange(100), seed=0, epoch=2))
    assert not torch.equal(first, second)


def test_every_world_sees_the_same_pixels() -> None:
    def seen(world_size: int, accumulate: int) -> Tensor:
        plan = replace(PLAN, world_size=world_size, accumulate=accumulate)
        parts = [
            part
            for rank in range(world_size)
            for part in Batches(SPLIT, replace(plan, rank=rank), AS_THEY_ARE, VARIED).at(7)
        ]
        real = torch.cat([part.weights for part in parts]) > 0
        labels = torch.cat([part.labels for part in parts])[real]
        return torch.cat([part.images for part in parts])[real][labels.argsort()]

    alone = seen(1, 1)
    assert all(torch.equal(alone, seen(world, parts)) for world in (1, 2, 3, 4, 8) for parts in (1, 2, 3))
