"""Counts by torch's FLOP counter how many floating-point operations a network takes to learn from an image."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distrib.networks.factory import described


class Uncounted(Exception):
    """The operations of a network could not be counted. The message says why."""


def flop_per_image(network: nn.Module, image_size: int) -> int:
    """Return the FLOP of forward and backward for one image: those of matrix products and convolutions. Raises Uncounted.

    The network is on the CPU. A copy of it is asked that has shapes and no values, so nothing is computed, and the network,
    its gradients and the random numbers stay as they are.
    """
    images = torch.empty(2, 3, image_size, image_size, device="meta")  # a batch norm takes no batch of one
    try:
        with torch.random.fork_rng(devices=()):
            shapes = copy.deepcopy(network).to("meta").train()
            trained = [parameter for parameter in shapes.parameters() if parameter.requires_grad]
            with FlopCounterMode(display=False) as counter:
                torch.autograd.grad(shapes(images).sum(), trained)
    except Exception as error:  # whatever a network of somebody else raises without values
        raise Uncounted(described(error)) from error
    if (total := counter.get_total_flops()) == 0:
        raise Uncounted("it has no matrix product and no convolution that torch's counter knows")
    return total // len(images)
