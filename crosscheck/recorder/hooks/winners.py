"""Watches which element of each window wins a max-pooling. Rounding may decide this, and the gradient goes to the winner."""

from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle


class Winners:
    """Watches every `nn.MaxPool2d(2)` of a network while it is open.

    `found[k]` has one tensor a forward pass of the k-th pooling: (n, C, H/2, W/2) uint8, 2 dy + dx of the winner
    in its 2x2 window.
    """

    def __init__(self, network: nn.Module) -> None:
        self._poolings = [module for module in network.modules() if isinstance(module, nn.MaxPool2d)]
        self.found: list[list[Tensor]] = [[] for _ in self._poolings]
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for number, pooling in enumerate(self._poolings):
            self._hooks.append(pooling.register_forward_hook(partial(self._record, number)))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def _record(self, number: int, _module: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
        (x,) = inputs
        _, position = functional.max_pool2d_with_indices(x, (2, 2))  # of the plane: row * width + column
        row, column = position // x.shape[-1], position % x.shape[-1]
        self.found[number].append((row % 2 * 2 + column % 2).to(torch.uint8))
