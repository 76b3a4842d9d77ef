"""Finds where two ranks, which should hold the same, recorded different values of the same steps. NumPy only."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosscheck.arrays import Bits
from crosscheck.checks.judging.bits import differ
from crosscheck.trace.format import GRAD, Option
from crosscheck.trace.tensors import Quantity, TensorBlock, all_quantities

_Rows = NDArray[np.int64]


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
    """Of the tensor."""
    step: int
    index: tuple[int, ...] | None = None
    values: tuple[float, float] | None = None
    """Of the element, on the first rank and on the other; None where no element shows it."""
    lacking: Literal["", "first", "other"] = ""
    """Which of the two ranks has no such quantity at this step, although the other one has it."""
    elements: Mapping[int, int]
    """By step."""
    ahead: int = 0
    """1 if what the other rank has at this step is, in all elements, what the first one has at the next;
    -1 the other way round."""


class Attempt(NamedTuple):
    """What a rank recorded of a step besides its tensors."""

    applied: bool
    options: Sequence[Mapping[str, Option]]  # by group
    groups: Mapping[str, int]  # by name of the tensor

    def options_of(self, tensor: str) -> Mapping[str, Option]:
        """Return the options of a tensor's group; none if the group came after the step."""
        group = self.groups[tensor]
        return self.options[group] if group < len(self.options) else {}


def of_attempts(step: int, first: Attempt, other: Attempt) -> Iterator[Difference]:
    """Yield in what the two ranks' attempts at a step differ. Groups may be split or ordered differently on the two ranks."""
    if first.applied != other.applied:
        yield Difference(
            moment=Moment.APPLIED, slot="step", tensor="all tensors", number=0, step=step, elements={step: 1}
        )
    known: dict[tuple[int, int], list[str]] = {}  # by the tensor's groups: the options that differ
    for number, tensor in enumerate(first.groups):
        if tensor not in other.groups:
            continue
        ours, theirs = first.options_of(tensor), other.options_of(tensor)
        pair = first.groups[tensor], other.groups[tensor]
        if pair not in known:
            known[pair] = [name for name in sorted(ours.keys() & theirs.keys()) if _unequal(ours[name], theirs[name])]
        for name in known[pair]:
            a, b = ours[name], theirs[name]
            yield Difference(
                moment=Moment.OPTIONS,
                slot=name,
                tensor=tensor,
                number=number,
                step=step,
                values=(float(a), float(b)) if isinstance(a, int | float) and isinstance(b, int | float) else None,
                elements={step: 1},
            )


def _unequal(a: Option, b: Option) -> bool:
    return a != b and (a == a or b == b)  # NaN is no difference


class Pair:
    """Two blocks of a tensor, and which rows and columns of them are the same steps and elements."""

    def __init__(self, first: TensorBlock, other: TensorBlock) -> None:
        self._blocks = first, other
        steps = ([step.step for step in block.steps] for block in (first, other))
        self.steps, *self._rows = np.intersect1d(*steps, assume_unique=True, return_indices=True)
        """The steps that both have, and the rows that these are in."""
        # The positions that both have, and the columns that they are in.
        self._positions, *self._columns = np.intersect1d(first.coordinates, other.coordinates, return_indices=True)

    @property
    def has_evidence(self) -> bool:
        """Return whether anything on record could show that the two differ: elements or digests that both have of a step."""
        if not len(self.steps) or len(self._positions):
            return len(self.steps) > 0
        ours, theirs = map(all_quantities, self._blocks)
        return any(
            self._same_digests(ours[name], theirs[name], moment).any()
            for name in ours.keys() & theirs.keys()
            for moment in (0, 1)
        )

    def differences(self) -> Iterator[Difference]:
        """Yield in what the two differ, in the rows and the elements that both have."""
        first, other = self._blocks
        for found in self._compare(Moment.GRADIENT, GRAD, (first.grad, other.grad), (first.has_grad, other.has_grad)):
            yield replace(found, ahead=self._gradients_ahead(found.step))
        ours, theirs = all_quantities(first), all_quantities(other)
        # A slot that one of them lacks everywhere appears in a later row, or never.
        for name in sorted(ours.keys() & theirs.keys()):
            a, b = ours[name], theirs[name]
            befores, afters = (a.before, b.before), (a.after, b.after)
            there = (a.there_before, b.there_before), (a.there_after, b.there_after)
            yield from self._compare(Moment.BEFORE, name, befores, there[0], self._digests_differ(a, b, 0))
            yield from self._compare(Moment.AFTER, name, afters, there[1], self._digests_differ(a, b, 1))

    def _same_digests(self, a: Quantity, b: Quantity, moment: int) -> Bits:
        """Return for each row whether both have a digest of the same elements before (0) or after (1) the step."""
        if a.digests is None or b.digests is None or a.held is None or b.held is None:
            return np.zeros(len(self.steps), np.bool_)
        ours, theirs = a.held[self._rows[0] + moment], b.held[self._rows[1] + moment]
        return np.all(ours == theirs, axis=1) & (ours[:, 0] < ours[:, 1])

    def _digests_differ(self, a: Quantity, b: Quantity, moment: int) -> Bits:
        """Return for each row whether the digests of the same elements differ before (0) or after (1) the step."""
        same = self._same_digests(a, b, moment)
        if a.digests is None or b.digests is None or not same.any():
            return same
        ours, theirs = self._rows
        return same & (a.digests[ours, moment] != b.digests[theirs, moment])

    def _gradients_ahead(self, step: int) -> int:
        """Return whether the other rank has the gradient of a step later (1), earlier (-1),
        or neither (0): `Difference.ahead`.
        """
        at = int(np.searchsorted(self.steps, step))
        if at + 1 == len(self.steps) or self.steps[at + 1] != step + 1:
            return 0
        gradients = [block.grad[rows[[at, at + 1]]] for block, rows in zip(self._blocks, self._rows, strict=True)]
        ours, theirs = (grads[:, columns] for grads, columns in zip(gradients, self._columns, strict=True))
        for ahead, now, later in ((1, theirs[0], ours[1]), (-1, ours[0], theirs[1])):
            if now.any() and not differ(now, later).any():
                return ahead
        return 0

    def _compare(
        self,
        moment: Moment,
        slot: str,
        values: tuple[NDArray[Any], NDArray[Any]],
        there: tuple[Bits, Bits],
        digests: Bits | None = None,
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
        row = int(rows[0])
        column = int(np.argmax(bits[row])) if bits[row].any() else None  # None: no element shows it
        first = self._blocks[0]
        yield Difference(
            moment=moment,
            slot=slot,
            tensor=first.info.name,
            number=first.number,
            step=int(self.steps[row]),
            index=None
            if column is None or scalar
            else tuple(map(int, np.unravel_index(int(self._positions[column]), first.info.shape))),
            values=None if column is None else (float(a[row, column]), float(b[row, column])),
            lacking="" if is_there[row] == too[row] else "other" if is_there[row] else "first",
            elements={int(self.steps[k]): int(counts[k]) for k in rows},
        )
