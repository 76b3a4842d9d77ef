"""Does each step begin where the last one ended? Neither parameters nor state may change between steps, on skipped steps,
or without a gradient, and a run that was resumed must go on from what it had left.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from crosscheck.arrays import Bits
from crosscheck.checks.check import Check
from crosscheck.checks.continuity.allowed_changes import AllowedChanges
from crosscheck.checks.continuity.idle import moved_while_idle, why_idle
from crosscheck.checks.continuity.left_behind import Coordinates, LastRows, Left, left_by
from crosscheck.checks.continuity.share_held import ShareHeld
from crosscheck.checks.continuity.unsampled import moved_between, moved_within, unseen
from crosscheck.checks.judging.bits import Values, all_of, differ, finding, values_before
from crosscheck.report.coverage import spans
from crosscheck.report.finding import Finding
from crosscheck.trace.format import AVERAGE, Option, Part
from crosscheck.trace.tensors import Quantity, TensorBlock, all_quantities


class _Change(NamedTuple):
    """How a quantity changed between two steps."""

    cause: str
    found: Values
    left: Values
    moved: Bits


class Continuity(Check):
    """Follows the tensors of a segment from row to row, and the steps of a run from segment to segment."""

    def start(self) -> None:
        self._last = LastRows(self.context.segments, self.segment, [check._last for check in self.earlier])
        self._allowed = AllowedChanges(self.claims.between)
        self._share = ShareHeld(self.segment, [check._share for check in self.earlier])
        self._resumed: set[str] = set()  # tensors whose first row was held against what an earlier segment left

    def part(self, part: Part, _: list[list[dict[str, Option]]]) -> None:
        self._last.add_part(part)
        self._share.add_part(part)
        self._allowed.add_part(part)

    def tensor(self, tensor: TensorBlock) -> None:
        quantities = all_quantities(tensor)
        idle = {name: each for name, each in quantities.items() if name != AVERAGE or self.claims.average is None}
        self.context.findings.add(moved_while_idle(self.context.rule, tensor, idle))
        if not tensor.full:
            self.context.findings.add(self._unsampled(tensor, quantities))
        self.context.findings.add(self._followed(tensor, quantities))

    def finish(self) -> None:
        """Note how the segment joins those before it, whether it was closed, and what was allowed to change."""
        self._last.end_part()
        self._share.end_part()
        segment, last_step, notes = self.segment, self._last.last_step, self.context.notes
        twice = self.context.coverage.add(range(self._last.first_step, last_step + 1))
        if self.earlier:
            notes.append(self._how_joined(twice))
        if segment.end is None:
            notes.append(
                f"{segment.folder.name} ends at step {last_step} without being closed: the run was killed or "
                "is still going on; steps that were not committed are not in it"
            )
        elif segment.end.stopped is not None:
            self.context.warnings.append(
                f"the record ends with step {last_step}, and the run went on: {segment.end.stopped}"
            )
        notes += self._allowed.notes()
        if segment is self.context.segments[-1] and (share := self._share.note()):
            notes.append(share)

    def _how_joined(self, twice: list[range]) -> str:
        """Say how the segment joins those before it. `twice`: its steps that were on record before."""
        step = self.segment.header.first_step
        said = f"a run resumed here, at step {step}, recorded {self.segment.folder.name}; "
        if step == 1:
            said += "from the beginning again"
        elif self._resumed:
            said += f"its {len(self._resumed)} tensors and their slots were held, bit for bit, against what step {step - 1} left"
        elif self._last.may_have_been_repeated:
            said += (
                f"step {step - 1} is on record, but a start after that may have taken it again, so nothing says whether the run "
                "went on from there; Recorder.flush() before each checkpoint settles it"
            )
        else:
            said += f"what step {step - 1} left is not on record, so nothing says whether the run went on from there"
        return f"{said}; {spans(twice)} recorded before as well, and judged both times" if twice else said

    def _unsampled(self, block: TensorBlock, quantities: dict[str, Quantity]) -> Iterator[Finding]:
        """Yield what changed in elements that no row shows; between two full steps those rows show it."""
        left = next((known.held for known in self._last.before(block) if not known.full), None)
        for name, quantity in quantities.items():
            for row in moved_between(block, name, quantity, left):
                previous, step = self._last.previous(block, row), block.steps[row]
                shown = self._last.is_whole(block, previous) and self._last.is_whole(block, step.step)
                if not shown and not self._allowed.allows(step, name):
                    what = f"was changed between steps {previous} and {step.step}, outside the optimizer's step"
                    yield unseen(block, row, name, what)
            for row in moved_within(block, quantity) if name != AVERAGE else ():
                yield unseen(block, row, name, f"changed {why_idle(block, row)}")

    def _followed(self, block: TensorBlock, quantities: dict[str, Quantity]) -> Iterator[Finding]:
        """Yield what changed between the rows of a tensor, and remember what its last row left."""
        before = self._last.before(block)
        last = _comparable(before, block)
        self.answered |= last is not None or len(block.steps) > 1
        self._share.add(block, before, last)
        if last is not None and last.step < self._last.first_step:
            self._resumed.add(block.info.name)
        unwritten = {} if last is None else dict(last.unwritten)
        for row in _noteworthy(block, quantities, self._last.joins):
            step = block.steps[row]
            if row:
                last = left_by(block, row - 1, quantities, unwritten)
                self._last.keep_for_join(block, last)
            if last is not None:
                yield from self._join(block, row, last, unwritten)
            for name, quantity in quantities.items():
                if step.applied and block.has_grad[row]:
                    unwritten.pop(name, None)
                elif step.applied or quantity.there_before[row] or not quantity.there_after[row]:
                    continue
                elif not quantity.after[row].size:
                    continue  # a tensor without elements has nothing that a step could write
                elif not self.context.rule.starts_from_zero(name) or quantity.after[row].any():
                    unwritten[name] = step.step
        self._last.keep(block, left_by(block, len(block.steps) - 1, quantities, unwritten))

    def _join(self, block: TensorBlock, row: int, left: Left, unwritten: dict[str, int]) -> Iterator[Finding]:
        """Compare the values before this row with those after the row before, and yield what changed in between."""
        if not np.array_equal(left.coordinates, block.coordinates):
            common = np.intersect1d(left.coordinates, block.coordinates)
            left, block, row = left.narrowed(common), _narrowed(block, row, common), 0
        step, quantities = block.steps[row], all_quantities(block)
        when = f"between steps {left.step} and {step.step}"
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
            change = self._change(name, when, found, after)
            if change is not None and not self._allowed.allows(step, name):
                yield finding(block, row, name, change.found, change.left, change.moved, change.cause)

    def _change(self, name: str, when: str, found: Values | None, left: Values | None) -> _Change | None:
        """Return how a quantity changed from what was left to what was found; None if it did not."""
        if found is not None and left is not None:
            moved = differ(found, left)
            cause = f"{name} was changed {when}, outside the optimizer's step"
            return _Change(cause, found, left, moved) if moved.any() else None
        zero_is_absent = self.context.rule.starts_from_zero(name)
        if found is not None and found.size and (found.any() or not zero_is_absent):
            return _Change(f"{name} appeared {when}", found, np.zeros_like(found), all_of(found))
        if left is not None and left.size and (left.any() or not zero_is_absent):
            return _Change(f"{name} was dropped {when}", np.zeros_like(left), left, all_of(left))
        return None


def _comparable(before: list[Left], block: TensorBlock) -> Left | None:
    """Return what the step before the first row left of the same elements, otherwise of some of them."""
    for left in before:
        if np.array_equal(left.coordinates, block.coordinates):
            return left
    return next((left for left in before if np.isin(left.coordinates, block.coordinates).any()), None)


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


def _noteworthy(block: TensorBlock, quantities: dict[str, Quantity], joins: Callable[[int], bool]) -> list[int]:
    """Return the rows whose values before the step may differ from what the row before left,
    and those after a step that `joins`.
    """
    applied = block.applied
    quiet = applied & block.has_grad
    rows = ~quiet
    rows[1:] |= ~quiet[:-1]
    rows[1:] |= np.array([joins(step.step) for step in block.steps[:-1]], dtype=bool)
    rows[0] = True
    for quantity in quantities.values():
        rows |= quantity.changed | ~quantity.there_before | ~quantity.there_after
    return [int(row) for row in np.flatnonzero(rows)]
