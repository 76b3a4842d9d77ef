"""Short recordings for tests. The processes of ranks import this module, so it must not import JAX."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from torch.nn import Parameter

from crosscheck import Recorder
from crosscheck.trace.format import Part
from crosscheck.trace.reader import open_trace

SGD_OPTIONS = {
    "plain": {"lr": 0.1},
    "momentum": {"lr": 0.1, "momentum": 0.9},
    "nesterov": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05},
    "dampening": {"lr": 0.1, "momentum": 0.9, "dampening": 0.3},
    "maximize": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "maximize": True},
}
ADAM_OPTIONS = {"adam": {"lr": 1e-2}, "amsgrad": {"lr": 1e-2, "amsgrad": True, "weight_decay": 0.01}}
IMPLEMENTATIONS = {"single": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def make_parameters(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Parameter]:
    """Return parameters with the same random numbers every time."""
    generator = torch.Generator().manual_seed(len(shapes))
    return [Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def feed(parameters: Iterable[Tensor], step: int, size: float = 1.0) -> None:
    """Give each parameter a gradient that depends only on the step and the position of the parameter.

    Its layout in memory is that of the parameter, as with autograd.
    """
    for position, parameter in enumerate(parameters):
        generator = torch.Generator().manual_seed(1000 * step + position)
        values = torch.randn(parameter.shape, generator=generator) * size
        parameter.grad = torch.empty_like(parameter, requires_grad=False).copy_(values)


def nothing_more(step: int, was_applied: bool) -> None:
    del step, was_applied


def take_steps(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], steps: Iterable[int]) -> None:
    for step in steps:
        feed(parameters, step)
        optimizer.step()


def parts_of(trace: Path) -> list[Part]:
    return [part.meta for segment in open_trace(trace) for part in segment.parts()]


def full_steps(trace: Path) -> list[int]:
    """Return the steps that were recorded in full."""
    blocks = itertools.chain.from_iterable(part.blocks for part in parts_of(trace))
    return [step for block in blocks if block.full for step in block.steps]


def kill(recorder: Recorder) -> None:
    """Leave a recorder as a killed process does: what waits is not written any more."""
    recorder._journal.closed = True  # pyright: ignore[reportPrivateUsage]


def gradient_norms(trace: Path) -> list[float]:
    """Return the norm of the recorded gradient of each step of a trace with one tensor, all of whose elements are recorded."""
    norms: list[float] = []
    for segment in open_trace(trace):
        for part in segment.parts():
            numel = part.meta.tensors[0].numel
            for number, block in enumerate(part.meta.blocks):
                if not block.full:
                    rows = part.array(number, 0, "grad", len(block.steps), numel)
                    norms += np.linalg.norm(rows.astype(np.float64), axis=1).tolist()
    return norms


def applied(trace: Path) -> list[bool]:
    """Return for each recorded step whether it was applied."""
    return [step.applied for part in parts_of(trace) for step in part.steps]


def overflowing_steps(
    optimizer: torch.optim.Optimizer,
    weight: Parameter,
    recorder: Recorder,
    scaler: torch.amp.GradScaler,
    *,
    steps: int,
    skip: Iterable[int],
    after: Callable[[int, bool], None] = nothing_more,
) -> None:
    """Take steps under a loss scaler. The true gradients are 3, and those of the steps in `skip` overflow.

    `after` is called after each step with its number and whether it was applied.
    """
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        slope = torch.full_like(weight, 3.0)
        if step in skip:
            slope.view(-1)[0] = torch.inf
        scaler.scale((weight * slope).sum()).backward()
        last = recorder.step
        scaler.step(optimizer)
        if recorder.step == last:  # the scaler did not call the optimizer
            recorder.skipped()
        scaler.update()
        after(step, step not in skip)


def record_as_rank(
    rank: int, world_size: int, folder: Path, recording: Sequence[int] = (0, 1), synchronized: bool = True
) -> None:
    """Be one rank of a data-parallel run. Each gradient is rank + 1, so the mean over two ranks is 1.5.

    `recording` names the ranks that record. Gradients that are not `synchronized` are those of each rank itself.
    """
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=world_size
    )
    torch.manual_seed(0)
    bare = torch.nn.Linear(3, 1, bias=False)
    model = torch.nn.parallel.DistributedDataParallel(bare)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    recorder = Recorder(optimizer, folder / "trace", model=model) if rank in recording else contextlib.nullcontext()
    with recorder:
        for _ in range(6):
            optimizer.zero_grad()
            with contextlib.nullcontext() if synchronized else model.no_sync():
                model(torch.full((1, 3), rank + 1.0)).sum().backward()
            optimizer.step()
    torch.save(bare.weight.detach(), folder / f"weight-{rank}.pt")
    torch.distributed.destroy_process_group()
