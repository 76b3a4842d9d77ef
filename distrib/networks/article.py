"""Builds the network of the article: small, without non-linearities but max-pooling. The gradient twin has it in JAX."""

from torch import nn


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
