"""Does each step begin where the last one ended? Neither parameters nor state may change between steps, on skipped steps,
or without a gradient, and a run that was resumed must go on from what it had left.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosscheck.checks import continuity_notes
from crosscheck.checks.bits import CONTINUITY, Bits, Values, all_of, differ, finding, values_before
from crosscheck.checks.check import Check
from crosscheck.checks.unsampled import Held, count_held, held_after, moved_between, moved_within
from crosscheck.report.report import Finding
from crosscheck.trace.format import AVERAGE, PARAM, Option, Part
from crosscheck.trace.tensors import Quantity, TensorBlock, all_quantities

Coordinates = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Left:
    """What a row of a tensor left behind."""

    step: int
    full: bool
    values: dict[str, Values | None]  # None: the slot was absent
    unwritten: dict[str, int]  # slots that a skipped step allocated, and which step
    name: str  # of the tensor
    coordinates: Coordinates
    held: Held | None  # by digests, of a sampled row

    def narrowed(self, coordinates: Coordinates) -> "_Left":
        """Return what was left of some of the elements; a slot of one number a tensor stays."""
        columns = np.isin(self.coordinates, coordinates)
        values = {k: v if v is None or len(v) != len(columns) else v[columns] for k, v in self.values.items()}
        return replace(self, values=values, coordinates=self.coordinates[columns])


class _Change(NamedTuple):
    """How a quantity changed between two steps: a sentence without the steps, and the values."""

    how: str
    found: Values
    left: Values
    moved: Bits


class Continuity(Check):
    """Follows the tensors of a segment from row to row, and the steps of a run from segment to segment."""

    def start(self) -> None:
        self._first_step = self.segment.header.first_step
        self._in_turns = self.segment.header.coordinates is None  # other tensors and elements in each part
        self._last_step = self._first_step - 1
        # By number of the tensor: what its last sampled row left, and its last row of all elements. At first, what the
        # step before the segment left, if that is known.
        self._left: dict[int, list[_Left]] = {}
        for check in self.earlier:
            self._left = dict(check._ends.get(self._last_step, self._left))
        self._resumed: set[str] = set()  # tensors whose first row was held against what an earlier segment left
        self._joins = {later.header.first_step - 1 for later in self.context.segments[1:]}  # steps before a segment
        self._ends: dict[int, dict[int, list[_Left]]] = {}  # by such a step: what it left of each tensor
        self._rows: dict[int, list[int]] = {}  # by tensor: its steps in this part, and the last one before the part
        self._full: set[tuple[int, int]] = set()  # the tensors and steps of this part that are in a full block
        self._whole: set[tuple[int, int]] = set()  # the tensors and steps of this part of which all elements are there
        self._loaded: dict[int, set[str]] = {}  # by step before which state was loaded: what then was another
        self._tensors: dict[int, str] = {}  # the names of those in the part before
        self._claimed: dict[str, set[int]] = {name: set() for name in self.claims.between}
        self._sizes: dict[int, int] = {}  # elements, by tensor
        self._compared: dict[tuple[int, int], int] = {}  # those held before a step, by tensor and step of this part
        self._share = [0, 0]  # elements that were held over all boundaries between steps, and all there are

    def part(self, part: Part, _: list[list[dict[str, Option]]]) -> None:
        self._end_part()
        last, self._last_step = self._last_step, part.steps[-1].step
        full = [(entry, block.steps[0]) for block in part.blocks if block.full for entry in block.tensors]
        self._full = {(entry.tensor, step) for entry, step in full}
        self._whole = {(entry.tensor, step) for entry, step in full if entry.range is None}
        steps: dict[int, set[int]] = defaultdict(set)
        for block in part.blocks:
            for entry in block.tensors:
                steps[entry.tensor].update(block.steps)
        for number, its in steps.items():
            before = self._rows.get(number, [self._first_step - 1])[-1]
            self._rows[number] = [before, *sorted(its)]
            if self._in_turns:  # a tensor that is not here may have moved all the same
                self._rows[number] = [last, *(step.step for step in part.steps)]
        if self._in_turns:
            boundaries = len(part.steps) - (not self.earlier and last < self._first_step)
            # One that asks for no gradient may be given one all the same, and is then stepped.
            there = (info for number, info in enumerate(part.tensors) if info.stepped or number in steps)
            self._share[1] += boundaries * sum(info.numel for info in there)
        self.context.notes += self._who_came_and_went(part, steps)
        self._loaded |= {step.step: set() for step in part.steps if step.state_loaded}

    def _who_came_and_went(self, part: Part, present: Collection[int]) -> Iterator[str]:
        """Say which tensors took the place of others, and which are not recorded any more."""
        first, gone = part.steps[0].step, dict(self._tensors)
        if self._in_turns:
            present = [number for number, info in enumerate(part.tensors) if info.stepped]
        self._tensors = {number: part.tensors[number].name for number in present}
        for number in sorted(present):
            now = part.tensors[number]
            if now.replaces is not None and number not in gone:
                was = part.tensors[now.replaces]
                gone.pop(now.replaces, None)
                how = "another parameter took its place"
                if (was.shape, was.dtype) != (now.shape, now.dtype):
                    how = f"it was {was.dtype} {list(was.shape)} and is {now.dtype} {list(now.shape)} from there on"
                yield f"before step {first} {was.name} was replaced: {how}, recorded as {now.name}"
        for name in (name for number, name in gone.items() if number not in self._tensors):
            yield f"{name} is not recorded from step {first} on: the optimizer does not step it any more"

    def tensor(self, tensor: TensorBlock) -> None:
        quantities = all_quantities(tensor)
        unread = self._unread(tensor)
        for name, quantity in quantities.items():
            self.context.findings.add(_unmoved(tensor, name, quantity, [name in slots for slots in unread]))
        self._sizes[tensor.number] = tensor.info.numel
        if not tensor.full:
            self.context.findings.add(self._unsampled(tensor, quantities))
        self.context.findings.add(self._followed(tensor, quantities))

    def _unread(self, block: TensorBlock) -> list[Collection[str]]:
        """Return for each row the slots that the formula of the step leaves out, as SGD's buffer without momentum."""
        rule = self.context.rule
        return [rule.unused(rule.flags(options)) for options in block.options]

    def finish(self) -> None:
        """Note how the segment joins those before it, whether it was closed, and what was allowed to change."""
        self._end_part()
        twice = self.context.coverage.add(range(self._first_step, self._last_step + 1))
        if self.earlier:
            self.context.notes.append(continuity_notes.join(self.segment, twice, len(self._resumed)))
        if self.segment.end is not None and self.segment.end.stopped is not None:
            self.context.warnings.append(
                f"the record ends with step {self._last_step}, and the run went on: {self.segment.end.stopped}"
            )
        if self.segment.end is None:
            self.context.notes.append(
                f"{self.segment.folder.name} ends at step {self._last_step} without being closed: the run was killed or "
                "is still going on; steps that were not committed are not in it"
            )
        self.context.notes += [*continuity_notes.of_loads(self._loaded), *continuity_notes.of_claims(self._claimed)]
        if self.segment is self.context.segments[-1]:
            held, there = map(sum, zip(self._share, *(check._share for check in self.earlier), strict=True))
            if there:
                self.context.notes.append(
                    f"between steps {continuity_notes.percent(held, there)} of the elements were held, bit for bit"
                )

    def _end_part(self) -> None:
        if self._last_step in self._joins:
            self._ends[self._last_step] = dict(self._left)
        self._share[0] += sum(self._compared.values())
        if not self._in_turns:
            self._share[1] += sum(self._sizes[number] for number, _ in self._compared)
        self._compared = {}

    def _unsampled(self, block: TensorBlock, quantities: dict[str, Quantity]) -> Iterator[Finding]:
        """Yield what changed in elements that no row shows; between two full steps those rows show it."""
        left = next((known.held for known in self._known(block) if not known.full), None)
        for name, quantity in quantities.items():
            for row in moved_between(block, name, quantity, left):
                step, previous = block.steps[row].step, self._previous(block, row)
                if {(block.number, step), (block.number, previous)} <= self._whole or self._is_excused(
                    block, row, name
                ):
                    continue
                yield _unseen(
                    block, row, name, f"was changed between steps {previous} and {step}, outside the optimizer's step"
                )
            for row in moved_within(block, quantity) if name != AVERAGE else ():
                yield _unseen(block, row, name, f"changed {_why_unmoved(block, row)}")

    def _followed(self, block: TensorBlock, quantities: dict[str, Quantity]) -> Iterator[Finding]:
        last = self._before(block)
        self.answered |= last is not None or len(block.steps) > 1
        self._count(block, last)
        if last is not None and last.step < self._first_step:
            self._resumed.add(block.info.name)
        unwritten = {} if last is None else dict(last.unwritten)
        for row in _noteworthy(block, quantities):
            step = block.steps[row]
            if row:
                last = _left_by(block, row - 1, quantities, unwritten)
            if last is not None:
                yield from self._join(block, row, last, unwritten)
            for name, quantity in quantities.items():
                if step.applied and block.has_grad[row]:
                    unwritten.pop(name, None)
                elif step.applied or quantity.there_before[row] or not quantity.there_after[row]:
                    continue
                elif not self.context.rule.starts_from_zero(name) or quantity.after[row].any():
                    unwritten[name] = step.step
        self._keep(block, _left_by(block, len(block.steps) - 1, quantities, unwritten))

    def _before(self, block: TensorBlock) -> _Left | None:
        """Return what the step before the first row left of the tensor, if it is on record for some element of the row."""
        known = self._known(block)
        for left in known:
            if np.array_equal(left.coordinates, block.coordinates):
                return left
        return next((left for left in known if np.isin(left.coordinates, block.coordinates).any()), None)

    def _count(self, block: TensorBlock, last: _Left | None) -> None:
        """Count the elements that are held before each row. `last`: what the step before the first row left."""
        held = [count_held(block, row) for row in range(1, len(block.steps))]
        if last is not None:
            first = np.isin(block.coordinates, last.coordinates).sum()
            by_digest = not block.full and any(
                left.held is not None and left.held.of_same(PARAM, block.param) is not None
                for left in self._known(block)
            )
            held.insert(0, count_held(block, 0) if by_digest else int(first))
        for step, count in zip(block.steps[-len(held) :] if held else (), held, strict=True):
            at = block.number, step.step
            self._compared[at] = max(self._compared.get(at, 0), count)

    def _known(self, block: TensorBlock) -> list[_Left]:
        """Return all that is on record of what the step before the first row left of the tensor."""
        previous, name = self._previous(block, 0), block.info.name
        return [left for left in self._left.get(block.number, ()) if left.step == previous and left.name == name]

    def _previous(self, block: TensorBlock, row: int) -> int:
        """Return the step of the row before, in whichever block it is."""
        rows = self._rows[block.number]
        return rows[bisect_left(rows, block.steps[row].step) - 1]

    def _is_excused(self, block: TensorBlock, row: int, name: str) -> bool:
        """Return whether a change before this row is allowed, and remember it, for it is told."""
        step = block.steps[row]
        if step.state_loaded and name not in (PARAM, AVERAGE):
            self._loaded[step.step].add(name)
        elif name in self._claimed:
            self._claimed[name].add(step.step)
        else:
            return False
        return True

    def _keep(self, block: TensorBlock, left: _Left) -> None:
        """Remember what the last row left. All elements of a tensor are kept only for a row that can be held against them."""
        rows = self._rows[block.number]
        others = [other for other in self._left.get(block.number, ()) if other.full != block.full]
        after = bisect_left(rows, left.step) + 1
        needed = not block.full or after == len(rows) or (block.number, rows[after]) in self._full
        self._left[block.number] = [left, *others] if needed else others

    def _join(self, block: TensorBlock, row: int, left: _Left, unwritten: dict[str, int]) -> Iterator[Finding]:
        """Compare the values before this row with those after the row before, and yield what changed in between."""
        if not np.array_equal(left.coordinates, block.coordinates):
            common = np.intersect1d(left.coordinates, block.coordinates)
            left, block, row = left.narrowed(common), _narrowed(block, row, common), 0
        step, quantities = block.steps[row], all_quantities(block)
        for name in {**dict.fromkeys(left.values), **quantities}:
            found, after = values_before(quantities.get(name), row), left.values.get(name)
            allocated = unwritten.get(name)
            if allocated is not None and (found is None or after is None):
                unwritten.pop(name)  # what a skipped step allocated was taken back: absent stayed absent
                continue
            if allocated is not None and found is not None and step.applied and block.has_grad[row]:
                cause = f"{name} was never written: step {allocated}, which was skipped, allocated it, and this step read it"
                yield finding(block, row, name, found, np.zeros_like(found), all_of(found), cause)
                continue
            change = self._change(name, found, after)
            if change is not None and not self._is_excused(block, row, name):
                cause = f"{name} {change.how.format(f'between steps {left.step} and {step.step}')}"
                yield finding(block, row, name, change.found, change.left, change.moved, cause)

    def _change(self, name: str, found: Values | None, left: Values | None) -> _Change | None:
        """Return how a quantity changed from what was left to what was found; None if it did not."""
        if found is not None and left is not None:
            moved = differ(found, left)
            return _Change("was changed {}, outside the optimizer's step", found, left, moved) if moved.any() else None
        zero_is_absent = self.context.rule.starts_from_zero(name)
        if found is not None and (found.any() or not zero_is_absent):
            return _Change("appeared {}", found, np.zeros_like(found), all_of(found))
        if left is not None and (left.any() or not zero_is_absent):
            return _Change("was dropped {}", np.zeros_like(left), left, all_of(left))
        return None


