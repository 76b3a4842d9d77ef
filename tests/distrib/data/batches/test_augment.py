"""Tests the augmentation of images: shift, flip and cutout."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distrib import counter_rng
from distrib.data.batches.augment import Augmentation
from distrib.data.config import DataConfig

SHIFT = 4
augment = Augmentation()
INDICES = st.lists(st.integers(0, 2**40), min_size=1, max_size=6)


def images_like(count: int, height: int = 10, width: int = 12, channels: int = 3, seed: int = 0) -> Tensor:
    shape = (count, height, width, channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def slowly(images: Tensor, index: list[int], seed: int, epoch: int) -> Tensor:
    """Pixel by pixel: shift by (top, left) - SHIFT over the mirrored image, then flip."""

    def draw(stream: int, image: int) -> int:
        return int(counter_rng.draw(counter_rng.key(seed, epoch, stream), torch.tensor([image])).item())

    count, height, width, _ = images.shape
    result = torch.zeros_like(images)
    for b in range(count):
        top, left = draw(1, index[b]) % (2 * SHIFT + 1), draw(2, index[b]) % (2 * SHIFT + 1)
        flip = draw(3, index[b]) % 2 == 1
        for y in range(height):
            for x in range(width):
                row, column = y + top - SHIFT, (width - 1 - x if flip else x) + left - SHIFT
                row = -row if row < 0 else 2 * (height - 1) - row if row >= height else row
                column = -column if column < 0 else 2 * (width - 1) - column if column >= width else column
                result[b, y, x] = images[b, row, column]
    return result


@settings(max_examples=20, deadline=None)
@given(index=INDICES, seed=st.integers(0, 2**63 - 1), epoch=st.integers(1, 10_000))
def test_augment_is_the_slow_reference(index: list[int], seed: int, epoch: int) -> None:
    images = images_like(len(index))
    before = images.clone()
    assert torch.equal(augment(images, torch.tensor(index), seed, epoch), slowly(images, index, seed, epoch))
    assert torch.equal(images, before), "the training set itself was changed"


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1000), epoch=st.integers(1, 100))
def test_company_and_order_play_no_part(data: st.DataObject, seed: int, epoch: int) -> None:
    images, index = images_like(8), torch.arange(8) * 1000
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=12)))
    together = augment(images, index, seed, epoch)
    assert torch.equal(augment(images[chosen], index[chosen], seed, epoch), together[chosen])


def shifts(count: int, seed: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
    """How many rows and columns each of `count` images moved, and whether it was flipped."""
    size = 32
    place = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"), dim=-1) + 1
    images = place.to(torch.uint8).expand(count, size, size, 2)  # each pixel names its row and column
    moved = augment(images, torch.arange(count), seed, epoch).long() - 1
    flipped = moved[:, 16, 17, 1] < moved[:, 16, 16, 1]
    rows = moved[:, 16, 16, 0] - 16
    columns = moved[:, 16, 16, 1] - torch.where(flipped, 15, 16)
    return rows, columns, flipped


@pytest.mark.parametrize(("seed", "epoch"), [(0, 1), (0, 2), (1, 1), (2**63 - 1, 999)])
def test_all_offsets_occur_and_half_of_the_images_are_flipped(seed: int, epoch: int) -> None:
    rows, columns, flipped = shifts(4050, seed, epoch)
    cells = torch.bincount((rows + SHIFT) * 9 + columns + SHIFT, minlength=81)  # raises for an offset below -SHIFT
    assert len(cells) == 81
    assert cells.min() > 15  # 50 expected
    assert cells.max() < 95
    assert abs(flipped.double().mean().item() - 0.5) < 0.05
    for offset in range(-SHIFT, SHIFT + 1):
        assert abs(flipped[rows == offset].double().mean().item() - 0.5) < 0.15, "flips follow the shifts"


@pytest.mark.parametrize(("seed", "epoch"), [(0, 2), (1, 1)])
def test_seed_and_epoch_draw_anew(seed: int, epoch: int) -> None:
    first, other = shifts(500, 0, 1), shifts(500, seed, epoch)
    for one, two, chance in zip(first, other, (1 / 9, 1 / 9, 1 / 2), strict=True):
        assert abs((one == two).double().mean().item() - chance) < 0.12


def test_what_comes_in_is_the_mirror_image() -> None:
    """The result is that of torch's own reflection padding."""
    images = images_like(50, height=32, width=32)
    moved = augment(images, torch.arange(50), 0, 1)
    planes = images.permute(0, 3, 1, 2).float()
    padded = torch.nn.functional.pad(planes, (SHIFT,) * 4, mode="reflect").permute(0, 2, 3, 1).to(torch.uint8)
    for image, flipped, wide in zip(moved, shifts(50, 0, 1)[2], padded, strict=True):
        upright = image.flip(1) if bool(flipped) else image
        windows = [wide[y : y + 32, x : x + 32] for y in range(2 * SHIFT + 1) for x in range(2 * SHIFT + 1)]
        assert any(torch.equal(upright, window) for window in windows)


