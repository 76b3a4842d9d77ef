"""Makes tensors, with all their rows at hand, of the arrays of a trace. NumPy only."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscheck.arrays import Floats
from crosscheck.errors import TraceError
from crosscheck.trace.format import DIGEST, PARAM, Option, Ranges, SlotRows, Step, TensorInfo, TensorRows, as_float
from crosscheck.trace.reader import LoadedPart

_SMALL = 2**26  # bytes


@dataclass(slots=True)
class Quantity:
    """A parameter or a slot over the rows of a block. Values are as stored; where there are none, they are zero."""

    before: NDArray[Any]  # (rows, columns)
    after: NDArray[Any]
    there_before: NDArray[np.bool_]  # (rows,)
    there_after: NDArray[np.bool_]
    changed: NDArray[np.bool_]  # (rows,) stored anew before the step: it is not what the row before left
    digests: NDArray[np.int64] | None = None  # (rows, 2) before and after the step, of the elements that are held
    # (rows + 1, 2) from which element up to which there are digests before each row, and after the last.
    held: NDArray[np.int64] | None = None


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

    @property
    def applied(self) -> NDArray[np.bool_]:
        """Return for each row whether its step was applied, (rows,)."""
        return np.array([step.applied for step in self.steps], np.bool_)

    def position(self, column: int) -> tuple[int, ...]:
        """Return the index of the tensor's element that a column holds."""
        return tuple(map(int, np.unravel_index(int(self.coordinates[column]), self.info.shape)))


def all_quantities(block: TensorBlock) -> dict[str, Quantity]:
    """Return the parameter, under the name `param`, and every slot."""
    return {PARAM: block.param, **block.slots}


def complete_options(steps: tuple[Step, ...]) -> list[list[dict[str, Option]]]:
    """Return the options by step and group; those that a step leaves out are taken over from the step before.

    Steps between which nothing changed share one dictionary.
    """
    complete: list[list[dict[str, Option]]] = []
    for step in steps:
        last = complete[-1] if complete else []
        known = [last[k] if k < len(last) else {} for k in range(len(step.options))]
        complete.append([{**old, **new} if new else old for old, new in zip(known, step.options, strict=True)])
    return complete


def tensor_blocks(part: LoadedPart, options: list[list[dict[str, Option]]]) -> Iterator[TensorBlock]:
    """Load every tensor of every block, one at a time, with its part's `complete_options`. Raises TraceError."""
    position = {step.step: k for k, step in enumerate(part.meta.steps)}
    for number, block in enumerate(part.meta.blocks):
        picked = [position[step] for step in block.steps]
        for entry in block.tensors:
            yield _load(_Arrays(part, number, entry.tensor, len(picked)), entry, picked, options)


