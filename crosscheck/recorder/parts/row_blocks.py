"""Gathers the rows of one sample step by step, and lays them out tensor by tensor for the trace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from crosscheck.recorder.parts.series import EMPTY, ChangedFormat, Series, by_tensor, unequal
from crosscheck.recorder.samples.digest_ranges import Quantity
from crosscheck.recorder.samples.digests import Digests
from crosscheck.recorder.samples.snapshot import Sample, Snapshot, Values
from crosscheck.trace.format import AVERAGE, DIGEST, PARAM, Block, SlotRows, TensorRows, key


@dataclass(slots=True)
class Row:
    """What is recorded of one step in the elements of one sample. It is filled in while the step goes on."""

    step: int
    sample: Sample
    average_before: Values | None = None  # the moving average, where there is one
    backward: Values | None = None  # the gradient as backward left it, where that was recorded
    grad: Values = field(init=False)  # as the optimizer consumed it
    before: Snapshot = field(init=False)
    after: Snapshot = field(init=False)
    average_after: Values | None = None

    @property
    def nbytes(self) -> int:
        gathered = (self.average_before, self.backward, self.grad, self.average_after)
        return sum(values.nbytes for values in gathered if values is not None) + self.before.nbytes + self.after.nbytes


class _Slot(NamedTuple):
    """The parameters, or a slot of the state, before and after the steps of a block, by number of the tensor."""

    name: str
    scalar: bool
    before: dict[int, Series]
    after: dict[int, Series]


@dataclass(slots=True)
class RowBlock:
    """The rows of one sample that a part of the trace gets."""

    sample: Sample
    rows: list[Row] = field(default_factory=list[Row])

    def lay_out(self, number: int, arrays: dict[str, Tensor]) -> Block:
        """Put the block's arrays into `arrays` and return its description; `number` is its position in the part.

        Raises ChangedFormat for state that changes its dtype.
        """
        layout = _Layout(self.sample, self.rows)
        tensors: list[TensorRows] = []
        for tensor in self.sample.columns:
            described, quantities = layout.tensor(tensor)
            tensors.append(described)
            arrays.update({key(number, tensor, quantity): values for quantity, values in quantities.items()})
        everywhere = len(layout.boundaries) in (0, len(self.rows) + 1)
        return Block(
            full=self.sample.full,
            steps=tuple(row.step for row in self.rows),
            tensors=tuple(tensors),
            held_at=None if everywhere else layout.boundaries,
        )


class _Layout:
    """The values of a block's rows, put together by quantity and tensor."""

    def __init__(self, sample: Sample, rows: Sequence[Row]) -> None:
        """Fetch from the device what is still there. Raises ChangedFormat for state that changes its dtype."""
        self._sample, self._rows = sample, rows
        # A half that a fused kernel divides by the loss scale is a float32; one that was unscaled before is still a half.
        self._grads = by_tensor(sample.columns, [row.grad for row in rows], widen=True)
        self._backwards = by_tensor(sample.columns, [row.backward for row in rows], widen=True)
        self._slots = _slots(sample, rows)
        self.boundaries = _boundaries(rows)
        """Between which rows digests were taken: k is before row k."""
        self._digests = _digest_tables(rows, self.boundaries)

    def tensor(self, tensor: int) -> tuple[TensorRows, dict[str, Tensor]]:
        """Return the description of one tensor's rows, and its arrays by quantity."""
        columns, full = self._sample.columns[tensor], self._sample.full
        arrays: dict[str, Tensor] = {}
        grad, backward = self._grads.get(tensor, EMPTY), self._backwards.get(tensor, EMPTY)
        backward = backward.at(unequal(backward, grad))
        if grad.rows:
            arrays["grad"] = grad.values
        if backward.rows:
            arrays["backward"] = backward.values
        if not (columns.whole or full):
            arrays["coordinates"] = columns.ascending.reshape(1, -1)
        slots = {
            slot.name: self._slot_rows(slot, tensor, arrays)
            for slot in self._slots
            if tensor in slot.before or tensor in slot.after
        }
        parameter = slots.pop(PARAM)
        described = TensorRows(
            tensor=tensor,
            range=None if columns.whole or not full else columns.bounds,
            no_grad=self._rows_without(grad),
            backward=tuple(backward.rows),
            before=parameter.before,
            slots=slots,
            held=parameter.held or (),
        )
        return described, arrays

    def _slot_rows(self, slot: _Slot, tensor: int, arrays: dict[str, Tensor]) -> SlotRows:
        """Put one tensor's arrays of a slot into `arrays` and return their description.

        What a step found is stored only where it is not what the step before left.
        """
        prefix = "" if slot.name == PARAM else f"{slot.name}."
        before, after = slot.before.get(tensor, EMPTY), slot.after.get(tensor, EMPTY)
        stored = before.at(unequal(before, after, shift=-1))
        digests, ranges = self._digests.get((tensor, slot.name)), self._sample.digest_ranges
        if stored.rows:
            arrays[f"{prefix}before"] = stored.values
        if after.rows:
            arrays[f"{prefix}after"] = after.values
        if digests is not None:
            arrays[f"{prefix}{DIGEST}"] = digests
        return SlotRows(
            scalar=slot.scalar,
            before=tuple(stored.rows),
            absent_before=self._rows_without(before),
            absent_after=self._rows_without(after),
            held=() if digests is None or ranges is None else (ranges.ranges[tensor, slot.name],),
        )

    def _rows_without(self, series: Series) -> tuple[int, ...]:
        return tuple(sorted(set(range(len(self._rows))).difference(series.rows)))


