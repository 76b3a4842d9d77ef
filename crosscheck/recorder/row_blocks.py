"""Rows of one tensor, gathered step by step and laid out as the trace wants them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from crosscheck.recorder.capture import Moment
from crosscheck.recorder.digests import NOTHING, Named, Range, Sight
from crosscheck.trace.format import DIGEST, PARAM, Block, SlotRows, TensorRows, key


@dataclass(slots=True)
class _Row:
    grad: Tensor | None
    backward: Tensor | None
    before: Moment
    after: Moment


@dataclass(slots=True)
class RowBlock:
    """A block in the making: the same tensors, or a single step of all elements."""

    full: bool
    steps: list[int] = field(default_factory=list[int])
    rows: dict[int, list[_Row]] = field(default_factory=dict[int, list[_Row]])
    sights: list[tuple[Sight, Sight]] = field(default_factory=list[tuple[Sight, Sight]])  # before and after each step
    num_bytes: int = 0

    def add(self, tensor: int, grad: Tensor | None, backward: Tensor | None, before: Moment, after: Moment) -> None:
        self.rows.setdefault(tensor, []).append(_Row(grad, backward, before, after))
        moments = [t for moment in (before, after) for t in (moment.parameter, *moment.slots.values())]
        self.num_bytes += sum(t.nbytes for t in (*moments, grad, backward) if t is not None)

    def lay_out(self, number: int, coordinates: Sequence[Tensor | None], arrays: dict[str, Tensor]) -> Block:
        """Put the block's arrays into `arrays` and return its description; `number` is its position in the part."""
        tensors: list[TensorRows] = []
        digests = _on_host(self.sights)
        for tensor, rows in self.rows.items():
            grads = [row.grad for row in rows if row.grad is not None]
            if grads:
                arrays[key(number, tensor, "grad")] = _stack(grads)
            backward = _unlike([row.backward for row in rows], [row.grad for row in rows])
            if backward:
                arrays[key(number, tensor, "backward")] = _stack([rows[r].backward for r in backward])
            where = coordinates[tensor]
            if where is not None and not self.full:
                arrays[key(number, tensor, "coordinates")] = where.cpu().reshape(1, -1)
            before = _values(
                arrays,
                key(number, tensor, ""),
                [row.before.parameter for row in rows],
                [row.after.parameter for row in rows],
            )
            slots: dict[str, SlotRows] = {}
            moments = [moment for row in rows for moment in (row.before, row.after)]
            names = dict.fromkeys(slot for moment in moments for slot in (*moment.slots, *moment.scalars))
            for slot in names:
                old, new = [row.before.get(slot) for row in rows], [row.after.get(slot) for row in rows]
                slots[slot] = SlotRows(
                    scalar=any(slot in moment.scalars for moment in moments),
                    before=_values(arrays, key(number, tensor, f"{slot}."), old, new),
                    absent_before=tuple(r for r, value in enumerate(old) if value is None),
                    absent_after=tuple(r for r, value in enumerate(new) if value is None),
                )
            held = _held(self.sights, tensor)
            for name in (PARAM, *(slot for slot, its in slots.items() if not its.scalar)) if held else ():
                quantity = DIGEST if name == PARAM else f"{name}.{DIGEST}"
                pairs = [[moment.get((tensor, name), 0) for moment in step] for step in digests]
                arrays[key(number, tensor, quantity)] = torch.tensor(pairs, dtype=torch.int64)
            no_grad = tuple(r for r, row in enumerate(rows) if row.grad is None)
            tensors.append(
                TensorRows(tensor=tensor, no_grad=no_grad, backward=backward, before=before, slots=slots, held=held)
            )
        return Block(full=self.full, steps=tuple(self.steps), tensors=tuple(tensors))


def _on_host(sights: Sequence[tuple[Sight, Sight]]) -> list[tuple[dict[Named, int], dict[Named, int]]]:
    """Return the digests of all moments by what they are of; they are fetched from the device at once."""
    if not sights:
        return []
    moments = [moment for step in sights for moment in step]
    each = iter(cast(list[int], torch.cat([moment.digests for moment in moments]).tolist()))
    named = [{name: next(each) for name in moment.names} for moment in moments]
    return list(zip(named[::2], named[1::2], strict=True))


def _held(sights: Sequence[tuple[Sight, Sight]], tensor: int) -> tuple[Range, ...]:
    """Return what is held of a tensor before each step and after the last, as a trace has it; empty if nothing ever is."""
    ranges = [before.ranges.get(tensor, NOTHING) for before, _ in sights]
    ranges += [after.ranges.get(tensor, NOTHING) for _, after in sights[-1:]]
    different = set(ranges)
    return () if not different - {NOTHING} else tuple(different) if len(different) == 1 else tuple(ranges)


def _unlike(values: Sequence[Tensor | None], others: Sequence[Tensor | None]) -> tuple[int, ...]:
    """Return the rows whose value is there and is not, bit for bit, the other one."""
    there = [row for row, value in enumerate(values) if value is not None]
    both = [row for row in there if others[row] is not None]
    unlike = set(there) - set(both)
    if both:
        same = _bitwise_equal(_stack([values[row] for row in both]), _stack([others[row] for row in both]))
        unlike |= {row for k, row in enumerate(both) if not same[k]}
    return tuple(sorted(unlike))


def _values(
    arrays: dict[str, Tensor], prefix: str, old: Sequence[Tensor | None], new: Sequence[Tensor | None]
) -> tuple[int, ...]:
    """Put the values after each row into `arrays`, and those before it where they are not what the row before left.

    Returns the rows of the latter.
    """
    stored = _unlike(old, [None, *new[:-1]])
    if stored:
        arrays[f"{prefix}before"] = _stack([old[row] for row in stored])
    if any(value is not None for value in new):
        arrays[f"{prefix}after"] = _stack(new)
    return stored


def _stack(values: Iterable[Tensor | None]) -> Tensor:
    return torch.stack([value for value in values if value is not None]).cpu()


def _bitwise_equal(a: Tensor, b: Tensor) -> Tensor:
    """Compare row by row and bit for bit: NaN equals itself, and 0 differs from -0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return torch.zeros(len(a), dtype=torch.bool)
    return (a.view(torch.uint8) == b.view(torch.uint8)).all(dim=1)