@dataclass(frozen=True, slots=True)
class _Arrays:
    """The arrays of one tensor in one block of a part."""

    part: LoadedPart
    block: int
    tensor: int
    rows: int

    def load(self, quantity: str, rows: int, columns: int, dtypes: tuple[str, ...]) -> NDArray[Any]:
        """Load an array of floats and make all its NaNs the quiet one: NumPy warns whenever it converts a signalling one."""
        array = self.part.array(self.block, self.tensor, quantity, rows, columns, dtypes)
        with np.errstate(invalid="ignore"):
            array[np.isnan(array)] = np.nan
        return array

    def digests(self, prefix: str) -> NDArray[np.int64]:
        """Load the digests before and after each step."""
        return self.part.array(self.block, self.tensor, f"{prefix}{DIGEST}", self.rows, 2, ("int64",))

    def mask(self, listed: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return for each row whether it is listed."""
        mask = np.zeros(self.rows, np.bool_)
        mask[list(listed)] = True
        return mask


def _load(arrays: _Arrays, entry: TensorRows, picked: list[int], options: list[list[dict[str, Option]]]) -> TensorBlock:
    """Load a tensor. `picked`: where the steps of its rows stand among the part's."""
    part, info = arrays.part, arrays.part.meta.tensors[entry.tensor]
    steps = [part.meta.steps[k] for k in picked]
    coordinates = part.coordinates(arrays.block, entry.tensor)
    if coordinates is None:
        # Whole, or a range of it. Before the record proves it, its size is but a claim, and nothing is allocated by it.
        start, stop = entry.range or (0, info.numel)
        part.expect(arrays.block, entry.tensor, "before", len(entry.before), stop - start)
        coordinates = np.arange(start, stop)
    columns = len(coordinates)
    _expect_proportion(arrays, entry, columns)
    has_grad = ~arrays.mask(entry.no_grad)
    wide = ("float32",) if info.dtype in ("float16", "bfloat16") else ()  # a half divided by the loss scale
    dtypes = (info.dtype, *wide)
    grad = np.zeros((len(steps), columns), np.float32)
    if has_grad.any():
        grad = _in_rows(has_grad, arrays.load("grad", int(has_grad.sum()), columns, dtypes))
    has_backward = has_grad & np.array([step.backward_norm is not None for step in steps])
    backward = grad
    if entry.backward:
        changed = arrays.mask(entry.backward)
        stored = arrays.load("backward", len(entry.backward), columns, dtypes)
        backward = grad.astype(np.promote_types(grad.dtype, stored.dtype))
        backward[changed] = stored
        has_backward |= changed
    return TensorBlock(
        info=info,
        number=entry.tensor,
        full=part.meta.blocks[arrays.block].full,
        steps=steps,
        options=[options[k][info.group] for k in picked],
        coordinates=coordinates,
        grad=grad,
        has_grad=has_grad,
        backward=backward,
        has_backward=has_backward,
        context={
            "loss_scale": np.array([step.loss_scale or 1.0 for step in steps]),
            "last_lr": np.array([as_float(options[max(k - 1, 0)][info.group].get("lr")) or 0.0 for k in picked]),
        },
        param=_quantity(arrays, "", SlotRows(before=entry.before), columns, (info.dtype,), held=entry.held),
        slots={
            slot: _quantity(
                arrays,
                f"{slot}.",
                description,
                1 if description.scalar else columns,
                held=() if description.scalar else entry.held if description.held is None else description.held,
            )
            for slot, description in entry.slots.items()
        },
    )


def _expect_proportion(arrays: _Arrays, entry: TensorRows, columns: int) -> None:
    """Raises TraceError for rows that take much more memory than the part has bytes: nearly all of them would be empty."""
    slots = sum(not slot.scalar for slot in entry.slots.values())
    needed = arrays.rows * (2 * (columns * (slots + 2) + len(entry.slots))) * 8
    if needed > max(64 * arrays.part.nbytes, _SMALL):
        name = arrays.part.meta.tensors[entry.tensor].name
        raise TraceError(
            f"{arrays.part.path}: {arrays.rows} rows of {columns} elements in {len(entry.slots)} slots are described of "
            f"{name!r}, which the part does not nearly hold"
        )


def _in_rows(there: NDArray[np.bool_], stored: NDArray[Any]) -> NDArray[Any]:
    """Return an array whose rows that are there are `stored`, one after the other. The system gives no memory to the others."""
    if there.all():
        return stored
    values = np.zeros((len(there), stored.shape[1]), stored.dtype)
    values[there] = stored
    return values


def _quantity(
    arrays: _Arrays,
    prefix: str,
    description: SlotRows,
    columns: int,
    dtypes: tuple[str, ...] = (),
    *,
    held: Ranges,
) -> Quantity:
    there_before, there_after = ~arrays.mask(description.absent_before), ~arrays.mask(description.absent_after)
    changed = arrays.mask(description.before)
    carried = there_before & ~changed
    if carried[0] or (carried[1:] & ~there_after[:-1]).any():
        part, name = arrays.part, prefix.rstrip(".") or "parameter"
        raise TraceError(
            f"{part.path}: {name} of {part.meta.tensors[arrays.tensor].name!r} has a row whose value before the step is neither "
            "stored nor left by the row before"
        )
    stored: dict[str, NDArray[Any]] = {}
    for moment, there in (("after", there_after), ("before", changed)):
        if there.any():
            array = arrays.load(f"{prefix}{moment}", int(there.sum()), columns, dtypes)
            stored[moment], dtypes = array, (array.dtype.name,)
    nothing = np.zeros((0, columns), next((array.dtype for array in stored.values()), np.dtype(np.float32)))
    after = _in_rows(there_after, stored.get("after", nothing))
    before = _in_rows(changed, stored.get("before", nothing))
    rows = np.flatnonzero(carried)
    before[rows] = after[rows - 1]
    quantity = Quantity(before, after, there_before, there_after, changed)
    if held:
        quantity.digests = arrays.digests(prefix)
        quantity.held = np.zeros((arrays.rows + 1, 2), np.int64) + np.array(held, np.int64)
        looked = arrays.part.meta.blocks[arrays.block].held_at
        if looked is not None:
            quantity.held[np.setdiff1d(np.arange(arrays.rows + 1), looked)] = 0
    return quantity
