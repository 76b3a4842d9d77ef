"""Is each step of the optimizer the one that its rule makes of the recorded inputs?"""

from collections.abc import Iterator
from typing import Any

from crosscheck.checks.check import Check
from crosscheck.diagnosis.known_bugs import known_bug
from crosscheck.report.finding import Finding
from crosscheck.rules.rule import Rule, one_count
from crosscheck.trace.tensors import TensorBlock


class Optimizer(Check):
    """Has every element of every applied step judged by the rule that the trace claims."""

    def start(self) -> None:
        self._batcher = self.context.judge.batcher(self.context.rule)
        self._batcher.stochastic = self.claims.stochastic_rounding
        self._applied: dict[int, bool] = {}  # by number of the step, whether a recorded parameter had a gradient

    def tensor(self, tensor: TensorBlock) -> None:
        self.context.findings.add(_step_counts(self.context.rule, tensor))
        self.context.judge.add(self.context.rule, tensor)
        self.answered = self._batcher.rows > 0
        if bug := known_bug(self.segment.header, tensor.info):
            self.context.known_bugs.add(bug)
        for step, has_grad in zip(tensor.steps, tensor.has_grad, strict=True):
            if step.applied:
                self._applied[step.step] = self._applied.get(step.step, False) or bool(has_grad)

    def finish(self) -> None:
        idle = [step for step, has_grad in self._applied.items() if not has_grad]
        if idle:
            self.context.notes.append(
                f"in {len(idle):,} of {len(self._applied):,} applied steps, the first of them step {min(idle)}, no recorded "
                "parameter had a gradient: either nothing was computed, or the optimizer steps parameters that the model does "
                "not use"
            )


def _step_counts(rule: Rule[Any], tensor: TensorBlock) -> Iterator[Finding]:
    """Yield a finding for each applied step that does not add exactly 1 to the tensor's own count of steps."""
    for name, count in tensor.slots.items():
        if name not in rule.slots or rule.slots[name].shape is not one_count:
            continue
        for row, step in enumerate(tensor.steps):
            before, after = float(count.before[row, 0]), float(count.after[row, 0])
            if step.applied and tensor.has_grad[row] and after != before + 1:
                yield Finding(
                    step=step.step,
                    tensor=tensor.info.name,
                    slot=name,
                    recorded=after,
                    expected=before + 1,
                    cause=f"{name} went from {before:g} to {after:g}; every applied step adds 1",
                )
