"""Builds a run from its recipe: data, network, optimizer and checkpoint, in the order in which they need each other."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distrib.checkpoint import resume, state
from distrib.checkpoint.values import Identity, Inference
from distrib.data.batches.augment import Augmentation
from distrib.data.batches.batches import Batches
from distrib.data.batches.mixing import Mixing
from distrib.data.batches.normalize import Normalize
from distrib.data.batches.plan import Plan
from distrib.data.config import DataConfig
from distrib.data.images import Dataset
from distrib.data.sources import sources
from distrib.display import Display
from distrib.networks.buffers import unchanged_buffers
from distrib.networks.build import has_batch_norm
from distrib.networks.cuda_graph import capture, expect_capturable
from distrib.networks.views import Tta
from distrib.optim.optimizer import build_optimizer
from distrib.optim.precision import Precision
from distrib.optim.schedule import RunLength
from distrib.optim.update import Update
from distrib.ranks import collectives
from distrib.ranks.replica_check import ReplicaCheck
from distrib.ranks.running_statistics import RunningStatistics
from distrib.ranks.same_start import require_same
from distrib.ranks.step_sync import StepSync
from distrib.ranks.world import hardware
from distrib.system import keep_freed_memory
from distrib.text import count, listed, one_line
from distrib.training.metrics.device_peak import peak_flop_per_second
from distrib.training.metrics.figures import Compute
from distrib.training.metrics.profile import expect_room
from distrib.training.network import Network, make_network
from distrib.training.recipe import RunConfig
from distrib.training.run import Run

_CLASSES_TOLD = 20  # classes that are named at the start


def build(
    config: RunConfig,
    accelerator: Accelerator,
    display: Display,
    folder: Path,
    raise_if_stop_requested: Callable[[int], None],
) -> Run:
    """Return the run, resumed and warmed up. Raises BadInput, on every rank alike.

    Calls `raise_if_stop_requested` with the step that the run stands at, on every rank alike: each stage may take minutes.
    """
    device, training = accelerator.device, config.training
    if training.cuda_graph:
        collectives.on_every_rank(accelerator, lambda: expect_capturable(device))
    precision = collectives.on_every_rank(accelerator, lambda: Precision(config.precision, device))
    peak = sum(collectives.all_gather_json(accelerator, peak_flop_per_second(device, precision)))
    dataset = _load_data(config, accelerator, display)
    fingerprint = dataset.fingerprint()
    require_same(accelerator, {"precision.mode": precision.mode, "fingerprint of the images": fingerprint})
    raise_if_stop_requested(0)
    moments = dataset.moments()
    plan = _plan(config, len(dataset.train), accelerator)
    if device.type == "cpu":
        keep_freed_memory()  # only now: what loading the data freed should go back
    network = _network(config, accelerator, display, dataset, moments, plan)
    plan = replace(plan, fillers=not has_batch_norm(network.module))  # which would take part in mean and variance
    update = _initial_update(config, network.module, device, plan, precision)
    batches = _batches(config, dataset, plan, moments, device)
    identity = _identity(fingerprint, plan, device, precision, network)
    expected = resume.Expected(
        keys=config.keys(),
        non_default=config.non_default_keys(),
        identity=identity,
        total_steps=plan.steps(training.epochs),
        enough=training.enough,
    )
    resumed = resume.continue_from(config.checkpoint, folder, expected, accelerator, display, update)
    raise_if_stop_requested(resumed.step)
    run = Run(
        config=config,
        accelerator=accelerator,
        display=display,
        folder=folder,
        dataset_name=dataset.name,
        classes=dataset.classes,
        moments=moments,
        batches=batches,
        test=dataset.test.to(device),
        model=_distributed(config, accelerator, update.model, batches, precision),
        code=network.code,
        compute=Compute(network.flop_per_image, peak),
        statistics=RunningStatistics(update.model, accelerator.num_processes),
        precision=precision,
        update=update,
        step_sync=StepSync(device, accelerator.num_processes),
        replica_check=ReplicaCheck(
            accelerator, capture=lambda: state.capture(update), every=training.check_ranks_every
        ),
        identity=identity,
        inference=_inference(dataset.classes, *moments, config.data.image_size, training.tta),
        resumed=resumed,
    )
    _warm_up(run)
    return run


def _batches(
    config: RunConfig, dataset: Dataset, plan: Plan, moments: tuple[Tensor, Tensor], device: torch.device
) -> Batches:
    return Batches(
        dataset.train.to(device),
        plan,
        Normalize(*moments, device, channels_last=config.model.channels_last),
        _augmentation(config.data, moments[0]),
        _mixing(config.data),
    )


def _augmentation(config: DataConfig, mean: Tensor) -> Augmentation | None:
    if not config.augment:
        return None
    paint = tuple(round(255 * value.item()) for value in mean)
    return Augmentation(
        shift=config.shift, crop_scale=config.crop_scale, flip=config.flip, cutout=config.cutout, paint=paint
    )


def _mixing(config: DataConfig) -> Mixing | None:
    return Mixing(mixup=config.mixup, cutmix=config.cutmix) if config.mixup or config.cutmix else None


def _load_data(config: RunConfig, accelerator: Accelerator, display: Display) -> Dataset:
    source, why = collectives.on_main(accelerator, lambda: sources.choose(config.data))
    if why:
        display.say(why)
    dataset = collectives.main_first(accelerator, lambda: sources.load(config.data, source))
    display.line(f"data: {count(len(dataset.classes), 'class')}: {one_line(listed(dataset.classes, _CLASSES_TOLD))}")
    for note in dataset.notes:
        display.say(f"data: {one_line(note)}")
    return dataset


def _plan(config: RunConfig, num_images: int, accelerator: Accelerator) -> Plan:
    """Return which images belong to which step.

    Raises BadInput where a batch, or a step that the recipe names, is out of range.
    """
    plan = Plan(
        num_images=num_images,
        batch_size=config.training.batch_size,
        last_batch=config.training.last_batch,
        accumulate=config.training.accumulate,
        seed=config.training.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    expect_room(config.output.profile_steps, plan)
    config.crosscheck.expect_steps(plan.steps(config.training.epochs))
    return plan


def _network(
    config: RunConfig,
    accelerator: Accelerator,
    display: Display,
    dataset: Dataset,
    moments: tuple[Tensor, Tensor],
    plan: Plan,
) -> Network:
    """Return the network with its first weights. Raises BadInput, also if its code is not the same on all ranks."""
    network = collectives.on_every_rank(
        accelerator, lambda: make_network(config, dataset, moments, plan, accelerator.device)
    )
    require_same(accelerator, {"the code of model.name": None if network.code is None else network.code.sha256})
    if network.note:
        display.say(network.note)
    return network


def _initial_update(
    config: RunConfig, module: nn.Module, device: torch.device, plan: Plan, precision: Precision
) -> Update:
    """Return a fresh optimizer of the network's trained parameters, with schedule and moving average. Raises BadInput."""
    training = config.training
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    length = RunLength(total_updates=plan.steps(training.epochs), updates_per_epoch=plan.steps_per_epoch)
    return Update(
        module,
        build_optimizer(config.optimizer, trained, device),
        config.schedule.factor(length),
        precision.scaler,
        clip_norm=training.clip_norm,
        clip_value=training.clip_value,
        ema=training.ema,
    )


