"""Moves a loss scale by the rule of torch.amp.GradScaler, and finds where recorded scales differ from that."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from crosscheck.report import check_names
from crosscheck.report.finding import Finding
from crosscheck.text import count
from crosscheck.tolerance import roundoffs
from crosscheck.trace.format import LOSS_SCALE, Scaler


class ScaleUsed(NamedTuple):
    """The loss scale of one attempt to step."""

    step: int  # counted from 1, skipped ones included
    applied: bool
    loss_scale: float
    updates: tuple[bool, ...] | None = None
    """Of the scaler's updates since the attempt before, whether each counted an overflow. None: one,
    which counted that attempt only."""


def check_loss_scale(scaler: Scaler, attempts: Sequence[ScaleUsed]) -> list[Finding]:
    """Return a finding for each way in which the scale moved otherwise than torch.amp.GradScaler moves it.

    The rule (`_amp_update_scale_`): a skipped step multiplies the scale by backoff_factor and sets the tracker to
    0. An applied one adds 1 to the tracker; when that is growth_interval, the scale is multiplied by growth_factor,
    unless that is infinite, and the tracker set to 0. Products are rounded to float32. Each scale is held against
    what should have become of the one recorded before it, so that one fault is not found again at every later step.
    Where other optimizers share the scaler, several updates or none may lie between two attempts, and count the overflows of
    those.

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


def left_by(scaler: Scaler, attempts: Sequence[ScaleUsed]) -> Scaler | None:
    """Return what a scaler is after attempts; None if they did not move it by the rule, so that nobody can say.

    `scaler` is as it was before the first of them.
    """
    walk, last = _Walk(scaler), attempts[-1]
    if list(walk.faults(attempts)):
        return None
    scale, tracker = last.loss_scale, walk.in_a_row + 1
    if not last.applied:
        scale, tracker = backed_off(scaler, scale), 0
    elif tracker == scaler.growth_interval:
        scale, tracker = _grown(scaler, scale), 0
    return scaler.model_copy(update={"scale": scale, "growth_tracker": tracker})


