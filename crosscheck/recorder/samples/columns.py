"""Chooses the elements of a tensor that are recorded, and makes views of them, which cost no copy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

_GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it, modulo 1, spread over the unit interval as evenly as any sequence: no region waits long for its turn."""


class Run(NamedTuple):
    """Elements at equal distances, in the order in which they lie in memory."""

    start: int
    step: int
    size: int


@dataclass(frozen=True)
class Columns:
    """The chosen elements of one parameter, of its gradient and of its state."""

    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    """How a parameter lies in memory that is dense but in another order than C's (channels last); None: in C order."""
    runs: tuple[Run, ...]

    @property
    def count(self) -> int:
        return sum(run.size for run in self.runs)

    @property
    def whole(self) -> bool:
        return self.count == math.prod(self.shape)

    @cached_property
    def positions(self) -> Tensor:
        """Return where the elements stand in C order, in the order of the views."""
        in_memory = torch.cat([torch.arange(run.size, device="cpu") * run.step + run.start for run in self.runs])
        if self.strides is None:
            return in_memory
        order = self._axes
        indices = torch.unravel_index(in_memory, [self.shape[axis] for axis in order])
        in_c_order, stride = torch.zeros_like(in_memory), 1
        for axis in reversed(range(len(self.shape))):
            in_c_order += indices[order.index(axis)] * stride
            stride *= self.shape[axis]
        return in_c_order

    @property
    def _axes(self) -> list[int]:
        """Return the axes as they lie in memory, the one with the largest steps first."""
        return sorted(range(len(self.shape)), key=lambda axis: -self.strides[axis] if self.strides else 0)

    @cached_property
    def _order(self) -> Tensor | None:
        """Return the order of the columns in which their positions ascend; None if they do already."""
        order = self.positions.argsort()
        return None if bool((order.diff() == 1).all()) else order

    @property
    def ascending(self) -> Tensor:
        """Return the positions in ascending order."""
        return self.positions if self._order is None else self.positions[self._order]

    def sort(self, values: Tensor) -> Tensor:
        """Return rows of values, which are in the order of the views, in ascending order of their positions."""
        if self.strides is None and len(self.runs) == 1:
            return values
        if self.whole:
            axes = self._axes
            as_they_lie = values.reshape(len(values), *(self.shape[axis] for axis in axes))
            return as_they_lie.permute(0, *(1 + axes.index(axis) for axis in range(len(axes)))).reshape(len(values), -1)
        return values if self._order is None else values[:, self._order]

    @property
    def bounds(self) -> tuple[int, int]:
        """Return the first of elements in a row, and the one after the last."""
        return self.runs[0].start, self.runs[0].start + self.runs[0].size

    def views(self, tensor: Tensor) -> tuple[list[Tensor], bool]:
        """Return the chosen elements as vectors, and whether these are views: of a tensor that lies otherwise they are copies."""
        if tensor.is_contiguous() if self.strides is None else tensor.stride() == self.strides:
            offset = tensor.storage_offset()
            return [torch.as_strided(tensor, (run.size,), (run.step,), offset + run.start) for run in self.runs], True
        return [torch.take(tensor, self.positions.to(tensor.device))], False


def whole(parameter: Tensor) -> Columns:
    """Return all elements of a parameter."""
    return Columns(tuple(parameter.shape), _dense_strides(parameter), (Run(0, 1, parameter.numel()),))


def block(parameter: Tensor, count: int, turn: int) -> Columns:
    """Return `count` elements in a row, in C order, or the rest of the last row; with each turn the next ones."""
    numel = parameter.numel()
    if count >= numel:
        return whole(parameter)
    start = turn % -(-numel // count) * count
    return Columns(tuple(parameter.shape), None, (Run(start, 1, min(count, numel - start)),))


def spread(parameter: Tensor, count: int, turn: int | None) -> Columns:
    """Return about `count` elements spread over the parameter: half of them the same at every turn, so that turns can be joined,
    and half moving on with it. All are the same if there is no turn. If it would be more than half of all, it is all.
    """
    numel = parameter.numel()
    if count >= numel or (turn is not None and 2 * count > numel):
        return whole(parameter)
    fixed = count if turn is None else -(-count // 2)
    step = _without_common_factor(numel // fixed, numel)
    start = (numel - 1 - (fixed - 1) * step) // 2
    runs = [Run(start, step, fixed)]
    if turn is not None and count > fixed:
        moving = (start + 1 + int(turn * _GOLDEN % 1 * (step - 1))) % step  # between one of the fixed ones and the next
        runs.append(Run(moving, step, min(count - fixed, -(-(numel - moving) // step))))
    return Columns(tuple(parameter.shape), _dense_strides(parameter), tuple(runs))


def level(sizes: Sequence[int], total: int) -> int:
    """Return how much to take of each tensor, at most, so that it comes to `total` in sum, or to less.

    Tensors up to this size are taken whole, and larger ones share equally what these leave. It is at least 1.
    """
    left = total
    for position, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - position)
        if size > share:
            return max(share, 1)
        left -= size
    return max(sizes, default=1)


def _dense_strides(tensor: Tensor) -> tuple[int, ...] | None:
    """Return the strides of a dense tensor that does not lie in C order; None of one that does, or that has gaps."""
    strides, expected = tensor.stride(), 1
    if tensor.is_contiguous():
        return None
    for axis in sorted(range(tensor.ndim), key=lambda axis: strides[axis]):
        if strides[axis] != expected or tensor.shape[axis] == 1:
            return None
        expected *= tensor.shape[axis]
    return tuple(strides)


def _without_common_factor(step: int, numel: int) -> int:
    """Return a number up to `step` that has no common factor with the size, if one is near: it passes through all rows and
    columns.
    """
    return next((near for near in range(step, step // 2, -1) if math.gcd(near, numel) == 1), step)
