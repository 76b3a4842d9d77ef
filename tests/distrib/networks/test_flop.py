"""The FLOP of a network are those that one counts by hand, and to count them changes nothing."""

import copy

import pytest
import torch
from torch import Tensor, nn

from distrib.networks.flop import Uncounted, flop_per_image
from distrib.networks.resnet18 import resnet18
from tests.networks import Frozen, Looking, drawn


def test_a_linear_layer_and_a_convolution_by_hand() -> None:
    """Each product counts a multiplication and an addition; the images need no gradient,
    and a layer behind the first one does.
    """
    first, second = 2 * 3072 * 20, 2 * 20 * 10
    assert (
        flop_per_image(nn.Sequential(nn.Flatten(), nn.Linear(3072, 20), nn.Linear(20, 10)), 32)
        == 2 * first + 3 * second
    )
    convolution, head = 2 * 4 * 3 * 9 * 30**2, 2 * 3600 * 10
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 10))
    assert flop_per_image(network, 32) == 2 * convolution + 3 * head


def test_what_is_frozen_is_passed_once() -> None:
    assert flop_per_image(Frozen(10), 32) == 2 * 4 * 3 * 9 * 16 + 2 * 2 * 64 * 10


@pytest.mark.parametrize("network", [drawn(10), resnet18(10)], ids=["drawn", "resnet18"])
def test_it_changes_nothing(network: nn.Module) -> None:
    before, random = copy.deepcopy(network.state_dict()), torch.random.get_rng_state()
    modes = [module.training for module in network.eval().modules()]
    assert flop_per_image(network, 32) > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())


class Adding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(10))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :10] + self.bias


@pytest.mark.parametrize(("network", "words"), [(Looking(10), "meta"), (Adding(), "no matrix product")])
def test_what_cannot_be_counted_says_why(network: nn.Module, words: str) -> None:
    with pytest.raises(Uncounted, match=words):
        flop_per_image(network, 32)
