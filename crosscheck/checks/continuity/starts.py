"""Does the state begin as the rule has it? Before the first step of a run the slots are absent or zero, and nothing is counted.

If the recorder was attached in the middle of a run, the state has moved already: the report notes that, and it is no finding.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from crosscheck.checks.check import Check
from crosscheck.checks.judging.bits import all_of, finding, values_before
from crosscheck.report import check_names
from crosscheck.report.finding import Finding
from crosscheck.rules.rule import Absent, Rule, one_count
from crosscheck.trace.format import Option, Part
from crosscheck.trace.tensors import TensorBlock, all_quantities


@dataclass(frozen=True, slots=True)
class _Start:
    """The state of one tensor before its first recorded step."""

    step: int
    tensor: str
    counted: dict[str, float]  # steps that each count has counted already
    moved: tuple[str, ...]  # slots that are not zero
    zero: tuple[str, ...]  # slots that are there and zero in every element; empty if some elements are not on record


class Starts(Check):
    """Looks at the first row of each tensor in a segment."""

    def start(self) -> None:
        self._starts: dict[int, _Start] = {}  # by number of the tensor
        self._first: dict[int, int] = {}  # the step of its first row
        self._whole: set[int] = set()  # tensors whose first row is there with all elements, in a block of its own
        self._loaded = False
        self._goes_on = bool(self.earlier) and self.segment.header.first_step > 1  # after what other segments hold

    def part(self, part: Part, _: list[list[dict[str, Option]]]) -> None:
        for block in part.blocks:
            for entry in block.tensors:
                first = self._first.setdefault(entry.tensor, block.steps[0])
                if block.full and entry.range is None and first == block.steps[0]:
                    self._whole.add(entry.tensor)

    def tensor(self, tensor: TensorBlock) -> None:
        number = tensor.number
        if number in self._starts or self._first[number] != tensor.steps[0].step:
            return
        if number in self._whole and not tensor.full:
            return  # the same row comes with all elements
        found = _start_of(self.context.rule, tensor)
        wrong = list(self._judge(tensor, found))
        self.context.findings.add(wrong)
        self._starts[number] = found if not wrong else replace(found, counted={}, moved=())
        self._loaded |= tensor.steps[0].state_loaded

    def finish(self) -> None:
        """Judge what one tensor alone cannot say, and note where the recorder was attached in the middle of a run."""
        begun = [start for start in self._starts.values() if start.counted or start.moved]
        if not begun or self._goes_on:
            return
        if not any(start.moved for start in begun) and all(start.zero for start in begun):
            self.context.findings.add(_counted_ahead(begun))
        else:
            self.context.notes.append(_in_the_middle(begun, loaded=self._loaded))

    def _judge(self, block: TensorBlock, start: _Start) -> Iterator[Finding]:
        """Yield a finding for each slot that cannot have come from steps of the optimizer."""
        rule, step = self.context.rule, block.steps[0]
        counts = [name for name, slot in rule.slots.items() if slot.shape is one_count and name in block.slots]
        at_first = step.step == self.segment.header.first_step and not step.state_loaded
        if counts and not start.counted:
            why = f"before the first step that {counts[0]} counts: it was initialized beforehand"
        elif at_first and self.segment.header.attached_with_state is False:
            why = "before the first step, although there was no state when the recorder was attached"
        else:
            why = ""
        quantities = all_quantities(block)
        for name in (*start.moved, *start.counted) if why else ():
            found = quantities[name].before[0]
            yield finding(block, 0, name, found, found * 0, found != 0, f"{name} was not zero {why}")
        if self.segment.header.first_step == 1 and not self._goes_on:
            yield from _started_from_zero(rule, block)


def _start_of(rule: Rule[Any], block: TensorBlock) -> _Start:
    counted: dict[str, float] = {}
    moved: list[str] = []
    zero: list[str] = []
    for name, slot in rule.slots.items():
        found = values_before(block.slots.get(name), 0)
        if found is None:
            continue
        if slot.shape is one_count:
            counted |= {name: float(found[0])} if found.any() else {}
        elif found.any():
            moved.append(name)
        elif len(block.coordinates) == block.info.numel > 0:
            zero.append(name)
    return _Start(block.steps[0].step, block.info.name, counted, tuple(moved), tuple(zero))


def _started_from_zero(rule: Rule[Any], block: TensorBlock) -> Iterator[Finding]:
    """Yield a finding for each slot that torch would make in this first step, but that is there as zeros already."""
    for name, slot in rule.slots.items():
        start, found = slot.start, values_before(block.slots.get(name), 0)
        if not isinstance(start, Absent) or found is None or not block.has_grad[0]:
            continue
        if found.any() or not found.size:
            continue
        if block.options[0].get(start.harmless_unless) and not block.steps[0].state_loaded:
            cause = f"{name} was there before the first gradient, as zeros: {start.otherwise}"
            yield finding(block, 0, name, found, found, all_of(found), cause)


def _counted_ahead(begun: list[_Start]) -> Iterator[Finding]:
    """Yield a finding for each count that says there were steps while no slot of any tensor has seen one."""
    for start in begun:
        for name, count in start.counted.items():
            yield Finding(
                step=start.step,
                tensor=start.tensor,
                slot=name,
                recorded=count,
                expected=0.0,
                cause=f"{name} was {count:g} before the first step, while {' and '.join(start.zero)} were zero everywhere: "
                "it counted ahead",
                check=check_names.CONTINUITY,
            )


def _in_the_middle(begun: list[_Start], *, loaded: bool) -> str:
    """Say what the optimizer had done when the recorder came."""
    counts = sorted({count for start in begun for count in start.counted.values()})
    number = " to ".join(f"{count:g}" for count in dict.fromkeys([*counts[:1], *counts[-1:]]))
    taken = f"had taken {number} step{'' if number == '1' else 's'}" if counts else ""
    slots = ", ".join(sorted({name for start in begun for name in start.moved}))
    said = taken or f"held a state already ({slots})"
    how = "its state was loaded" if loaded else "the recorder was attached in the middle of a run"
    return f"before step {min(start.step for start in begun)} the optimizer {said}: {how}, and nothing of that is on record"