def _identity(fingerprint: str, plan: Plan, device: torch.device, precision: Precision, network: Network) -> Identity:
    return Identity(
        dataset=fingerprint,
        num_images=plan.num_images,
        batch_size=plan.batch_size,
        last_batch=plan.last_batch,
        seed=plan.seed,
        world_size=plan.world_size,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        hardware=hardware(device),
        precision=precision.mode,
        code=None if network.code is None else network.code.sha256,
    )


def _inference(classes: Sequence[str], mean: Tensor, std: Tensor, image_size: int, tta: Tta) -> Inference:
    return Inference(
        classes=[name.encode(errors="backslashreplace").decode() for name in classes],
        mean=[value.item() for value in mean],
        std=[value.item() for value in std],
        image_size=image_size,
        tta=tta,
    )


def _distributed(
    config: RunConfig, accelerator: Accelerator, module: nn.Module, batches: Batches, precision: Precision
) -> nn.Module:
    """Compile or capture the network if the recipe asks for it, and return it, in DDP where there are several ranks."""
    if config.training.compile:
        module.compile()
    if config.training.cuda_graph:
        images, autocast = next(batches.at(1)).images, precision.autocast(cache_enabled=False)
        collectives.on_every_rank(accelerator, lambda: capture(module, images, autocast))
    model = cast(nn.Module, accelerator.prepare(module))
    if isinstance(model, DistributedDataParallel):
        # Else DDP gives every rank, before each forward pass, the running statistics of rank 0's images. Its argument of this
        # name is deprecated from torch 2.14 on, and the attribute is not.
        model.broadcast_buffers = False
    return model


def _warm_up(run: Run) -> None:
    """Go forward and backward once, and drop the gradients.

    DDP rebuilds its buckets after its first backward, which changes the order of later sums: without
    this the first step of a fresh run and that of a resumed one would differ in the last bits.
    Compilation happens here too, under the long time-out. Running statistics stay what they were.
    """
    if run.accelerator.num_processes == 1 and not run.config.training.compile:
        return
    part = next(run.batches.at(1))
    weightless = replace(part, weights=torch.zeros_like(part.weights))
    with unchanged_buffers(run.module):
        with run.precision.autocast():
            loss = run.criterion(run.model(part.images), weightless)
        run.accelerator.backward(loss)
    run.optimizer.zero_grad()
