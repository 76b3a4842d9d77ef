"""Looks at what computes: the GPU or the CPU, which fused kernels and number formats it has, and why it lacks others."""

import os
import platform
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import torch

from distrib.doctor.finding import Finding, fails, note, ok
from distrib.errors import BadInput
from distrib.optim.precision import Mode, Precision, PrecisionConfig
from distrib.ranks import world
from distrib.system import memory
from distrib.text import count

_OPTIMIZERS: Mapping[str, Any] = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}


def look(device: torch.device) -> Iterator[Finding]:
    """Yield findings on the device of this process, as training would use it."""
    yield _device(device)
    yield ok(
        "cpu", f"{platform.machine()}, {world.hardware(torch.device('cpu'))}, {memory() / 2**30:.0f} GiB of memory"
    )
    yield from _fused(device)
    yield from _precisions(device)


def _device(device: torch.device) -> Finding:
    if device.type == "cuda":
        free, there = torch.cuda.mem_get_info(device)
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        return ok(
            "device",
            f"{torch.cuda.get_device_name(device)}, capability {capability}, {free / 2**30:.0f} of {there / 2**30:.0f} GiB "
            f"free, CUDA {torch.version.cuda}; {count(torch.cuda.device_count(), 'GPU')} on this machine",
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None:
        why = "this build of PyTorch is for the CPU"
    elif hidden is not None and hidden.split(",")[0] in ("", "-1"):
        why = f"CUDA_VISIBLE_DEVICES = {hidden!r} hides all GPUs"
    else:
        why = f"PyTorch, built for CUDA {torch.version.cuda}, sees no GPU"
    return note("device", f"{world.device_name(device)}; {why}")


def _fused(device: torch.device) -> Iterator[Finding]:
    """Step each optimizer once with its fused kernel, which torch refuses where it has none."""
    refused: dict[str, str] = {}
    for name, optimizer in _OPTIMIZERS.items():
        try:
            parameter = torch.nn.Parameter(torch.ones(4, device=device))
            parameter.grad = torch.ones_like(parameter)
            optimizer([parameter], lr=0.1, fused=True).step()
        except (RuntimeError, ValueError) as error:
            refused[name] = str(error).splitlines()[0]
    there = [name for name in _OPTIMIZERS if name not in refused]
    if there:
        yield ok("fused", f"{', '.join(there)} on {device.type}")
    for name, why in refused.items():
        yield note("fused", f"no fused {name} on {device.type} ({why})", "foreach kernels take its place")


def _precisions(device: torch.device) -> Iterator[Finding]:
    modes: tuple[Mode, ...] = get_args(Mode)
    there: list[str] = []
    lacking: list[str] = []
    for mode in modes:
        try:
            Precision(PrecisionConfig(mode=mode), device, {})
            there.append(mode)
        except BadInput as error:
            lacking.append(str(error))
    yield ok("precision", f"{', '.join(there)} on {device.type}")
    for why in lacking:
        yield note("precision", why)
    try:  # the wish that the launcher put into the environment
        yield ok("precision", f"a recipe that says nothing trains in {Precision(PrecisionConfig(), device).mode}")
    except BadInput as error:
        yield fails("precision", str(error), "start with another --mixed_precision")
