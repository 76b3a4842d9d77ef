"""What every loop trains: the same images, network, optimizer and learning rate, in float32 on the CPU."""

import os
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from distrib.data.images import Split
from distrib.data.sources import synthetic
from distrib.networks.article import article

BATCH = 128
STEPS = int(os.environ.get("TWINSTEP_BENCH_STEPS", "128"))
"""Steps an epoch. A part of the default recording has as many."""
EPOCHS = 1000  # never reached; the schedule is long enough for all rounds
PADDING = 4  # pixels on each side, out of which 32 x 32 are cropped
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training images, by channel
PEAK_LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4
CHANNELS_LAST = os.environ.get("TWINSTEP_BENCH_CHANNELS_LAST") == "1"
"""Whether network and images are laid out in channels_last, for the loops that leave the choice to their user."""
MEMORY_FORMAT = torch.channels_last if CHANNELS_LAST else torch.contiguous_format


def images() -> Split:
    """Draw the images of an epoch."""
    return synthetic.load(BATCH * STEPS, 10).train


def network() -> nn.Module:
    """Return the network with the weights of a fixed seed."""
    torch.manual_seed(0)
    return article().to(memory_format=MEMORY_FORMAT)


def sgd(parameters: Iterable[nn.Parameter], *, fused: bool | None = None) -> torch.optim.SGD:
    """Return the optimizer; `fused` is torch's flag."""
    return torch.optim.SGD(
        parameters, lr=PEAK_LR, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY, fused=fused
    )


def one_cycle(optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Return the schedule of the learning rate, to be stepped once a batch."""
    return OneCycleLR(optimizer, PEAK_LR, total_steps=EPOCHS * STEPS, cycle_momentum=False)
