"""Builds a small network that learns CIFAR-10 in a few epochs, after the published speed records.

The shape, the whitening layer, the identity initialisation, the untrained gains of the batch norms and the scaled output are
those of airbench94 (Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498, 2024), which builds on
hlb-CIFAR10 (Balsam, 2023) and on Page, "How to Train Your ResNet" (2018-19).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_PATCH = 2  # pixels, height and width, of what the first layer whitens
_CHUNK = 500  # images whose patches are in memory at a time


class Speednet(nn.Module):
    """(N, 3, H, W) float -> (N, num_classes) logits; H and W from 9 leave something to pool at the end."""

    def __init__(
        self,
        num_classes: int = 10,
        *,
        widths: Sequence[int] = (64, 256, 256),
        batch_norm_momentum: float = 0.4,
        output_scale: float = 1 / 9,
    ) -> None:
        """`widths` are the channels of the three blocks, and `batch_norm_momentum` is torch's: the share of each new batch."""
        super().__init__()
        patch = 3 * _PATCH**2
        self.whiten = nn.Conv2d(3, 2 * patch, _PATCH)
        self.whiten.weight.requires_grad_(False)
        channels = [2 * patch, *widths]
        self.blocks = nn.Sequential(
            *(_Block(before, after, batch_norm_momentum) for before, after in pairwise(channels))
        )
        self.head = nn.Linear(channels[-1], num_classes, bias=False)
        self.output_scale = output_scale

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(functional.gelu(self.whiten(images)))
        return self.head(features.amax(dim=(2, 3))) * self.output_scale

    @torch.no_grad()
    def whiten_images(self, images: Tensor) -> None:
        """Set the first layer to the whitening of the 2 x 2 patches of these images (N, 3, H, W), each direction once with either
        sign.

        The directions are the eigenvectors of the patches' second moments, divided by the root of their eigenvalues.
        """
        moments = torch.zeros(3 * _PATCH**2, 3 * _PATCH**2, dtype=torch.float64)
        count = 0
        for first in range(0, len(images), _CHUNK):
            patches = (
                functional.unfold(images[first : first + _CHUNK], _PATCH)
                .transpose(1, 2)
                .reshape(-1, len(moments))
                .double()
            )
            moments += patches.T @ patches
            count += len(patches)
        eigen = cast(Any, torch.linalg).eigh(moments / count)
        vectors: Tensor = eigen.eigenvectors
        values: Tensor = eigen.eigenvalues
        directions = (vectors / (values + 5e-4).sqrt()).T.reshape(-1, 3, _PATCH, _PATCH)
        self.whiten.weight.copy_(torch.cat((directions, -directions)))
        assert self.whiten.bias is not None
        self.whiten.bias.zero_()


class _Block(nn.Sequential):
    """Two convolutions with a pooling behind the first, each with a batch norm."""

    def __init__(self, before: int, after: int, momentum: float) -> None:
        super().__init__(
            _convolution(before, after),
            nn.MaxPool2d(2),
            _batch_norm(after, momentum),
            nn.GELU(),
            _convolution(after, after),
            _batch_norm(after, momentum),
            nn.GELU(),
        )


def _convolution(before: int, after: int) -> nn.Conv2d:
    """Return a 3x3 convolution whose first outputs begin as its inputs."""
    made = nn.Conv2d(before, after, 3, padding=1, bias=False)
    nn.init.dirac_(made.weight[:before])
    return made


def _batch_norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    """Return a batch norm whose gains stay at one: only its biases are trained."""
    made = nn.BatchNorm2d(channels, eps=1e-12, momentum=momentum)
    made.weight.requires_grad_(False)
    return made