def _left_by(block: TensorBlock, row: int, quantities: dict[str, Quantity], unwritten: dict[str, int]) -> _Left:
    values = {name: q.after[row] if q.there_after[row] else None for name, q in quantities.items()}
    held = held_after(block, quantities) if row == len(block.steps) - 1 and not block.full else None
    return _Left(block.steps[row].step, block.full, values, unwritten, block.info.name, block.coordinates, held)


def _narrowed(block: TensorBlock, row: int, coordinates: Coordinates) -> TensorBlock:
    """Return one row of a block with some of its elements, for what can be compared; its gradients are left out."""
    columns = np.flatnonzero(np.isin(block.coordinates, coordinates))

    def narrow(quantity: Quantity) -> Quantity:
        elementwise = quantity.before.shape[1] == len(block.coordinates)
        return Quantity(
            *(
                values[[row]][:, columns] if elementwise else values[[row]]
                for values in (quantity.before, quantity.after)
            ),
            *(mask[[row]] for mask in (quantity.there_before, quantity.there_after, quantity.changed)),
        )

    return replace(
        block,
        steps=[block.steps[row]],
        coordinates=block.coordinates[columns],
        has_grad=block.has_grad[[row]],
        param=narrow(block.param),
        slots={name: narrow(slot) for name, slot in block.slots.items()},
    )


