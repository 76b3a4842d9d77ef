"""The buffers of a network: what a forward pass in training mode changes, such as the running statistics of a batch norm."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def unchanged_buffers(network: nn.Module) -> Generator[None]:
    """Give the network's buffers the values back that they had."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(before[name])
