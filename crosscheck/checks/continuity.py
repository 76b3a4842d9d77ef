"""What one step at a time cannot see: state changed between steps, on skipped steps, or without a gradient."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscheck.report.report import Finding
from crosscheck.trace.format import AVERAGE, PARAM, Option, Step
from crosscheck.trace.tensors import Quantity, TensorBlock

_Bits = NDArray[np.bool_]


def _differ(a: NDArray[Any], b: NDArray[Any]) -> _Bits:
    """By element, bit for bit: NaN equals itself, 0 differs from -0."""
    if a.dtype != b.dtype:
        return np.ones(a.shape, np.bool_)
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    return np.ascontiguousarray(a).view(unsigned) != np.ascontiguousarray(b).view(unsigned)


def _all(values: NDArray[Any]) -> _Bits:
    return np.ones(values.shape, np.bool_)


@dataclass(slots=True)
class Left:
    """What a row of a tensor left behind."""

    step: int
    values: dict[str, NDArray[Any] | None]  # None: the slot was absent
    unwritten: dict[str, int]  # slots that a skipped step allocated, and which step
    of: tuple[str, bytes]  # the tensor's name and the positions that are followed


@dataclass(slots=True)
class Structure:
    """Follows the tensors of one segment through its parts."""

    zero_is_absent: bool
    """Whether this rule's slots start from zero, so that a slot of zeros is as good as none."""
    from_start: bool = False
    """Whether the segment begins with the first step of the run."""
    left: dict[int, Left] = field(default_factory=dict[int, Left])
    """By number of the tensor: what its last row left; at first, what the step before the segment left, if it is known."""
    resumed: set[str] = field(default_factory=set[str])
    """Tensors whose first row was held against what an earlier segment left."""
    _seen: set[int] = field(default_factory=set[int])
    _last_options: tuple[Step, list[dict[str, Option]]] | None = None

    def look(self, block: TensorBlock) -> Iterator[Finding]:
        """Findings in one tensor's rows."""
        quantities = {PARAM: block.param, **block.slots}
        for name, quantity in quantities.items():
            yield from self._unmoved(block, name, quantity)
        if not block.full:
            yield from self._joined(block, quantities)

    def look_at_options(self, steps: tuple[Step, ...], options: list[list[dict[str, Option]]]) -> Iterator[Finding]:
        """A step that was skipped must leave the learning rate where it was: the next attempt is the same step."""
        for step, groups in zip(steps, options, strict=True):
            last, self._last_options = self._last_options, (step, groups)
            if last is None or last[0].applied:
                continue
            for number, (before, now) in enumerate(zip(last[1], groups, strict=False)):
                lr, expected = now.get("lr"), before.get("lr")
                if lr != expected and isinstance(lr, int | float) and isinstance(expected, int | float):
                    yield Finding(
                        step=step.step,
                        tensor=f"group {number}",
                        slot="lr",
                        recorded=float(lr),
                        expected=float(expected),
                        cause=f"the schedule advanced on a skipped step: step {last[0].step} was skipped, yet lr went on",
                        check="learning rate",
                    )

    def _unmoved(self, block: TensorBlock, name: str, quantity: Quantity) -> Iterator[Finding]:
        """Rows that must not move anything: skipped steps, tensors without a gradient."""
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

    def _joined(self, block: TensorBlock, quantities: dict[str, Quantity]) -> Iterator[Finding]:
        last, of = self.left.get(block.number), (block.info.name, block.coordinates.tobytes())
        if last is not None and last.of != of:  # another run's, or other positions
            last = None
        if last is not None and block.number not in self._seen:
            self.resumed.add(block.info.name)
        self._seen.add(block.number)
        unwritten = {} if last is None else dict(last.unwritten)
        for row in _noteworthy(block, quantities):
            step = block.steps[row]
            if row:
                last = Left(block.steps[row - 1].step, _values_after(quantities, row - 1), unwritten, of)
            if last is None and self.from_start and not self.zero_is_absent:
                yield from _started_from_zero(block, row, quantities)
            if last is not None:
                for name in {**dict.fromkeys(last.values), **quantities}:
                    yield from self._join(block, row, step, name, quantities.get(name), last, unwritten)
            for name, quantity in quantities.items():
                if step.applied and block.has_grad[row]:
                    unwritten.pop(name, None)
                elif step.applied or quantity.there_before[row] or not quantity.there_after[row]:
                    continue
                elif not self.zero_is_absent or quantity.after[row].any():
                    unwritten[name] = step.step
        self.left[block.number] = Left(block.steps[-1].step, _values_after(quantities, -1), unwritten, of)

    def _join(
        self,
        block: TensorBlock,
        row: int,
        step: Step,
        name: str,
        quantity: Quantity | None,
        left: Left,
        unwritten: dict[str, int],
    ) -> Iterator[Finding]:
        """The values before this row against those after the row before."""
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
            if before.any() or not self.zero_is_absent:
                cause = f"{name} appeared {between}"
                yield _finding(block, row, name, before, np.zeros_like(before), _all(before), cause)
        elif after is not None and (after.any() or not self.zero_is_absent):
            cause = f"{name} was dropped {between}"
            yield _finding(block, row, name, np.zeros_like(after), after, _all(after), cause)


def _started_from_zero(block: TensorBlock, row: int, quantities: dict[str, Quantity]) -> Iterator[Finding]:
    """torch starts the buffer with the first gradient, whole; a buffer of zeros makes that (1 - dampening) of it."""
    buffer = quantities.get("momentum_buffer")
    if buffer is None or not buffer.there_before[row] or buffer.before[row].any() or not block.has_grad[row]:
        return
    if block.options[row].get("dampening") and not block.steps[row].state_loaded:
        before = buffer.before[row]
        cause = "momentum_buffer was there before the first gradient, as zeros: dampening then takes a part of that gradient"
        yield _finding(block, row, "momentum_buffer", before, before, _all(before), cause)


def _values_after(quantities: dict[str, Quantity], row: int) -> dict[str, NDArray[Any] | None]:
    return {name: q.after[row] if q.there_after[row] else None for name, q in quantities.items()}


def _noteworthy(block: TensorBlock, quantities: dict[str, Quantity]) -> list[int]:
    """Rows at which a value before the step may be other than what the row before left."""
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
        index=None if scalar else position(block, at),
        recorded=float(recorded[at]),
        expected=float(expected[at]),
        cause=cause,
        elements=int(moved.sum()),
        check="average" if name == AVERAGE else "optimizer",
    )


def position(block: TensorBlock, column: int) -> tuple[int, ...]:
    """The element of the tensor that a column holds."""
    return tuple(map(int, np.unravel_index(int(block.coordinates[column]), block.info.shape)))