class _Walk:
    """Follows the scale from one attempt to the next."""

    def __init__(self, scaler: Scaler) -> None:
        self.scaler = scaler
        self.in_a_row = self.unreset = scaler.growth_tracker  # the second one as if no skip set it to 0
        self.never_set_back = True  # whether that explains each growth that came too early
        self.overdue: Finding | None = None  # the scale should have grown, and has not yet
        self.counted = "applied steps"  # what the tracker counts

    def faults(self, attempts: Sequence[ScaleUsed]) -> Iterator[tuple[str, Finding]]:
        if not attempts:
            return
        if any(used.updates is not None for used in attempts):
            self.counted = "updates without an overflow"
        start = self._updated(_float32(self.scaler.scale), attempts[0].updates or ())
        if not same(attempts[0].loss_scale, start):
            yield "start", loss_scale_finding(attempts[0], start, "the first loss scale is not the scaler's")
        for last, now in pairwise(attempts):
            if now.updates is not None:
                yield from self._after_updates(last, now, now.updates)
            else:
                yield from self._after_applied(last, now) if last.applied else self._after_skipped(last, now)
        yield from self._never_grown()

    def _after_updates(self, last: ScaleUsed, now: ScaleUsed, updates: Sequence[bool]) -> Iterator[tuple[str, Finding]]:
        """Hold a scale against several updates, between which it is not on record, or against none."""
        yield from self._never_grown()
        expected = self._updated(last.loss_scale, updates)
        if not same(now.loss_scale, expected):
            yield "updates", loss_scale_finding(now, expected, _otherwise_updated(last, now, expected, updates))

    def _updated(self, scale: float, updates: Sequence[bool]) -> float:
        """Return what becomes of a scale by updates, and set the tracker."""
        for overflowed in updates:
            self.in_a_row = 0 if overflowed else self.in_a_row + 1
            if overflowed:
                scale = backed_off(self.scaler, scale)
            elif self.in_a_row == self.scaler.growth_interval:
                scale, self.in_a_row = _grown(self.scaler, scale), 0
            self.unreset = self.in_a_row
        return scale

    def _after_skipped(self, last: ScaleUsed, now: ScaleUsed) -> Iterator[tuple[str, Finding]]:
        yield from self._never_grown()
        self.in_a_row = 0
        expected = backed_off(self.scaler, last.loss_scale)
        if same(now.loss_scale, expected):
            return
        if now.loss_scale == last.loss_scale:
            sentence = f"the loss scale did not back off after step {last.step}, which was skipped"
            yield "no backoff", loss_scale_finding(now, expected, sentence)
        else:
            yield "otherwise skipped", loss_scale_finding(now, expected, _otherwise(last, now, expected))

    def _after_applied(self, last: ScaleUsed, now: ScaleUsed) -> Iterator[tuple[str, Finding]]:
        self.in_a_row, self.unreset = self.in_a_row + 1, self.unreset + 1
        in_a_row, unreset, interval = self.in_a_row, self.unreset, self.scaler.growth_interval
        grown = _grown(self.scaler, last.loss_scale)
        expected = grown if in_a_row == interval else last.loss_scale
        changed, grew = not same(now.loss_scale, last.loss_scale), now.loss_scale == grown
        if changed or (in_a_row == interval and same(expected, last.loss_scale)):  # grown, or too large to
            self.in_a_row = self.unreset = 0
        if changed and not grew:
            yield from self._never_grown()
        if self.overdue is not None:
            if changed:
                yield "late", replace(self.overdue, cause=self._grew_too("late", in_a_row))
                self.overdue = None
            else:
                self.overdue = replace(self.overdue, steps=self.overdue.steps + 1, last_step=now.step)
        elif same(now.loss_scale, expected):
            pass
        elif not changed:
            sentence = f"the loss scale did not grow after {in_a_row} {self.counted} in a row, which is growth_interval"
            self.overdue = loss_scale_finding(now, expected, sentence)
        elif grew:
            self.never_set_back &= unreset == interval
            kind = "early" if in_a_row < interval else "late"
            yield kind, loss_scale_finding(now, expected, self._grew_too(kind, in_a_row))
        elif now.loss_scale == backed_off(self.scaler, last.loss_scale):
            sentence = f"the loss scale backed off after step {last.step}, which was applied"
            yield "backoff", loss_scale_finding(now, expected, sentence)
        else:
            yield "otherwise applied", loss_scale_finding(now, expected, _otherwise(last, now, expected))

    def _never_grown(self) -> Iterator[tuple[str, Finding]]:
        if self.overdue is not None:
            yield "never", self.overdue
        self.overdue = None

    def _grew_too(self, early_or_late: str, in_a_row: int) -> str:
        interval = self.scaler.growth_interval
        return f"the loss scale grew too {early_or_late}, after {in_a_row} {self.counted} in a row; growth_interval is {interval}"


def backed_off(scaler: Scaler, scale: float) -> float:
    """Return what becomes of a scale after a skipped step."""
    return _float32(scale * scaler.backoff_factor)


def _grown(scaler: Scaler, scale: float) -> float:
    grown = _float32(scale * scaler.growth_factor)
    return grown if np.isfinite(grown) else scale


def _float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def same(a: float, b: float) -> bool:
    """Return whether two scales are equal; NaN equals itself."""
    return a == b or (a != a and b != b)


def _otherwise(last: ScaleUsed, now: ScaleUsed, expected: float) -> str:
    what = "applied" if last.applied else "skipped"
    return (
        f"the loss scale went from {last.loss_scale:.9g} to {now.loss_scale:.9g} after step {last.step}, which was {what}: "
        f"torch.amp.GradScaler makes {expected:.9g} of it"
    )


def _otherwise_updated(last: ScaleUsed, now: ScaleUsed, expected: float, updates: Sequence[bool]) -> str:
    if not updates:
        return (
            f"the loss scale went from {last.loss_scale:.9g} to {now.loss_scale:.9g} between steps {last.step} and {now.step}, "
            "though the scaler was not updated"
        )
    return (
        f"the loss scale went from {last.loss_scale:.9g} to {now.loss_scale:.9g} between steps {last.step} and {now.step}, in "
        f"{count(len(updates), 'update')} of which {sum(updates)} counted an overflow: torch.amp.GradScaler makes {expected:.9g} "
        "of it"
    )


def loss_scale_finding(now: ScaleUsed, expected: float, cause: str) -> Finding:
    """Return a finding about the scale of an attempt."""
    return Finding(
        step=now.step,
        tensor="loss scaler",
        slot=LOSS_SCALE,
        recorded=now.loss_scale,
        expected=expected,
        eta=roundoffs(now.loss_scale, expected),
        cause=cause,
        check=check_names.LOSS_SCALE,
    )
