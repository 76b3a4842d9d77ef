"""Tests the article's network."""

import pytest
import torch
from torch import nn

from distrib.networks.article import article
from distrib.networks.build import build_network
from distrib.networks.config import ModelConfig


@pytest.mark.parametrize(("classes", "parameters"), [(10, 145_578), (2, 145_578 - 8 * 65), (100, 145_578 + 90 * 65)])
def test_parameters(classes: int, parameters: int) -> None:
    net = build_network(ModelConfig(), classes)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert all(p.requires_grad and p.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("images", [1, 3])
def test_logits_for_each_image(classes: int, images: int) -> None:
    assert build_network(ModelConfig(), classes)(torch.zeros(images, 3, 32, 32)).shape == (images, classes)


def test_logits_are_not_probabilities() -> None:
    torch.manual_seed(0)
    logits: torch.Tensor = article()(torch.randn(4, 3, 32, 32))
    assert (logits < 0).any()


def test_images_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    net, images = article(), torch.randn(3, 3, 32, 32)
    together = net(images)
    alone = torch.cat([net(image[None]) for image in images])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_training_and_evaluation_are_one_function() -> None:
    """The network has no dropout and no batch statistics."""
    net, images = article(), torch.randn(2, 3, 32, 32)
    assert torch.equal(net.train()(images), net.eval()(images))
    assert not list(net.buffers())


def test_seed_decides_the_weights() -> None:
    def weights(seed: int) -> list[nn.Parameter]:
        torch.manual_seed(seed)
        return list(build_network(ModelConfig(), 10).parameters())

    assert all(map(torch.equal, weights(1), weights(1)))
    assert not any(map(torch.equal, weights(1), weights(2)))
