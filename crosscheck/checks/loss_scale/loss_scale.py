"""Is each loss scale the one that torch.amp.GradScaler makes of the steps that were applied, also where a run goes on?"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from crosscheck.checks.check import Check
from crosscheck.checks.loss_scale.scaler_rule import (
    ScaleUsed,
    backed_off,
    check_loss_scale,
    left_by,
    loss_scale_finding,
    same,
)
from crosscheck.report import check_names
from crosscheck.report.coverage import runs, spans
from crosscheck.report.finding import Finding
from crosscheck.trace.format import LOSS_SCALE, Option, Part, Scaler, Step


class LossScale(Check):
    """Gathers the loss scale of every step of a segment, and then walks along them."""

    def start(self) -> None:
        self._steps = 0
        self._shared = False  # whether gradients of another optimizer overflowed under the same scaler
        self._unusual = False  # whether there was not one update of the scaler after each step
        self._scales: list[ScaleUsed] = []
        self._overflows: list[int] = []  # applied steps whose gradients were not finite at the end of backward

    def part(self, part: Part, _: list[list[dict[str, Option]]]) -> None:
        self._steps += len(part.steps)
        for step in part.steps:
            self._shared |= step.overflow_elsewhere
            self._unusual |= step.scaler_updates is not None
            updates = step.scaler_updates
            if updates is None and step.overflow_elsewhere and self._scales:
                updates = (True,)
            if step.loss_scale is not None:
                self._scales.append(ScaleUsed(step.step, step.applied, step.loss_scale, updates))
        # A norm in float64 may overflow where no number in float64 does.
        if not any(tensor.dtype == "float64" for tensor in part.tensors):
            self._overflows += [step.step for step in part.steps if _overflowed(step) and step.applied]

    def finish(self) -> None:
        scaler = self.segment.header.scaler
        self.answered = scaler is not None and len(self._scales) == self._steps > 0
        if scaler is not None and self.answered:
            found = [*self._not_restored(scaler), *check_loss_scale(scaler, self._scales)]
            if LOSS_SCALE in self.claims.between:
                self.context.notes += _changed_as_claimed(found)
            else:
                self.context.findings.add_complete(found)
        if scaler is not None:
            self.context.findings.add(map(_applied_all_the_same, self._overflows))
            moved = len({used.loss_scale for used in self._scales}) > 1
            untested = f"it stayed at {scaler.scale:g}: neither backoff nor growth was seen"
            if not self.answered:
                untested = "not every step on record has one"
            self.context.claimed(
                check_names.LOSS_SCALE, "the scaler's loss scale", "" if moved and self.answered else untested
            )
        elif self._overflows:
            self.context.warnings.append(
                f"gradients were not finite at the end of backward in {spans(runs(self._overflows))}, and the optimizer was "
                "stepped under a loss scale all the same: torch.amp.GradScaler skips such a step"
            )

    def _not_restored(self, scaler: Scaler) -> Iterator[Finding]:
        """Yield a finding if the scaler with which a run goes on is not as an earlier segment left it."""
        first = self.segment.header.first_step
        for check in reversed(self.earlier):
            known, before = check.segment.header.scaler, [used for used in check._scales if used.step < first]
            if known is None or not check.answered or not before or before[-1].step != first - 1:
                continue
            if check._unusual:
                self.context.notes.append(
                    f"the loss scaler was not updated once after each step, and how often it was after step {first - 1} is not "
                    "on record, so nothing says whether the resumed run begins with the scale that was left"
                )
                return
            left = left_by(known, before)
            # Whether another optimizer overflowed in the last step is told with the next one only.
            backed = same(scaler.scale, backed_off(known, before[-1].loss_scale)) and scaler.growth_tracker == 0
            if left is not None and not (check._shared and backed):
                yield from _differs(left, scaler, first)
            return


def _overflowed(step: Step) -> bool:
    """Return whether a step under a loss scale has gradients of which the scaler must find that they are not finite."""
    return step.loss_scale is not None and step.backward_norm is not None and not math.isfinite(step.backward_norm)


def _applied_all_the_same(step: int) -> Finding:
    return Finding(
        step=step,
        tensor="loss scaler",
        slot="found_inf",
        recorded=0.0,
        expected=1.0,
        cause="the step was applied although gradients were not finite at the end of backward, which torch.amp.GradScaler skips: "
        "either they were changed before the scaler looked at them, or what it found was set back",
        check=check_names.LOSS_SCALE,
    )


def _differs(left: Scaler, found: Scaler, step: int) -> Iterator[Finding]:
    """Yield in what a scaler differs from the one that was left, before a step."""
    if not same(found.scale, left.scale):
        cause = (
            f"the loss scale was not restored: step {step - 1} left {left.scale:.9g}, and the resumed run begins with "
            f"{found.scale:.9g}"
        )
        yield loss_scale_finding(ScaleUsed(step, True, found.scale), left.scale, cause)
    elif found.growth_tracker != left.growth_tracker:
        cause = (
            f"the growth tracker of the loss scale was not restored: step {step - 1} left {left.growth_tracker}, and the resumed "
            f"run begins with {found.growth_tracker}"
        )
        yield replace(
            loss_scale_finding(ScaleUsed(step, True, found.growth_tracker), left.growth_tracker, cause),
            slot="growth_tracker",
        )


def _changed_as_claimed(found: Sequence[Finding]) -> Iterator[str]:
    """Yield a note on where the scale moved otherwise than by the rule, which the trainer claims to do."""
    if found:
        steps = spans(runs(sorted({finding.step for finding in found})))
        yield f"{LOSS_SCALE} was changed before {steps}, otherwise than torch.amp.GradScaler changes it, as the trainer claims"
    else:
        yield f"{LOSS_SCALE} never changed otherwise than torch.amp.GradScaler changes it, though the trainer claims that it may"
