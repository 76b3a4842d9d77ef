"""Tests the network that learns fast."""

import pytest
import torch
from torch.nn import functional

from distrib.networks.speednet import Speednet

SMALL = (8, 12, 16)


@pytest.mark.parametrize("size", [26, 32, 49])
def test_logits_for_each_image(size: int) -> None:
    assert Speednet(7, widths=SMALL).eval()(torch.randn(2, 3, size, size)).shape == (2, 7)


def test_the_published_shape() -> None:
    """airbench94 has 1.97 million parameters."""
    assert sum(p.numel() for p in Speednet().parameters()) == pytest.approx(1.97e6, rel=0.01)


def test_the_first_layer_whitens_the_patches() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(600, 3, 16, 16, generator=draw)
    images = functional.avg_pool2d(images, 3, stride=1, padding=1) * torch.tensor([1.0, 2.0, 0.5])[:, None, None]
    network = Speednet(widths=SMALL)
    network.whiten_images(images)
    features = network.whiten(images)[:, :12].transpose(0, 1).flatten(1)
    moments = features @ features.T / features.shape[1]
    # A direction that hardly varies is left smaller: its eigenvalue is not large beside what is added to it.
    assert torch.allclose(moments, moments.diagonal().diag(), atol=1e-3), "directions are independent"
    assert (moments.diagonal() > 0.8).all()
    assert (moments.diagonal() < 1.001).all()
    assert torch.equal(network.whiten.weight[:12], -network.whiten.weight[12:])


def test_what_is_not_trained() -> None:
    still = {name for name, p in Speednet(widths=SMALL).named_parameters() if not p.requires_grad}
    assert still == {"whiten.weight", *(f"blocks.{b}.{n}.weight" for b in range(3) for n in (2, 5))}


def test_a_convolution_begins_as_the_identity() -> None:
    block = Speednet(widths=SMALL).blocks.get_submodule("0.4")
    images = torch.randn(1, 8, 5, 5)
    assert torch.allclose(block(images), images, atol=1e-6)