def _slots(sample: Sample, rows: Sequence[Row]) -> list[_Slot]:
    """Return the parameters, the state and the moving average of all rows; state of one number a tensor comes last.

    Raises ChangedFormat for a slot that changes its dtype.
    """
    befores = [_by_slot(row.before, row.average_before) for row in rows]
    afters = [_by_slot(row.after, row.average_after) for row in rows]
    slots: list[_Slot] = []
    for kind, scalar in enumerate((False, True)):
        columns = None if scalar else sample.columns
        names = dict.fromkeys(name for found in (*befores, *afters) for name in found[kind])
        for name in names:
            try:
                before, after = (
                    by_tensor(columns, [found[kind].get(name) for found in side]) for side in (befores, afters)
                )
            except ChangedFormat as error:
                error.slot, error.step = name, rows[error.row].step
                raise
            slots.append(_Slot(name, scalar, before, after))
    return slots


def _by_slot(snapshot: Snapshot, average: Values | None) -> tuple[Mapping[str, Values], Mapping[str, Values]]:
    elementwise, scalars = snapshot.by_slot()
    return (elementwise if average is None else elementwise | {AVERAGE: average}), scalars


def _boundaries(rows: Sequence[Row]) -> tuple[int, ...]:
    """Return between which rows digests were taken, on both sides where there is a row on both."""
    left = [True, *(row.after.digests is not None for row in rows)]
    found = [*(row.before.digests is not None for row in rows), True]
    return tuple(k for k in range(len(rows) + 1) if left[k] and found[k])


def _digest_tables(rows: Sequence[Row], boundaries: Sequence[int]) -> dict[Quantity, Tensor]:
    """Return the digests before and after each row, (rows, 2) of each quantity; they are fetched from the device at once."""
    groups: dict[int, list[tuple[int, int, Digests]]] = {}  # digests of the same quantities, with row and column
    for k, row in enumerate(rows):
        for column, digests in enumerate((row.before.digests, row.after.digests)):
            if digests is not None and k + column in boundaries:
                groups.setdefault(id(digests.quantities), []).append((k, column, digests))
    tables: dict[Quantity, Tensor] = {}
    for members in groups.values():
        fetched = torch.stack([each.values for *_, each in members]).cpu()
        places = torch.tensor([(row, column) for row, column, _ in members], device="cpu").unbind(1)
        for quantity, values in zip(members[0][2].quantities, fetched.unbind(1), strict=True):
            table = tables.setdefault(quantity, torch.zeros(len(rows), 2, dtype=torch.int64, device="cpu"))
            table[places] = values
    return tables
