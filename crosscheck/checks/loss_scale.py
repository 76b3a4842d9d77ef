"""Is each loss scale the one that torch.amp.GradScaler makes of the steps that were applied?"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from crosscheck.checks.check import Check
from crosscheck.report.finding import Finding
from crosscheck.tolerance import roundoffs
from crosscheck.trace.format import Option, Part, Scaler


class ScaleUsed(NamedTuple):
    """The loss scale of one attempt to step."""

    step: int  # counted from 1, skipped ones included
    applied: bool  # also false if the gradients of another optimizer under the same scaler overflowed
    loss_scale: float


class LossScale(Check):
    """Gathers the loss scale of every step of a segment, and then walks along them."""

    def start(self) -> None:
        self._steps = 0
        self._scales: list[ScaleUsed] = []

    def part(self, part: Part, _: list[list[dict[str, Option]]]) -> None:
        self._steps += len(part.steps)
        for step in part.steps:
            if step.overflow_elsewhere and self._scales:
                self._scales[-1] = self._scales[-1]._replace(applied=False)
            if step.loss_scale is not None:
                self._scales.append(ScaleUsed(step.step, step.applied, step.loss_scale))

    def finish(self) -> None:
        scaler = self.segment.header.scaler
        self.answered = scaler is not None and len(self._scales) == self._steps > 0
        if scaler is not None and self.answered:
            self.context.findings.add_complete(check_loss_scale(scaler, self._scales))
        if scaler is not None:
            moved = len({used.loss_scale for used in self._scales}) > 1
            untested = f"it stayed at {scaler.scale:g}: neither backoff nor growth was seen"
            if not self.answered:
                untested = "not every step on record has one"
            self.context.claimed("loss scale", "the scaler's loss scale", "" if moved and self.answered else untested)


def check_loss_scale(scaler: Scaler, attempts: Sequence[ScaleUsed]) -> list[Finding]:
    """Return a finding for each way in which the scale moved otherwise than torch.amp.GradScaler moves it.

    The rule (`_amp_update_scale_`): a skipped step multiplies the scale by backoff_factor and sets the tracker to
    0. An applied one adds 1 to the tracker; when that is growth_interval, the scale is multiplied by growth_factor,
    unless that is infinite, and the tracker set to 0. Products are rounded to float32. Each scale is held against
    what should have become of the one recorded before it, so that one fault is not found again at every later step.

    `scaler` is as it was before the first of the `attempts`, which has every attempt in its order.
    """
    found: dict[str, Finding] = {}
    walk = _Walk(scaler)
    for kind, finding in walk.faults(attempts):
        first = found.setdefault(kind, replace(finding, steps=0))
        count = first.steps + finding.steps
        found[kind] = replace(first, steps=count, elements=count, last_step=finding.last_step)
    if "early" in found and walk.never_set_back:
        cause = f"the growth tracker is not set back by a skipped step: {found['early'].cause}"
        found["early"] = replace(found["early"], cause=cause)
    return sorted(found.values(), key=lambda finding: finding.step)


class _Walk:
    """From one attempt to the next."""

    def __init__(self, scaler: Scaler) -> None:
        self.scaler = scaler
        self.in_a_row = self.unreset = scaler.growth_tracker  # the second one as if no skip set it to 0
        self.never_set_back = True  # whether that explains each growth that came too early
        self.overdue: Finding | None = None  # the scale should have grown, and has not yet

    def faults(self, attempts: Sequence[ScaleUsed]) -> Iterator[tuple[str, Finding]]:
        if not attempts:
            return
        start = _float32(self.scaler.scale)
        if not _same(attempts[0].loss_scale, start):
            yield "start", _finding(attempts[0], start, "the first loss scale is not the scaler's")
        for last, now in pairwise(attempts):
            yield from self._after_applied(last, now) if last.applied else self._after_skipped(last, now)
        yield from self._never_grown()

    def _after_skipped(self, last: ScaleUsed, now: ScaleUsed) -> Iterator[tuple[str, Finding]]:
        yield from self._never_grown()
        self.in_a_row = 0
        expected = _backed_off(self.scaler, last.loss_scale)
        if _same(now.loss_scale, expected):
            return
        if now.loss_scale == last.loss_scale:
            sentence = f"the loss scale did not back off after step {last.step}, which was skipped"
            yield "no backoff", _finding(now, expected, sentence)
        else:
            yield "otherwise skipped", _finding(now, expected, _otherwise(last, now, expected))

    def _after_applied(self, last: ScaleUsed, now: ScaleUsed) -> Iterator[tuple[str, Finding]]:
        self.in_a_row, self.unreset = self.in_a_row + 1, self.unreset + 1
        in_a_row, unreset, interval = self.in_a_row, self.unreset, self.scaler.growth_interval
        grown = _grown(self.scaler, last.loss_scale)
        expected = grown if in_a_row == interval else last.loss_scale
        changed, grew = not _same(now.loss_scale, last.loss_scale), now.loss_scale == grown
        if changed or (in_a_row == interval and _same(expected, last.loss_scale)):  # grown, or too large to
            self.in_a_row = self.unreset = 0
        if changed and not grew:
            yield from self._never_grown()
        if self.overdue is not None:
            if changed:
                yield "late", replace(self.overdue, cause=_grew_too("late", in_a_row, interval))
                self.overdue = None
            else:
                self.overdue = replace(self.overdue, steps=self.overdue.steps + 1, last_step=now.step)
        elif _same(now.loss_scale, expected):
            pass
        elif not changed:
            sentence = f"the loss scale did not grow after {in_a_row} applied steps in a row, which is growth_interval"
            self.overdue = _finding(now, expected, sentence)
        elif grew:
            self.never_set_back &= unreset == interval
            kind = "early" if in_a_row < interval else "late"
            yield kind, _finding(now, expected, _grew_too(kind, in_a_row, interval))
        elif now.loss_scale == _backed_off(self.scaler, last.loss_scale):
            sentence = f"the loss scale backed off after step {last.step}, which was applied"
            yield "backoff", _finding(now, expected, sentence)
        else:
            yield "otherwise applied", _finding(now, expected, _otherwise(last, now, expected))

    def _never_grown(self) -> Iterator[tuple[str, Finding]]:
        if self.overdue is not None:
            yield "never", self.overdue
        self.overdue = None


def _backed_off(scaler: Scaler, scale: float) -> float:
    return _float32(scale * scaler.backoff_factor)


def _grown(scaler: Scaler, scale: float) -> float:
    grown = _float32(scale * scaler.growth_factor)
    return grown if np.isfinite(grown) else scale


def _float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)


def _grew_too(early_or_late: str, in_a_row: int, interval: int) -> str:
    return f"the loss scale grew too {early_or_late}, after {in_a_row} applied steps in a row; growth_interval is {interval}"


def _otherwise(last: ScaleUsed, now: ScaleUsed, expected: float) -> str:
    what = "applied" if last.applied else "skipped"
    return (
        f"the loss scale went from {last.loss_scale:.9g} to {now.loss_scale:.9g} after step {last.step}, which was {what}: "
        f"torch.amp.GradScaler makes {expected:.9g} of it"
    )


def _finding(now: ScaleUsed, expected: float, cause: str) -> Finding:
    return Finding(
        step=now.step,
        tensor="loss scaler",
        slot="loss_scale",
        recorded=now.loss_scale,
        expected=expected,
        eta=roundoffs(now.loss_scale, expected),
        cause=cause,
        check="loss scale",
    )
