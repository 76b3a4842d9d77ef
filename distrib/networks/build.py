"""Builds the network that a recipe names, and checks that this trainer can train it, before any image of the run reaches it."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from distrib.errors import BadInput
from distrib.networks.buffers import unchanged_buffers
from distrib.networks.config import SIZES, ModelConfig
from distrib.networks.factory import described, find_factory, is_foreign

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def build_network(config: ModelConfig, num_classes: int) -> nn.Module:
    """Return the network on the CPU, initialised from torch's global generator. Raises BadInput."""
    factory, options = find_factory(config.name), config.options
    try:
        inspect.signature(factory).bind(num_classes=num_classes, **options)
    except TypeError as error:
        raise BadInput(
            f"model.options = {_shown(options)}: {config.name} is called with num_classes = {num_classes} and these, and "
            f"{error}; it takes {inspect.signature(factory)}"
        ) from None
    except ValueError:
        pass  # it says nothing of what it takes
    try:
        network = factory(num_classes=num_classes, **options)
    except (Exception, SystemExit) as error:  # it may read arguments, as of a program of its own
        raise BadInput(
            f"model.name = {config.name}: called with num_classes = {num_classes} and model.options = {_shown(options)} it "
            f"raised {described(error)}"
        ) from error
    if not isinstance(network, nn.Module):
        raise BadInput(
            f"model.name = {config.name} returned {type(network).__name__}, and what is trained is a torch.nn.Module"
        )
    return network


def expect_trainable(config: ModelConfig, network: nn.Module, num_classes: int, image_size: int) -> None:
    """Raise BadInput unless the network, on the CPU, can be trained and saved by this trainer.

    A pass over two random images, laid out in memory as those of the run, in training mode and one in evaluation mode tell
    whether it takes them, returns logits and uses all its parameters; they leave the network and the random numbers as they were.
    """
    if not takes_size(config, image_size):
        raise BadInput(_wrong_size(config, image_size))
    problem = next(_problems(network), None)
    if problem is None and is_foreign(config.name):
        problem = _try(network, num_classes, image_size, channels_last=config.channels_last)
    if problem is not None:
        raise BadInput(f"model.name = {config.name}: {problem}")


def takes_size(config: ModelConfig, image_size: int) -> bool:
    """Return whether images may have so many pixels, height and width, as far as that is known of the network."""
    smallest, largest = SIZES.get(config.name, (image_size, image_size))
    return smallest <= image_size <= largest


def has_batch_norm(network: nn.Module) -> bool:
    """Return whether the network normalises over the images of a batch, so that what it makes of one depends on the others."""
    return any(isinstance(module, _BATCH_NORMS) for module in network.modules())


def expect_enough_images(config: ModelConfig, network: nn.Module, images: int, batch: str) -> None:
    """Raise BadInput if the network normalises over its images and a rank has too few of them at a time.

    `images` is how many a rank has at least in a part, and `batch` says of which batch, as messages begin.
    """
    if has_batch_norm(network) and images < (1 if config.sync_batch_norm else 2):
        raise BadInput(
            f"{batch} leaves {'one' if images else 'no'} image to a rank and part, and the batch norm of model.name = "
            f"{config.name} takes mean and variance over a rank's images: choose a larger batch, or fewer ranks or "
            "training.accumulate"
        )


def synchronised(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with torch's SyncBatchNorm in place of its batch norms. Raises BadInput where torch has none."""
    if device.type != "cuda":
        raise BadInput(
            f"model.sync_batch_norm = true: torch's SyncBatchNorm computes on GPUs only, and this run is on {device.type}; leave "
            "it out, and each rank normalises over its own images"
        )
    return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(network))


def _wrong_size(config: ModelConfig, image_size: int) -> str:
    smallest, largest = SIZES[config.name]
    accepted = f"{smallest} to {largest}" if smallest < largest else str(smallest)
    return (
        f"data.image_size = {image_size}: model.name = {config.name} takes images of {accepted} pixels, height and width; set "
        "data.image_size to that, or choose model.name = resnet18, which takes every size"
    )


def _problems(network: nn.Module) -> Iterator[str]:
    """Yield what of the network this trainer cannot keep, a sentence each."""
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    if not trained:
        yield "it has no parameter that requires a gradient, so there is nothing to train"
    seen: dict[int, str] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            yield f"its state holds {name}, which is no tensor but {type(tensor).__name__}, and checkpoints hold tensors"
            return
        if nn.parameter.is_lazy(tensor):
            yield f"its parameter {name} has no shape before a first call; have the factory call the network once"
        elif isinstance(tensor, nn.Parameter) and tensor.dtype != torch.float32:
            yield (
                f"its parameter {name} is {str(tensor.dtype).removeprefix('torch.')}; weights are kept in float32, and "
                "precision.mode says in what the network computes"
            )
        if id(tensor) in seen:
            yield f"{seen[id(tensor)]} and {name} are one tensor, which checkpoints cannot hold under two names"
        seen[id(tensor)] = name


def _try(network: nn.Module, num_classes: int, image_size: int, *, channels_last: bool) -> str | None:
    """Take two random images through the network as the run does, and return in a sentence what was wrong, if anything was."""
    plain = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    images = plain.contiguous(memory_format=torch.channels_last) if channels_last else plain
    before = _tensor_names(network)
    with torch.random.fork_rng(devices=()), unchanged_buffers(network):
        problem = _pass(network, images, num_classes)
        if problem is not None and channels_last and _pass(network, plain, num_classes) is None:
            problem += (
                "; it takes them as they are without model.channels_last: use reshape or flatten instead of view in its "
                "forward, or set model.channels_last = false"
            )
    network.zero_grad()
    if problem is None and (changed := sorted(before ^ _tensor_names(network))):
        problem = (
            f"its forward pass adds or removes {_some(changed)}, and a checkpoint holds what is there before the first pass: "
            "have its __init__ register them, or the factory call the network once"
        )
    return problem


def _pass(network: nn.Module, images: Tensor, num_classes: int) -> str | None:
    """Take the images forward and backward, and then forward in evaluation mode, and return what was wrong, if anything was."""
    given = f"given two images as (N, C, H, W) = {tuple(images.shape)}"
    for mode in ("training", "evaluation"):
        evaluating = mode == "evaluation"
        try:
            with torch.inference_mode(evaluating):
                logits = network.train(not evaluating)(images)
            right = _are_logits(logits, num_classes)
            if right and not evaluating:
                logits.square().sum().backward()
        except Exception as error:
            return f"{given} in {mode} mode it raised {described(error)}"
        finally:
            network.train()
        if not right:
            return (
                f"{given} it returned {_what(logits)} in {mode} mode, and logits of shape (N, num_classes) = {(2, num_classes)} "
                "are expected"
            )
        unused = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
        if unused:
            return (
                f"its output does not depend on {_some(unused)}, which would never be trained: leave such parameters out, or "
                "freeze them with requires_grad_(False)"
            )
    return None


def _tensor_names(network: nn.Module) -> set[str]:
    """Return the names of all parameters and buffers."""
    return {name for name, _ in (*network.named_parameters(), *network.named_buffers())}


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:4])}{' and others' if len(names) > 4 else ''}"


def _are_logits(value: object, num_classes: int) -> bool:
    return isinstance(value, Tensor) and value.shape == (2, num_classes) and value.is_floating_point()


def _what(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return type(value).__name__


def _shown(options: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{name} = {value!r}" for name, value in options.items()) + "}"
