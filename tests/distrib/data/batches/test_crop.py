"""Random resized crops: which windows are shown, and how they are enlarged."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import RandomResizedCrop

from distrib import counter_rng
from distrib.data.batches import crop
from distrib.data.batches.augment import Augmentation
from distrib.data.config import DataConfig

SCALE = (0.08, 1.0)
KEYS = (11, 12)
cropped = Augmentation(crop_scale=SCALE)


def noise(count: int, size: int) -> Tensor:
    shape = (count, size, size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def windows(count: int, size: int, scale: tuple[float, float] = SCALE) -> tuple[Tensor, Tensor]:
    return crop.window_sizes(KEYS, torch.arange(count), size, size, scale)


def test_windows_are_as_torchvision_draws_them() -> None:
    """Mean, spread and deciles of area and ratio agree, over 4,000 windows of either."""
    size, count = 224, 4000
    torch.manual_seed(0)
    image = torch.zeros(3, size, size)
    theirs = [RandomResizedCrop.get_params(image, list(SCALE), [3 / 4, 4 / 3])[2:] for _ in range(count)]
    ours = torch.stack(windows(count, size), dim=1)
    deciles = torch.arange(1, 10, dtype=torch.float64) / 10
    for mine, reference in zip(_measured(ours, size), _measured(torch.tensor(theirs), size), strict=True):
        assert mine.mean().item() == pytest.approx(reference.mean().item(), abs=0.02)
        assert mine.std().item() == pytest.approx(reference.std().item(), abs=0.02)
        assert torch.allclose(mine.quantile(deciles), reference.quantile(deciles), atol=0.03)


def _measured(sizes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the share of the area, and the logarithm of the ratio."""
    tall, wide = sizes.double().unbind(dim=1)
    return tall * wide / size**2, (wide / tall).log()


@pytest.mark.parametrize("size", [8, 32, 57])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 0.5), (1.0, 1.0), (1e-6, 1e-6)])
def test_windows_are_within_the_image(size: int, scale: tuple[float, float]) -> None:
    tall, wide = windows(2000, size, scale)
    for length in (tall, wide):
        assert length.min() >= 1
        assert length.max() <= size
    if scale == (1e-6, 1e-6):
        assert (tall == size).all(), "none of these fits, so that the whole image is shown"
    elif scale[1] < 1:
        area = (tall * wide).double().mean() / size**2
        assert area.item() == pytest.approx(0.5, abs=0.04)


def test_every_place_is_taken() -> None:
    """Each pixel is at times in the window, and windows touch all borders."""
    size = 16
    place = torch.arange(size, dtype=torch.uint8)[:, None, None] * 15
    rows = Augmentation(crop_scale=(0.3, 0.6), flip="none")(place.expand(3000, size, size, 1), torch.arange(3000), 0, 1)
    seen = rows[:, :, 0, 0]
    assert (seen[:, 0] == 0).double().mean() > 0.05
    assert (seen[:, -1] == 15 * (size - 1)).double().mean() > 0.05
    middle = seen[:, size // 2].double().mean().item() / 15
    assert middle == pytest.approx((size - 1) / 2, abs=0.7), "windows lean to one side"


@settings(max_examples=30, deadline=None)
@given(data=st.data(), size=st.integers(1, 40))
def test_a_window_is_enlarged_as_torch_does(data: st.DataObject, size: int) -> None:
    (tall, wide) = (data.draw(st.integers(1, size)) for _ in range(2))
    top, left = data.draw(st.integers(0, size - tall)), data.draw(st.integers(0, size - wide))
    images = noise(2, size)
    rows, columns = (
        crop.enlarged(torch.tensor([first] * 2), torch.tensor([length] * 2), size)
        for first, length in ((top, tall), (left, wide))
    )
    window = images[:, top : top + tall, left : left + wide].permute(0, 3, 1, 2).float()
    expected = functional.interpolate(window, size=(size, size), mode="bilinear", align_corners=False)
    difference = crop.resampled(images, rows, columns).permute(0, 3, 1, 2).float() - expected
    assert difference.abs().max() <= 3, "positions are rounded to 128ths of a pixel, and twice to whole grey levels"
    if tall == wide == size:
        assert (difference == 0).all()


def test_flat_images_stay_as_they_are() -> None:
    for value in (0, 1, 254, 255):
        images = torch.full((50, 32, 32, 3), value, dtype=torch.uint8)
        assert torch.equal(cropped(images, torch.arange(50), 0, 1), images)


def test_a_window_of_the_whole_image_is_the_image() -> None:
    images = noise(30, 32)
    seen = Augmentation(crop_scale=(1.0, 1.0), flip="none")(images, torch.arange(30), 0, 1)
    whole = (torch.stack(crop.window_sizes(_keys(0, 1), torch.arange(30), 32, 32, (1.0, 1.0))) == 32).all(dim=0)
    assert whole.any()
    assert torch.equal(seen[whole], images[whole])


def _keys(seed: int, epoch: int) -> tuple[int, int]:
    return counter_rng.key(seed, epoch, 6), counter_rng.key(seed, epoch, 7)


@settings(max_examples=20, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**63 - 1), epoch=st.integers(1, 100))
def test_company_and_order_play_no_part(data: st.DataObject, seed: int, epoch: int) -> None:
    images, index = noise(8, 12), torch.arange(8) * 1000
    before = images.clone()
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=12)))
    together = cropped(images, index, seed, epoch)
    assert torch.equal(cropped(images[chosen], index[chosen], seed, epoch), together[chosen])
    assert torch.equal(images, before)


def test_half_are_flipped() -> None:
    place = (torch.arange(32, dtype=torch.uint8) * 8)[:, None].expand(1000, 32, 32, 1)
    seen = cropped(place, torch.arange(1000), 0, 1).long()
    flipped = seen[:, 16, 0, 0] > seen[:, 16, -1, 0]
    assert flipped.double().mean().item() == pytest.approx(0.5, abs=0.06)
    upright = Augmentation(crop_scale=SCALE, flip="none")(place, torch.arange(1000), 0, 1).long()
    assert (upright[:, :, 1:] >= upright[:, :, :-1]).all()
    assert torch.equal(torch.where(flipped[:, None, None, None], seen.flip(2), seen), upright), (
        "the flip moves the window"
    )


def test_what_is_drawn_stays_the_same_from_version_to_version() -> None:
    tall, wide = windows(5, 100)
    assert tall.tolist() == [55, 53, 49, 72, 62]
    assert wide.tolist() == [68, 43, 50, 93, 79]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"crop_scale": (0.5, 0.2)}, r"data\.crop_scale = \[0\.5, 0\.2\] begins with the larger share"),
        ({"crop_scale": (0.5, 1.0), "shift": 2}, r"data\.shift = 2 has no effect with data\.crop_scale"),
        ({"crop_scale": (0.0, 1.0)}, "greater than 0"),
        ({"crop_scale": (0.5, 1.5)}, "less than or equal to 1"),
        ({"crop_scale": (0.5, 1.0), "augment": False}, r"data\.crop_scale = \[0\.5, 1\.0\] has no effect"),
    ],
)
def test_crops_that_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DataConfig.model_validate(values)
    assert math.isclose(sum(DataConfig.model_validate({"crop_scale": (0.25, 1)}).crop_scale or ()), 1.25)