def _unmoved(block: TensorBlock, name: str, quantity: Quantity, unread: Sequence[bool]) -> Iterator[Finding]:
    """Yield a finding for each row that moved something and must not.

    That is a skipped step, a tensor without a gradient, or a slot that the formula of the row's step leaves out (`unread`).
    """
    for row, step in enumerate(block.steps):
        moves = block.has_grad[row] or name == AVERAGE  # which follows any parameter
        if step.applied and moves and not unread[row]:
            continue
        if not (quantity.there_before[row] and quantity.there_after[row]):
            continue
        moved = differ(quantity.before[row], quantity.after[row])
        if moved.any():
            why = _why_unmoved(block, row)
            if step.applied and moves:
                why = "although the formula of this step leaves it alone"
            cause = f"{name} changed {why}"
            yield finding(block, row, name, quantity.after[row], quantity.before[row], moved, cause)


def _why_unmoved(block: TensorBlock, row: int) -> str:
    return "although it had no gradient" if block.steps[row].applied else "on a skipped step"


def _unseen(block: TensorBlock, row: int, name: str, what: str) -> Finding:
    """Return a finding about elements of which only the digest is on record."""
    return Finding(
        step=block.steps[row].step,
        tensor=block.info.name,
        slot=name,
        cause=f"{name} {what}, in elements that are not sampled: their digest is another",
        check=CONTINUITY,
    )


def _noteworthy(block: TensorBlock, quantities: dict[str, Quantity]) -> list[int]:
    """Return the rows whose values before the step may be others than the row before left."""
    applied = np.array([step.applied for step in block.steps])
    quiet = applied & block.has_grad
    rows = ~quiet
    rows[1:] |= ~quiet[:-1]
    rows[0] = True
    for quantity in quantities.values():
        rows |= quantity.changed | ~quantity.there_before | ~quantity.there_after
    return [int(row) for row in np.flatnonzero(rows)]
