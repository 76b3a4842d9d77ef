"""How what a replay sees is put into words."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from crosscheck.checks.continuity import position
from crosscheck.criterion.batches import WIDTH, Origin
from crosscheck.criterion.elementwise import Judged
from crosscheck.report.report import Finding
from crosscheck.rules.rule import Rule
from crosscheck.trace.format import AVERAGE, GRAD, PARAM
from crosscheck.trace.tensors import TensorBlock


@dataclass(slots=True)
class Spread:
    """The findings of one kind, as one."""

    first: Finding
    rule: Rule | None = None  # the formula that they disagree with
    elements: int = 0
    steps: set[int] = field(default_factory=set[int])

    def add(self, finding: Finding) -> None:
        if (finding.step, -finding.eta) < (self.first.step, -self.first.eta):
            self.first = finding
        self.elements += finding.elements
        self.steps.add(finding.step)

    def whole(self) -> Finding:
        return replace(self.first, elements=self.elements, steps=len(self.steps), last_step=max(self.steps))


def order(finding: Finding) -> tuple[int, bool, str]:
    """By step; at the same step the state comes before the parameter that is computed from it."""
    return finding.step, finding.slot == PARAM, finding.slot


def describe(origin: Origin, name: str, result: Judged, row: int, output: int) -> str:
    """An element and its eta, in a line."""
    block, column = origin.block, origin.column + int(result.element[row, output])
    where = list(position(block, column))
    return (
        f"eta {float(result.eta[row, output]):.3g} at step {block.steps[origin.row].step}, {block.info.name}{where}, {name}: "
        f"recorded {float(result.recorded[row, output]):.9g}, expected {float(result.expected[row, output]):.9g}"
    )


def check_of(rule: Rule) -> str:
    """Which of the report's checks a rule stands for."""
    return {GRAD: "gradient", AVERAGE: "average"}.get(rule.moved, "optimizer")


def disagreement(origin: Origin, name: str, rule: Rule, result: Judged, row: int, output: int) -> Finding:
    """The worst element of a row that is beyond the limit; the mistakes that explain it are yet to be found."""
    block, column = origin.block, origin.column + int(result.element[row, output])
    return Finding(
        step=block.steps[origin.row].step,
        tensor=block.info.name,
        slot=name,
        index=position(block, column),
        recorded=float(result.recorded[row, output]),
        expected=float(result.expected[row, output]),
        eta=float(result.eta[row, output]),
        cause=rule.complaint.format(output=name, rule=rule.name),
        check=check_of(rule),
        elements=int(result.over[row, output]),
    )


def never_written(origin: Origin, name: str) -> Finding:
    """A slot that an applied step should have left behind."""
    return Finding(
        step=origin.block.steps[origin.row].step,
        tensor=origin.block.info.name,
        slot=name,
        cause=f"{name} was never written, though the step was applied",
        elements=min(WIDTH, len(origin.block.coordinates) - origin.column),
    )


def step_counts(rule: Rule, block: TensorBlock) -> Iterator[Finding]:
    """torch counts steps tensor by tensor: each applied one adds exactly 1."""
    count = block.slots.get("step")
    if not rule.counts or count is None:
        return
    for row, step in enumerate(block.steps):
        before, after = float(count.before[row, 0]), float(count.after[row, 0])
        if step.applied and block.has_grad[row] and after != before + 1:
            yield Finding(
                step=step.step,
                tensor=block.info.name,
                slot="step",
                recorded=after,
                expected=before + 1,
                cause=f"step went from {before:g} to {after:g}; every applied step adds 1",
            )
