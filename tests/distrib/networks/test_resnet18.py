"""Tests ResNet-18 for small images."""

import torch
from torch import nn

from distrib.networks.resnet18 import resnet18


def test_its_size_and_its_logits() -> None:
    network = resnet18(10)
    assert sum(p.numel() for p in network.parameters()) == 11_173_962
    assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_the_stem_keeps_the_size_of_the_image() -> None:
    network = resnet18(3)
    seen: list[torch.Size] = []
    network.get_submodule("layer1").register_forward_hook(lambda _, __, output: seen.append(output.shape))
    network.eval()(torch.zeros(1, 3, 32, 32))
    assert seen == [(1, 64, 32, 32)]


def test_blocks_may_begin_as_the_identity() -> None:
    gains = [resnet18(zero_init_residual=zero).get_parameter("layer1.0.bn2.weight") for zero in (False, True)]
    assert [gain.detach().sum().item() for gain in gains] == [64.0, 0.0]
    assert isinstance(resnet18().get_submodule("maxpool"), nn.Identity)