def test_alternating_flips_show_both_sides_in_two_epochs() -> None:
    images, index = images_like(400), torch.arange(400)
    alternate = Augmentation(shift=0, flip="alternate")
    first, second, third = (alternate(images, index, 5, epoch) for epoch in (1, 2, 3))
    assert torch.equal(first.flip(2), second)
    assert torch.equal(first, third)
    upright = (first == images).flatten(1).all(dim=1).double().mean().item()
    assert abs(upright - 0.5) < 0.1
    assert not torch.equal(first, alternate(images, index, 6, 1)), "the seed says which come first"


def test_no_shift_and_no_flip_leave_images_as_they_are() -> None:
    images = images_like(20)
    assert torch.equal(Augmentation(shift=0, flip="none")(images, torch.arange(20), 0, 1), images)


@pytest.mark.parametrize("shift", [1, 9])
def test_how_far_images_move(shift: int) -> None:
    place = torch.arange(32, dtype=torch.uint8)[:, None, None].expand(500, 32, 32, 1)
    moved = Augmentation(shift=shift, flip="none")(place, torch.arange(500), 0, 1)
    seen = torch.bincount(moved[:, 16, 16, 0].long() - 16 + shift)
    assert len(seen) == 2 * shift + 1
    assert seen.min() > 5


@pytest.mark.parametrize("side", [1, 4, 5])
def test_cutout_paints_one_square_around_any_pixel(side: int) -> None:
    count, size = 2000, 8
    images = torch.full((count, size, size, 3), 200, dtype=torch.uint8)
    cut = Augmentation(shift=0, flip="none", cutout=side, paint=(1, 2, 3))(images, torch.arange(count), 3, 1)
    painted = (cut == torch.tensor([1, 2, 3], dtype=torch.uint8)).all(dim=-1)
    assert torch.equal(painted, ~(cut == 200).all(dim=-1)), "a pixel is painted as a whole, or not at all"
    rows, columns = painted.any(dim=2), painted.any(dim=1)
    assert torch.equal(painted, rows[:, :, None] & columns[:, None, :]), "it is a rectangle"
    assert rows.sum(dim=1).max() == columns.sum(dim=1).max() == side
    assert rows.sum(dim=1).min() == columns.sum(dim=1).min() == side - side // 2, "one at the border sticks out"
    for lines in (rows, columns):
        runs = (lines[:, 1:] != lines[:, :-1]).sum(dim=1) + lines[:, 0].int() + lines[:, -1].int()
        assert (runs == 2).all(), "and has no gaps"
    if side == 1:
        chosen = torch.bincount(painted.flatten(1).int().argmax(dim=1), minlength=size * size)
        assert chosen.min() > 10  # 31 expected
    other = Augmentation(shift=0, flip="none", cutout=side, paint=(1, 2, 3))(images, torch.arange(count), 3, 2)
    assert not torch.equal(cut, other), "each epoch paints anew"


@pytest.mark.parametrize(
    ("name", "value"), [("shift", 2), ("flip", "none"), ("cutout", 8), ("mixup", 0.2), ("cutmix", 1.0)]
)
def test_a_variation_without_augmentation_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"data\.{name} = {value} has no effect with data\.augment = false"):
        DataConfig.model_validate({"augment": False, name: value})
    DataConfig.model_validate({name: value})
    DataConfig.model_validate({"augment": False, "shift": 4, "flip": "random", "cutout": 0})
