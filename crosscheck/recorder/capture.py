"""Copies of a parameter, its gradient and its state at one moment: all of it, or fixed coordinates."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crosscheck.recorder.optimizer_info import DTYPES
from crosscheck.trace.format import RESERVED_SLOTS, TensorInfo


@dataclass(slots=True)
class Moment:
    """One tensor before or after a step, as vectors. A slot that does not exist is in neither dictionary."""

    parameter: Tensor
    slots: dict[str, Tensor] = field(default_factory=dict[str, Tensor])  # of the parameter's shape
    scalars: dict[str, Tensor] = field(default_factory=dict[str, Tensor])  # one float64 a tensor

    def get(self, slot: str) -> Tensor | None:
        return self.slots.get(slot, self.scalars.get(slot))


def coordinates_of(info: TensorInfo, count: int) -> Tensor | None:
    """Draw fixed positions by the tensor's name, ascending in C order; None if there are no more than `count`."""
    if info.numel <= count:
        return None
    return torch.tensor(sorted(random.Random(info.name).sample(range(info.numel), count)))  # noqa: S311 (no secret)


class Where(NamedTuple):
    """Which elements of a tensor are looked at, and whether their copies go to the host."""

    positions: Tensor | None  # None: all
    to_host: bool


def pick(tensor: Tensor, where: Where) -> Tensor:
    """Return a copy of the chosen elements in C order, as a vector."""
    flat = tensor.detach().reshape(-1) if where.positions is None else torch.take(tensor.detach(), where.positions)
    if where.to_host and flat.device.type != "cpu":
        return flat.cpu()
    return flat.clone() if where.positions is None else flat


def elementwise(parameter: Tensor, value: Any) -> bool:
    """Return whether a piece of state has a number for each element of the parameter."""
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.dtype in DTYPES


def slot_name(key: str, names: Mapping[str, str]) -> str:
    """Return the slot's name of a key of the state. `names` has those that differ."""
    slot = names.get(key, key).replace("/", ".")  # a slash parts the names of arrays
    return f"state {slot}" if slot in RESERVED_SLOTS else slot


def take_moment(parameter: Tensor, state: Mapping[str, Any], names: Mapping[str, str], where: Where) -> Moment:
    """Copy the parameter, and every slot that is one number or has one for each of its elements. `names`: see slot_name."""
    moment = Moment(pick(parameter, where))
    for key, value in state.items():
        slot = slot_name(key, names)
        if isinstance(value, Tensor):
            if elementwise(parameter, value):
                moment.slots[slot] = pick(value, where)
            elif value.numel() == 1:
                moment.scalars[slot] = value.detach().reshape(1).to(torch.float64, copy=True)
        elif isinstance(value, int | float):
            moment.scalars[slot] = torch.tensor([value], dtype=torch.float64)
    return moment


def consumed(gradient: Tensor, scale: Tensor | None, where: Where) -> Tensor:
    """Return the gradient as a fused kernel consumes it: divided by the loss scale, in float32 if it is a half."""
    picked = pick(gradient, where)
    if scale is None:
        return picked
    wide = picked.float() if picked.dtype in (torch.float16, torch.bfloat16) else picked
    return wide / scale.to(wide.device)


def norm(gradients: list[Tensor], scale: Tensor | None) -> Tensor:
    """Return the Euclidean norm over all gradients, accumulated in float64, on their device (nothing waits for it)."""
    if not gradients:
        return torch.zeros((), dtype=torch.float64)
    device = gradients[0].device
    parts: list[Tensor] = [torch.linalg.vector_norm(g.detach(), dtype=torch.float64).to(device) for g in gradients]
    total = torch.stack(parts).square().sum().sqrt()
    return total if scale is None else total / scale.to(device)
