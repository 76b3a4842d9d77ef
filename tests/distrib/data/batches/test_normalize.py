"""Tests normalisation: mean, variance and memory order of what the network sees."""

import pytest
import torch

from distrib.data.batches.normalize import Normalize
from distrib.data.images import Dataset, Split
from tests.distrib.data.batches.test_augment import images_like

CPU = torch.device("cpu")


@pytest.mark.parametrize("channels_last", [True, False])
def test_normalised_training_set_has_zero_mean_and_unit_variance(channels_last: bool) -> None:
    scale = torch.tensor([1.0, 0.5, 0.1])
    images = (images_like(200).float() * scale + 20).clamp(max=255).to(torch.uint8)
    data = Dataset(
        "noise", ("a",), Split(images, torch.zeros(200, dtype=torch.int64)), Split(images[:1], torch.zeros(1))
    )
    mean, std = data.moments()
    result = Normalize(mean, std, CPU, channels_last=channels_last)(images)
    assert result.dtype == torch.float32
    assert result.shape == (200, 3, 10, 12)
    assert result.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert (result.var(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-3
    reference = (images.double() / 255 - mean.double()) / std.double()
    assert torch.allclose(result.double(), reference.permute(0, 3, 1, 2), atol=1e-4)


@pytest.mark.parametrize(("channels_last", "strides"), [(True, (360, 1, 36, 3)), (False, (360, 120, 12, 1))])
def test_memory_order(channels_last: bool, strides: tuple[int, ...]) -> None:
    result = Normalize(torch.zeros(3), torch.ones(3), CPU, channels_last=channels_last)(images_like(2))
    assert result.stride() == strides
