"""Captures a network's forward and backward passes as one CUDA graph each: two launches instead of one for every kernel."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from distrib.errors import BadInput
from distrib.networks.buffers import unchanged_buffers
from distrib.networks.factory import described


def expect_capturable(device: torch.device) -> None:
    """Raise BadInput where there are no CUDA graphs."""
    if device.type != "cuda":
        raise BadInput(
            f"training.cuda_graph = true: CUDA graphs need an NVIDIA GPU, and this run is on {device}; leave it out"
        )


def capture(network: nn.Module, images: Tensor, autocast: AbstractContextManager[object]) -> None:
    """Capture the passes of a network in training mode, which are replayed from then on whenever it is called in that mode.

    To be called before the network is wrapped in DDP. What follows the network, the optimizer among it, is launched as ever, so
    that hooks, loss scaling, clipping and the recorder see what they always see. A backward pass writes where the one before it
    wrote, and `Parameter.grad` may be that memory: gradients cannot be accumulated over several passes (pytorch issue 181723).

    Args:
        network: On its GPU.
        images: (N, C, H, W), with the shape and memory format that every step brings.
        autocast: As in training, with `cache_enabled=False`: cached copies of the weights would be those of the first step for
            ever.

    Raises:
        BadInput: The network cannot be captured, because it reads a number from the GPU, for instance.
    """
    network.train()
    try:
        with unchanged_buffers(network), autocast:
            torch.cuda.make_graphed_callables(network, (images,))
    except (RuntimeError, AssertionError) as error:
        raise BadInput(
            f"training.cuda_graph = true: the network cannot be captured as a CUDA graph: {described(error)}; leave it out"
        ) from error
