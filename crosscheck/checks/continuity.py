"""Does each step begin where the last one ended? State must not change between steps, on skipped steps, or without a
gradient, and a run that was resumed must go on from what it had left.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscheck.checks.check import Check
from crosscheck.report.coverage import spans
from crosscheck.report.report import Finding
from crosscheck.rules.rule import Absent, Rule
from crosscheck.trace.format import AVERAGE, PARAM, Option, Part
from crosscheck.trace.reader import Segment
from crosscheck.trace.tensors import Quantity, TensorBlock

_Bits = NDArray[np.bool_]


@dataclass(slots=True)
class _Left:
    """What a row of a tensor left behind."""

    step: int
    values: dict[str, NDArray[Any] | None]  # None: the slot was absent
    unwritten: dict[str, int]  # slots that a skipped step allocated, and which step
    of: tuple[str, bytes]  # the tensor's name and the positions that are followed


class Continuity(Check):
    """Follows the tensors of a segment from row to row, and the steps of a run from segment to segment."""

    def start(self) -> None:
        self._first_step = self.segment.header.first_step
        self._last_step = self._first_step - 1
        # By number of the tensor: what its last row left. At first, what the step before the segment left, if known.
        self._left: dict[int, _Left] = {}
        for check in self.earlier:
            self._left = dict(check._ends.get(self._last_step, self._left))
        self._resumed: set[str] = set()  # tensors whose first row was held against what an earlier segment left
        self._joins = {later.header.first_step - 1 for later in self.context.segments[1:]}  # steps before a segment
        self._ends: dict[int, dict[int, _Left]] = {}  # by such a step: what it left of each tensor

    def part(self, part: Part, _: list[list[dict[str, Option]]]) -> None:
        self._keep_end()
        self._last_step = part.steps[-1].step

    def tensor(self, tensor: TensorBlock) -> None:
        quantities = {PARAM: tensor.param, **tensor.slots}
        for name, quantity in quantities.items():
            self.context.findings.add(_unmoved(tensor, name, quantity))
        if not tensor.full:
            self.context.findings.add(self._followed(tensor, quantities))

    def finish(self) -> None:
        """Note how the segment joins those before it, and whether it was closed."""
        self._keep_end()
        twice = self.context.coverage.add(range(self._first_step, self._last_step + 1))
        if self.earlier:
            self.context.notes.append(_join(self.segment, twice, len(self._resumed)))
        if self.segment.end is None:
            self.context.notes.append(
                f"{self.segment.folder.name} ends at step {self._last_step} without being closed: the run was killed or "
                "is still going on; steps that were not committed are not in it"
            )

    def _keep_end(self) -> None:
        if self._last_step in self._joins:
            self._ends[self._last_step] = dict(self._left)

    def _followed(self, block: TensorBlock, quantities: dict[str, Quantity]) -> Iterator[Finding]:
        last, of = self._left.get(block.number), (block.info.name, block.coordinates.tobytes())
        if last is not None and last.of != of:  # another run's, or other positions
            last = None
        if last is not None and last.step < self._first_step:
            self._resumed.add(block.info.name)
        unwritten = {} if last is None else dict(last.unwritten)
        for row in _noteworthy(block, quantities):
            step = block.steps[row]
            if row:
                last = _Left(block.steps[row - 1].step, _values_after(quantities, row - 1), unwritten, of)
            if last is None and self._first_step == 1:
                yield from _started_from_zero(self.context.rule, block, row, quantities)
            if last is not None:
                for name in {**dict.fromkeys(last.values), **quantities}:
                    yield from self._join(block, row, name, quantities.get(name), last, unwritten)
            for name, quantity in quantities.items():
                if step.applied and block.has_grad[row]:
                    unwritten.pop(name, None)
                elif step.applied or quantity.there_before[row] or not quantity.there_after[row]:
                    continue
                elif not self.context.rule.starts_from_zero(name) or quantity.after[row].any():
                    unwritten[name] = step.step
        self._left[block.number] = _Left(block.steps[-1].step, _values_after(quantities, -1), unwritten, of)

    def _join(
        self, block: TensorBlock, row: int, name: str, quantity: Quantity | None, left: _Left, unwritten: dict[str, int]
    ) -> Iterator[Finding]:
        """Compare the values before this row with those after the row before, and yield what changed in between."""
        step = block.steps[row]
        before = None if quantity is None or not quantity.there_before[row] else quantity.before[row]
        after, between = left.values.get(name), f"between steps {left.step} and {step.step}"
        allocated = unwritten.get(name)
        if allocated is not None and (before is None or after is None):
            unwritten.pop(name)  # what a skipped step allocated was taken back: absent stayed absent
        elif allocated is not None and before is not None and step.applied and block.has_grad[row]:
            cause = (
                f"{name} was never written: step {allocated}, which was skipped, allocated it, and this step read it"
            )
            yield _finding(block, row, name, before, np.zeros_like(before), _all(before), cause)
        elif step.state_loaded:
            return
        elif before is not None and after is not None:
            moved = _differ(before, after)
            if moved.any():
                cause = f"{name} was changed {between}, outside the optimizer's step"
                yield _finding(block, row, name, before, after, moved, cause)
        elif before is not None:
            if before.any() or not self.context.rule.starts_from_zero(name):
                cause = f"{name} appeared {between}"
                yield _finding(block, row, name, before, np.zeros_like(before), _all(before), cause)
        elif after is not None and (after.any() or not self.context.rule.starts_from_zero(name)):
            cause = f"{name} was dropped {between}"
            yield _finding(block, row, name, np.zeros_like(after), after, _all(after), cause)


def _unmoved(block: TensorBlock, name: str, quantity: Quantity) -> Iterator[Finding]:
    """Yield a finding for each row that moved something and must not: a skipped step, or a tensor without a gradient."""
    for row, step in enumerate(block.steps):
        if step.applied and (block.has_grad[row] or name == AVERAGE):  # which follows any parameter
            continue
        why = "on a skipped step" if not step.applied else "although it had no gradient"
        if not (quantity.there_before[row] and quantity.there_after[row]):
            continue
        moved = _differ(quantity.before[row], quantity.after[row])
        if moved.any():
            cause = f"{name} changed {why}"
            yield _finding(block, row, name, quantity.after[row], quantity.before[row], moved, cause)


def _started_from_zero(
    rule: Rule[Any], block: TensorBlock, row: int, quantities: dict[str, Quantity]
) -> Iterator[Finding]:
    """Yield a finding for each slot that torch would make in this first step, but that is there as zeros already."""
    for name, slot in rule.slots.items():
        start, found = slot.start, quantities.get(name)
        if not isinstance(start, Absent) or found is None:
            continue
        if not found.there_before[row] or found.before[row].any() or not block.has_grad[row]:
            continue
        if block.options[row].get(start.matters) and not block.steps[row].state_loaded:
            before = found.before[row]
            cause = f"{name} was there before the first gradient, as zeros: {start.otherwise}"
            yield _finding(block, row, name, before, before, _all(before), cause)


def _values_after(quantities: dict[str, Quantity], row: int) -> dict[str, NDArray[Any] | None]:
    return {name: q.after[row] if q.there_after[row] else None for name, q in quantities.items()}


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


def _finding(
    block: TensorBlock, row: int, name: str, recorded: NDArray[Any], expected: NDArray[Any], moved: _Bits, cause: str
) -> Finding:
    at = int(np.argmax(moved))
    scalar = recorded.size != len(block.coordinates)
    return Finding(
        step=block.steps[row].step,
        tensor=block.info.name,
        slot=name,
        index=None if scalar else block.position(at),
        recorded=float(recorded[at]),
        expected=float(expected[at]),
        cause=cause,
        elements=int(moved.sum()),
        check="average" if name == AVERAGE else "optimizer",
    )


def _differ(a: NDArray[Any], b: NDArray[Any]) -> _Bits:
    """Compare element by element and bit for bit: NaN equals itself, and 0 differs from -0."""
    if a.dtype != b.dtype:
        return np.ones(a.shape, np.bool_)
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    return np.ascontiguousarray(a).view(unsigned) != np.ascontiguousarray(b).view(unsigned)


def _all(values: NDArray[Any]) -> _Bits:
    return np.ones(values.shape, np.bool_)


def _join(segment: Segment, twice: list[range], compared: int) -> str:
    """Say how a segment joins those before it. `compared`: tensors whose state was held against what was left."""
    step = segment.header.first_step
    said = f"a run resumed here, at step {step}, recorded {segment.folder.name}; "
    if step == 1:
        said += "from the beginning again"
    elif compared:
        said += f"its {compared} tensors and their slots were held, bit for bit, against what step {step - 1} left"
    else:
        said += f"what step {step - 1} left is not on record, so nothing says whether the run went on from there"
    return f"{said}; {spans(twice)} recorded before as well, and judged both times" if twice else said
