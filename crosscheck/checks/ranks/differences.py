"""Finds where two ranks, which should hold the same, recorded different values of the same steps. NumPy only."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosscheck.checks.judging.bits import differ
from crosscheck.trace.format import GRAD, Option
from crosscheck.trace.tensors import Quantity, TensorBlock, all_quantities

_Rows = NDArray[np.int64]
_Bits = NDArray[np.bool_]


class Moment(IntEnum):
    """When in a step something differs, in the order in which one leads to the next."""

    BEFORE = 0
    GRADIENT = 1
    APPLIED = 2
    OPTIONS = 3
    AFTER = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One quantity that differs in some rows: the first of them, and how many elements do at each step."""

    moment: Moment
    slot: str
    tensor: str
    number: int
    """Of the tensor, or of the group whose option it is."""
    step: int
    index: tuple[int, ...] | None = None
    values: tuple[float, float] | None = None
    """Of the element, on the first rank and on the other; None where no element shows it."""
    elements: Mapping[int, int]
    """By step."""
    ahead: int = 0
    """1 if what the other rank has at this step is, in all elements, what the first one has at the next; -1 the other way round."""


class Attempt(NamedTuple):
    """What a rank recorded of a step besides its tensors."""

    applied: bool
    options: Sequence[Mapping[str, Option]]  # by group


def of_attempts(step: int, first: Attempt, other: Attempt) -> Iterator[Difference]:
    """Yield in what the two ranks' attempts at a step differ."""
    if first.applied != other.applied:
        yield Difference(
            moment=Moment.APPLIED, slot="step", tensor="all tensors", number=0, step=step, elements={step: 1}
        )
    for group, (ours, theirs) in enumerate(zip(first.options, other.options, strict=False)):
        for name in sorted(ours.keys() & theirs.keys()):
            a, b = ours[name], theirs[name]
            if a != b and (a == a or b == b):  # NaN is no difference
                yield Difference(
                    moment=Moment.OPTIONS,
                    slot=name,
                    tensor=f"group {group}",
                    number=group,
                    step=step,
                    values=(float(a), float(b)) if isinstance(a, int | float) and isinstance(b, int | float) else None,
                    elements={step: 1},
                )


def common_steps(first: TensorBlock, other: TensorBlock) -> tuple[_Rows, _Rows, _Rows]:
    """Return the steps that both blocks have, and the rows that they are in."""
    steps = ([step.step for step in block.steps] for block in (first, other))
    return np.intersect1d(*steps, assume_unique=True, return_indices=True)


def of_blocks(first: TensorBlock, other: TensorBlock) -> Iterator[Difference]:
    """Yield in what two blocks of a tensor differ, in the rows and the elements that both have."""
    pair = _Pair(first, other)
    for found in pair.compare(Moment.GRADIENT, GRAD, (first.grad, other.grad), (first.has_grad, other.has_grad)):
        yield replace(found, ahead=pair.gradients_ahead(found.step))
    ours, theirs = all_quantities(first), all_quantities(other)
    for name in sorted(ours.keys() & theirs.keys()):  # one that is absent everywhere appears in a later row, or never
        a, b = ours[name], theirs[name]
        befores, afters = (a.before, b.before), (a.after, b.after)
        there = (a.there_before, b.there_before), (a.there_after, b.there_after)
        yield from pair.compare(Moment.BEFORE, name, befores, there[0], pair.digests_differ(a, b, 0))
        yield from pair.compare(Moment.AFTER, name, afters, there[1], pair.digests_differ(a, b, 1))


class _Pair:
    """Two blocks of a tensor, and which rows and columns of them are the same steps and elements."""

    def __init__(self, first: TensorBlock, other: TensorBlock) -> None:
        self._blocks = first, other
        self._steps, *self._rows = common_steps(first, other)
        # The positions that both have, and the columns that they are in.
        self._positions, *self._columns = np.intersect1d(first.coordinates, other.coordinates, return_indices=True)

    def digests_differ(self, a: Quantity, b: Quantity, moment: int) -> _Bits:
        """Return for each row whether the digests of the same elements differ before (0) or after (1) the step."""
        if a.digests is None or b.digests is None or a.held is None or b.held is None:
            return np.zeros(len(self._steps), np.bool_)
        ours, theirs = self._rows
        alike = np.all(a.held[ours + moment] == b.held[theirs + moment], axis=1)
        return alike & (a.digests[ours, moment] != b.digests[theirs, moment])

    def gradients_ahead(self, step: int) -> int:
        """Return whether the other rank has the gradient of a step later (1), earlier (-1), or neither (0): `Difference.ahead`."""
        at = int(np.searchsorted(self._steps, step))
        if at + 1 == len(self._steps) or self._steps[at + 1] != step + 1:
            return 0
        gradients = [block.grad[rows[[at, at + 1]]] for block, rows in zip(self._blocks, self._rows, strict=True)]
        ours, theirs = (grads[:, columns] for grads, columns in zip(gradients, self._columns, strict=True))
        for ahead, now, later in ((1, theirs[0], ours[1]), (-1, ours[0], theirs[1])):
            if now.any() and not differ(now, later).any():
                return ahead
        return 0

    def compare(
        self,
        moment: Moment,
        slot: str,
        values: tuple[NDArray[Any], NDArray[Any]],
        there: tuple[_Bits, _Bits],
        digests: _Bits | None = None,
    ) -> Iterator[Difference]:
        """Yield the difference of a quantity, if there is one. `there`: the rows that have it; `digests`: those whose differ."""
        scalar = any(v.shape[1] != len(b.coordinates) for v, b in zip(values, self._blocks, strict=True))
        columns = [slice(None), slice(None)] if scalar else self._columns
        a, b = (v[rows][:, chosen] for v, rows, chosen in zip(values, self._rows, columns, strict=True))
        if a.shape != b.shape:
            return
        is_there, too = (mask[rows] for mask, rows in zip(there, self._rows, strict=True))
        bits = differ(a, b) & (is_there & too)[:, None]
        counts = bits.sum(axis=1) + (is_there != too)
        if digests is not None:
            counts += digests & is_there & too & (counts == 0)
        rows = np.flatnonzero(counts)
        if not len(rows):
            return
        row, column = int(rows[0]), int(np.argmax(bits[rows[0]]))
        shows = bool(bits[row, column])
        first = self._blocks[0]
        yield Difference(
            moment=moment,
            slot=slot,
            tensor=first.info.name,
            number=first.number,
            step=int(self._steps[row]),
            index=tuple(map(int, np.unravel_index(int(self._positions[column]), first.info.shape)))
            if shows and not scalar
            else None,
            values=(float(a[row, column]), float(b[row, column])) if shows else None,
            elements={int(self._steps[k]): int(counts[k]) for k in rows},
        )
