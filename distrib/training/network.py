"""Makes the network of a run as it is before the first step, checks it, and brings it to the device."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distrib.data.batches.normalize import Normalize
from distrib.data.batches.plan import Plan
from distrib.data.images import SIZE, Dataset
from distrib.errors import BadInput
from distrib.networks.build import (
    build_network,
    expect_enough_images,
    expect_trainable,
    has_batch_norm,
    synchronised,
)
from distrib.networks.factory import Code, code_of, find_factory
from distrib.networks.flop import Uncounted, flop_per_image
from distrib.networks.speednet import Speednet
from distrib.text import count
from distrib.training.recipe import RunConfig

_WHITENED = 5000 * SIZE**2  # pixels of the images by which a network is whitened


@dataclass(frozen=True, slots=True)
class Network:
    """A network on its device, the file that made it, if that is not the project's, and what an image costs it."""

    module: nn.Module
    code: Code | None
    flop_per_image: int | None
    note: str = ""  # why that could not be counted


def make_network(
    config: RunConfig, dataset: Dataset, moments: tuple[Tensor, Tensor], plan: Plan, device: torch.device
) -> Network:
    """Return the network that `config.model` describes, fresh, as its seed has it. Raises BadInput.

    `moments` are mean and standard deviation of each channel of the training images.
    """
    model, num_classes, image_size = config.model, len(dataset.classes), config.data.image_size
    torch.manual_seed(config.training.seed)
    module = build_network(model, num_classes)
    expect_trainable(model, module, num_classes, image_size)
    _expect_batches(config, module, plan)
    if isinstance(module, Speednet):
        normalize = Normalize(*moments, torch.device("cpu"), channels_last=False)
        module.whiten_images(normalize(dataset.train.evenly(max(1, _WHITENED // image_size**2)).images))
    flop, note = _flop_per_image(module, image_size)
    if model.sync_batch_norm:
        module = synchronised(module, device)
    module.to(device)
    if model.channels_last:
        module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return Network(module, code_of(model.name, find_factory(model.name)), flop, note)


def _expect_batches(config: RunConfig, module: nn.Module, plan: Plan) -> None:
    """Raise BadInput if a batch norm would have too few images, or, compiled, parts of different sizes."""
    last = plan.images_of(plan.steps_per_epoch)
    expect_enough_images(config.model, module, plan.fewest(plan.batch_size), f"training.batch_size = {plan.batch_size}")
    if last < plan.batch_size:
        masked = f"training.last_batch = mask: the last batch of an epoch, of {count(last, 'image')},"
        expect_enough_images(config.model, module, plan.fewest(last), masked)
    if config.training.compile and has_batch_norm(module) and plan.fewest(last) < plan.share:
        raise BadInput(
            f"training.compile = true: with {count(plan.world_size, 'rank')}, training.batch_size = {plan.batch_size}, "
            f"training.accumulate = {plan.accumulate} and training.last_batch = {plan.last_batch} parts have {plan.fewest(last)} "
            f"to {plan.share} images, and a network with batch norm is compiled for one number: choose a batch size that ranks "
            "and parts divide, and last_batch = drop, or leave compile out"
        )


def _flop_per_image(module: nn.Module, image_size: int) -> tuple[int | None, str]:
    try:
        return flop_per_image(module, image_size), ""
    except Uncounted as problem:
        return None, f"note: the FLOP of this network could not be counted, and its figures are missing: {problem}"
