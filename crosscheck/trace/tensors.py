"""From the arrays of a trace to tensors with all their rows at hand. NumPy only."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscheck.errors import TraceError
from crosscheck.trace.format import Block, Option, SlotRows, Step, TensorInfo, TensorRows
from crosscheck.trace.reader import LoadedPart

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Quantity:
    """A parameter or a slot over the rows of a block. Values are as stored; where there are none, they are zero."""

    before: NDArray[Any]  # (rows, columns)
    after: NDArray[Any]
    there_before: NDArray[np.bool_]  # (rows,)
    there_after: NDArray[np.bool_]
    changed: NDArray[np.bool_]  # (rows,) stored anew before the step: it is not what the row before left


@dataclass(slots=True)
class TensorBlock:
    """One tensor's rows of a block, every array at hand."""

    info: TensorInfo
    number: int
    full: bool
    steps: list[Step]
    options: list[dict[str, Option]]  # of the tensor's group, by row, complete
    coordinates: NDArray[np.int64]  # (columns,) positions in C order
    grad: NDArray[Any]  # (rows, columns) as consumed; zero where there is none
    has_grad: NDArray[np.bool_]
    backward: NDArray[Any]  # (rows, columns) as backward left them
    has_backward: NDArray[np.bool_]
    param: Quantity
    context: dict[str, Floats]  # by row, what the formula does not read but a mistake may: loss_scale, last_lr
    slots: dict[str, Quantity] = field(default_factory=dict[str, Quantity])
    extras: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])  # the same, elementwise

    def position(self, column: int) -> tuple[int, ...]:
        """Return the index of the tensor's element that a column holds."""
        return tuple(map(int, np.unravel_index(int(self.coordinates[column]), self.info.shape)))


def complete_options(steps: tuple[Step, ...]) -> list[list[dict[str, Option]]]:
    """Return the options by step and group; those that a step leaves out are taken over from the step before."""
    complete: list[list[dict[str, Option]]] = []
    for step in steps:
        last = complete[-1] if complete else []
        complete.append([{**(last[k] if k < len(last) else {}), **changed} for k, changed in enumerate(step.options)])
    return complete


def tensor_blocks(part: LoadedPart, options: list[list[dict[str, Option]]]) -> Iterator[TensorBlock]:
    """Load every tensor of every block, one at a time, with its part's `complete_options`. Raises TraceError."""
    position = {step.step: k for k, step in enumerate(part.meta.steps)}
    for number, block in enumerate(part.meta.blocks):
        picked = [position[step] for step in block.steps]
        for entry in block.tensors:
            info = part.meta.tensors[entry.tensor]
            yield _load(
                part,
                number,
                block,
                entry,
                [part.meta.steps[k] for k in picked],
                [options[k][info.group] for k in picked],
                {
                    "loss_scale": np.array([part.meta.steps[k].loss_scale or 1.0 for k in picked]),
                    "last_lr": np.array([_lr(options[max(k - 1, 0)][info.group]) for k in picked]),
                },
            )


def _lr(options: dict[str, Option]) -> float:
    lr = options.get("lr")
    return float(lr) if isinstance(lr, int | float) else 0.0


def _load(
    part: LoadedPart,
    number: int,
    block: Block,
    entry: TensorRows,
    steps: list[Step],
    options: list[dict[str, Option]],
    context: dict[str, Floats],
) -> TensorBlock:
    info, rows = part.meta.tensors[entry.tensor], len(block.steps)
    coordinates = part.coordinates(number, entry.tensor)
    if coordinates is None:
        # Whole. Before the record proves it, its size is but a claim, and nothing is allocated by it.
        part.expect(number, entry.tensor, "before", len(entry.before), info.numel)
        coordinates = np.arange(info.numel)
    columns = len(coordinates)
    has_grad = _mask(rows, entry.no_grad) ^ True
    wide = ("float32",) if info.dtype in ("float16", "bfloat16") else ()  # a half divided by the loss scale
    dtypes = (info.dtype, *wide)
    grad = np.zeros((rows, columns), np.float32)
    if has_grad.any():
        stored = _stored(part, number, entry.tensor, "grad", int(has_grad.sum()), columns, dtypes)
        grad = np.zeros((rows, columns), stored.dtype)
        grad[has_grad] = stored
    has_backward = has_grad & np.array([step.backward_norm is not None for step in steps])
    backward = grad
    if entry.backward:
        changed = _mask(rows, entry.backward)
        stored = _stored(part, number, entry.tensor, "backward", len(entry.backward), columns, dtypes)
        backward = grad.astype(np.promote_types(grad.dtype, stored.dtype))
        backward[changed] = stored
        has_backward |= changed
    loaded = TensorBlock(
        info=info,
        number=entry.tensor,
        full=block.full,
        steps=steps,
        options=options,
        coordinates=coordinates,
        grad=grad,
        has_grad=has_grad,
        backward=backward,
        has_backward=has_backward,
        context=context,
        param=_quantity(part, number, entry.tensor, "", SlotRows(before=entry.before), rows, columns, (info.dtype,)),
    )
    for slot, description in entry.slots.items():
        width = 1 if description.scalar else columns
        loaded.slots[slot] = _quantity(part, number, entry.tensor, f"{slot}.", description, rows, width)
    return loaded


def _quantity(
    part: LoadedPart,
    block: int,
    tensor: int,
    prefix: str,
    description: SlotRows,
    rows: int,
    columns: int,
    dtypes: tuple[str, ...] = (),
) -> Quantity:
    there_before, there_after = (
        _mask(rows, description.absent_before) ^ True,
        _mask(rows, description.absent_after) ^ True,
    )
    changed = _mask(rows, description.before)
    carried = there_before & ~changed
    if carried[0] or (carried[1:] & ~there_after[:-1]).any():
        name = prefix.rstrip(".") or "parameter"
        raise TraceError(
            f"{part.path}: {name} of {part.meta.tensors[tensor].name!r} has a row whose value before the step is neither stored "
            "nor left by the row before"
        )
    stored: dict[str, NDArray[Any]] = {}
    for moment, there in (("after", there_after), ("before", changed)):
        if there.any():
            array = _stored(part, block, tensor, f"{prefix}{moment}", int(there.sum()), columns, dtypes)
            stored[moment], dtypes = array, (array.dtype.name,)
    dtype = next((array.dtype for array in stored.values()), np.dtype(np.float32))
    after, before = np.zeros((rows, columns), dtype), np.zeros((rows, columns), dtype)
    after[there_after] = stored.get("after", 0)
    before[1:] = after[:-1]
    before[changed] = stored.get("before", 0)
    before[~there_before] = 0
    return Quantity(before, after, there_before, there_after, changed)


def _stored(
    part: LoadedPart, block: int, tensor: int, quantity: str, rows: int, columns: int, dtypes: tuple[str, ...]
) -> NDArray[Any]:
    """Load an array of floats and make all its NaNs the quiet one: NumPy warns whenever it converts a signalling one."""
    array = part.array(block, tensor, quantity, rows, columns, dtypes)
    with np.errstate(invalid="ignore"):
        array[np.isnan(array)] = np.nan
    return array


def _mask(rows: int, listed: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(rows, np.bool_)
    mask[list(listed)] = True
    return mask
