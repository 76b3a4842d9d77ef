"""Test-time augmentation: which views of an image are averaged, and with what weights."""

import pytest
import torch
from torch import Tensor, nn

from distrib.networks.views import AveragedViews, Tta

IMAGES = torch.randn(3, 2, 6, 5)


class _Pixel(nn.Module):
    """The logits are the values of one pixel, so that a view shows which pixel it put there."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.row, self.column = row, column

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, self.row, self.column].bfloat16().double()


def seen(tta: Tta, row: int, column: int) -> Tensor:
    return AveragedViews(_Pixel(row, column), tta)(IMAGES)


def at(row: int, column: int) -> Tensor:
    return IMAGES[:, :, row, column].bfloat16().float()


def test_without_it_the_network_sees_the_image() -> None:
    assert torch.equal(seen("none", 1, 3), at(1, 3))


def test_flip_is_the_mean_with_the_mirror_image() -> None:
    torch.testing.assert_close(seen("flip", 1, 3), (at(1, 3) + at(1, 1)) / 2)


@pytest.mark.parametrize(
    ("row", "column", "up_left", "down_right"),
    [
        (2, 2, (1, 1), (3, 3)),
        (0, 2, (1, 1), (1, 3)),  # at the edge what comes in is what is one pixel inside
    ],
)
def test_flip_shift_adds_two_views_moved_by_a_pixel(
    row: int, column: int, up_left: tuple[int, int], down_right: tuple[int, int]
) -> None:
    moved = (at(*up_left) + at(*down_right)) / 2  # in the middle column a mirror image shows the same
    torch.testing.assert_close(seen("flip_shift", row, column), (at(row, column) + moved) / 2)


def test_an_image_and_its_mirror_image_are_the_same_to_it() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(60, 4))
    choices: tuple[tuple[Tta, bool], ...] = (("none", False), ("flip", True))
    for tta, alike in choices:
        views = AveragedViews(network, tta)
        assert torch.allclose(views(IMAGES), views(IMAGES.flip(3)), atol=1e-6) == alike
