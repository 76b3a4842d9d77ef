"""Remembers what the last rows of each tensor left, from part to part and into the segment that goes on from there."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosscheck.checks.continuity.unsampled import Held, held_after
from crosscheck.checks.judging.bits import Values
from crosscheck.trace.format import Part
from crosscheck.trace.reader import Segment
from crosscheck.trace.tensors import Quantity, TensorBlock

Coordinates = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Left:
    """What a row of a tensor left behind."""

    step: int
    full: bool
    values: dict[str, Values | None]  # None: the slot was absent
    unwritten: dict[str, int]  # slots that a skipped step allocated, and which step
    name: str  # of the tensor
    coordinates: Coordinates
    held: Held | None  # by digests, of a sampled row

    def narrowed(self, coordinates: Coordinates) -> "Left":
        """Return what was left of some of the elements; a slot of one number a tensor stays."""
        columns = np.isin(self.coordinates, coordinates)
        values = {k: v if v is None or len(v) != len(columns) else v[columns] for k, v in self.values.items()}
        return replace(self, values=values, coordinates=self.coordinates[columns])

    def copied(self) -> "Left":
        """Return the same, which keeps no array of a part in memory and does not change any more."""
        values = {name: None if left is None else left.copy() for name, left in self.values.items()}
        return replace(self, values=values, unwritten=dict(self.unwritten))


def left_by(block: TensorBlock, row: int, quantities: dict[str, Quantity], unwritten: dict[str, int]) -> Left:
    """Return what a row left. `unwritten`: the slots that a skipped step allocated up to here, and which step."""
    values = {name: q.after[row] if q.there_after[row] else None for name, q in quantities.items()}
    held = held_after(block, quantities) if row == len(block.steps) - 1 and not block.full else None
    return Left(block.steps[row].step, block.full, values, unwritten, block.info.name, block.coordinates, held)


class LastRows:
    """Remembers of each tensor what its last sampled row left, and its last row of all elements."""

    def __init__(self, segments: Sequence[Segment], segment: Segment, earlier: Sequence["LastRows"]) -> None:
        """`segments`: all those of the run; `earlier`: what was remembered in those before this one."""
        self.first_step = segment.header.first_step
        self.last_step = self.first_step - 1
        """The last step of the parts so far."""
        self._samples_change = segment.samples_change
        self._joins = {later.header.first_step - 1 for later in segments[1:]}  # steps before a segment
        # By such a step: what it left of each tensor, if a part ends there, and if it is within a part.
        self._ends: dict[int, dict[int, list[Left]]] = {}
        self._within: dict[int, dict[int, list[Left]]] = {}
        self.may_have_been_repeated = False
        """Whether the step before the segment is on record, but a later start may have taken it again without committing it."""
        self._left = self._left_by_earlier(earlier)  # by number of the tensor; at first what an earlier segment left
        self._steps: dict[int, list[int]] = {}  # by tensor: its steps in this part, and the last one before the part
        self._full: set[tuple[int, int]] = set()  # the tensors and steps of this part that are in a full block
        self._whole: set[tuple[int, int]] = set()  # those of which all elements are there

    def _left_by_earlier(self, earlier: Sequence["LastRows"]) -> dict[int, list[Left]]:
        """Return what the step before the segment left of each tensor.

        Within a part the run was probably not saved on purpose. If a start after that may have taken the step again, where it may
        have come to other values, it is not known from which of the two the run went on.
        """
        ends: dict[int, list[Left]] = {}
        within: dict[int, list[Left]] = {}
        for before in earlier:
            if self.last_step in before._ends:
                ends, within = before._ends[self.last_step], {}
            elif self.last_step in before._within:
                within, self.may_have_been_repeated = before._within[self.last_step], False
            elif before.first_step <= self.last_step and within:
                within, self.may_have_been_repeated = {}, True
        return dict(within or ends)

    def add_part(self, part: Part) -> None:
        """Take in which rows the next part has."""
        self.end_part()
        last, self.last_step = self.last_step, part.steps[-1].step
        full = [(entry, block.steps[0]) for block in part.blocks if block.full for entry in block.tensors]
        self._full = {(entry.tensor, step) for entry, step in full}
        self._whole = {(entry.tensor, step) for entry, step in full if entry.range is None}
        steps: dict[int, set[int]] = defaultdict(set)
        for block in part.blocks:
            for entry in block.tensors:
                steps[entry.tensor].update(block.steps)
        for number, its in steps.items():
            before = self._steps.get(number, [self.first_step - 1])[-1]
            self._steps[number] = [before, *sorted(its)]
            if self._samples_change:  # a tensor that is not here may have moved all the same
                self._steps[number] = [last, *(step.step for step in part.steps)]

    def end_part(self) -> None:
        """Keep what the part left if a segment begins after it."""
        if self.last_step in self._joins:
            self._ends[self.last_step] = dict(self._left)

    def previous(self, block: TensorBlock, row: int) -> int:
        """Return the step of the row before, in whichever block it is."""
        steps = self._steps[block.number]
        return steps[bisect_left(steps, block.steps[row].step) - 1]

    def is_whole(self, block: TensorBlock, step: int) -> bool:
        """Return whether this part has all elements of the tensor at a step."""
        return (block.number, step) in self._whole

    def before(self, block: TensorBlock) -> list[Left]:
        """Return all that is on record of what the step before the first row left of the tensor."""
        previous, name = self.previous(block, 0), block.info.name
        return [left for left in self._left.get(block.number, ()) if left.step == previous and left.name == name]

    def keep(self, block: TensorBlock, left: Left) -> None:
        """Remember what the last row left. All elements of a tensor are kept only for a row that can be held against them."""
        self.keep_for_join(block, left)
        steps = self._steps[block.number]
        others = [other for other in self._left.get(block.number, ()) if other.full != block.full]
        after = bisect_left(steps, left.step) + 1
        needed = not block.full or after == len(steps) or (block.number, steps[after]) in self._full
        self._left[block.number] = [left, *others] if needed else others

    def joins(self, step: int) -> bool:
        """Return whether a segment goes on from a step."""
        return step in self._joins

    def keep_for_join(self, block: TensorBlock, left: Left) -> None:
        """Remember what a row left if a segment goes on from its step."""
        if left.step in self._joins:
            self._within.setdefault(left.step, {}).setdefault(block.number, []).append(left.copied())
