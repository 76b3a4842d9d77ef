"""The network that every run trains."""

from typing import Literal

from torch import nn

from distrib.config.section import Section


class ModelConfig(Section):
    """The network."""

    name: Literal["article"] = "article"
    """`article`: three 5x5 convolutions with max-pooling and two linear layers, 145,578 parameters for ten classes."""
    channels_last: bool = True
    """Store images and convolution weights as (N, H, W, C); 1.6 to 1.9 times faster on a CPU, and what tensor cores want."""


def build_model(config: ModelConfig, num_classes: int) -> nn.Module:
    """Return the network on the CPU, initialised by torch's defaults from torch's global generator."""
    networks = {"article": article}
    return networks[config.name](num_classes)


def article(num_classes: int = 10) -> nn.Sequential:
    """Return a network from (N, 3, 32, 32) float to (N, num_classes) logits, without softmax, dropout or normalisation."""
    return nn.Sequential(
        nn.Conv2d(3, 32, kernel_size=5, padding=2),
        nn.MaxPool2d(2),  # 32x32 -> 16x16; no non-linearity but the maxima, as in the article
        nn.Conv2d(32, 32, kernel_size=5, padding=2),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, kernel_size=5, padding=2),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 64),
        nn.Linear(64, num_classes),
    )
