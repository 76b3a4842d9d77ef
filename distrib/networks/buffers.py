"""Gives a network its buffers back, such as running statistics of a batch norm, after a pass in training mode changed them."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def unchanged_buffers(network: nn.Module) -> Generator[None]:
    """Give the network its buffers back, with the values that they had, also where a pass replaced one by another tensor."""
    before = [(name, buffer, buffer.clone()) for name, buffer in network.named_buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer, values in before:
                module, _, own = name.rpartition(".")
                setattr(network.get_submodule(module), own, buffer.copy_(values))
