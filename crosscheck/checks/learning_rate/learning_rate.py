"""Is each learning rate that was used the one that the claimed schedule gives?"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscheck.checks.check import Check
from crosscheck.checks.learning_rate.claimed_rates import Claimed, Table
from crosscheck.checks.learning_rate.fractional_epochs import updates_of_an_epoch
from crosscheck.checks.learning_rate.rates import (
    RateUsed,
    attempts_before,
    check_learning_rates,
    claimed_by_group,
    counts_of,
)
from crosscheck.checks.learning_rate.unclaimed import moved_on
from crosscheck.errors import TraceError
from crosscheck.report import check_names
from crosscheck.report.coverage import runs, spans
from crosscheck.report.finding import Finding
from crosscheck.trace.format import Option, Part, TensorInfo, as_float
from crosscheck.trace.reserved_options import CLAIMED_RATE
from crosscheck.trace.schedule_claims import BY_GROUP, RECORDED, read_schedule

_Floats = NDArray[np.float64]


class LearningRate(Check):
    """Gathers the learning rates of every step of a segment, and then holds them against the schedule.

    Where no schedule is claimed, one thing can be asked all the same: whether a rate that changes with every update stays where
    it is after a step that was skipped.
    """

    def start(self) -> None:
        self._initial: dict[int, float] = {}  # by group, where it is told
        self._rates: list[RateUsed] = []
        self._scheduled = False  # a scheduler of torch's keeps initial_lr in the groups that it has

    def part(self, part: Part, options: list[list[dict[str, Option]]]) -> None:
        self.answered = self.claims.schedule is not None
        claimed = {tensor.group: lr for tensor in reversed(part.tensors) if (lr := self._claimed(tensor)) is not None}
        for step, groups in zip(part.steps, options, strict=True):
            rates, claimed_rates = _rates_of(groups, "lr"), _rates_of(groups, CLAIMED_RATE)
            self._rates.append(RateUsed(step.step, step.applied, rates, claimed_rates))
            self._scheduled |= any("initial_lr" in group for group in groups)
            for number, group in enumerate(groups):
                initial = as_float(claimed.get(number, group.get("initial_lr")))
                if number not in self._initial and initial is not None:
                    self._initial[number] = initial

    def finish(self) -> None:
        schedule = self.claims.schedule
        if schedule is None:
            self.context.findings.add(moved_on(self._rates))
            return
        if not self._rates:
            return
        read_schedule(schedule)
        on_record = self._applied_on_record()
        applied = self.claims.applied if on_record is None else on_record
        if schedule["name"] == RECORDED:
            self.context.findings.add(self._not_restored(schedule, applied))
        counts = counts_of(self._rates, applied)
        each = claimed_by_group(schedule, self._rates, counts, self.claims.applied)
        right = [claimed.factors(counts) for claimed in each]
        initial = [self._initial_rate(number, claimed, right[number]) for number, claimed in enumerate(each)]
        fractions = self._fractions(each, initial, counts)
        self.context.claimed(
            check_names.LEARNING_RATE, f"schedule {_told(schedule)}", fractions or _untested(schedule, right)
        )
        if fractions:
            self.answered = False
            return
        self.context.notes += self._without_rates(each, right)
        self.context.findings.add_complete(
            check_learning_rates(
                schedule,
                initial,
                self._rates,
                applied_before=applied,
                claimed_before=self.claims.applied,
                world_size=self.segment.header.world_size,
            )
        )

    def _applied_on_record(self) -> int | None:
        """Return how many updates were applied before this segment, if an earlier one reaches as far; None if none does."""
        first = self.segment.header.first_step
        for check in reversed(self.earlier):
            if check._rates and check._rates[0].step < first <= check._rates[-1].step + 1:
                before = check._applied_on_record()
                already = check.claims.applied if before is None else before
                return already + sum(used.applied for used in check._rates if used.step < first)
        return None

    def _not_restored(self, claim: Mapping[str, Any], applied: int) -> Iterator[Finding]:
        """Yield a finding if the scheduler that gave the claimed rates did not stand where the run does."""
        every = claim["every"]
        taken = {applied} if every == 1 else {applied, attempts_before(self._rates, applied)}
        if all(claim["stepped"] != count // every for count in taken):
            yield Finding(
                step=self._rates[0].step,
                tensor="group 0",
                slot="lr",
                recorded=float(claim["stepped"]),
                expected=float(applied // every),
                cause=(
                    f"the scheduler had been stepped {claim['stepped']} times when recording began, after {applied} "
                    "applied updates: its state was not restored, or it was stepped for other reasons"
                ),
                check=check_names.LEARNING_RATE,
            )

    def _claimed(self, tensor: TensorInfo) -> Option:
        return (self.claims.options or {}).get(tensor.name, {}).get("lr")

    def _fractions(self, each: Sequence[Claimed], initial: Sequence[float | None], counts: NDArray[np.int64]) -> str:
        """Return why the rates test no schedule if the scheduler is given fractions of an epoch; nothing if it is not."""
        for group, (claimed, rate) in enumerate(zip(each, initial, strict=True)):
            used = [attempt.lr[group] for attempt in self._rates if group < len(attempt.lr)]
            if rate is None or len(used) < len(counts):
                continue
            # The first update is followed by a step with a zero.
            updates = updates_of_an_epoch(claimed, rate, np.array(used), np.maximum(counts - 1, 0))
            if updates is not None:
                return (
                    f"the scheduler is stepped to fractions of an epoch, step(epoch + i / {updates}), and the claim counts whole "
                    "steps; a period in updates, with step(), can be tested"
                )
        return ""

    def _without_rates(self, each: Sequence[Claimed], right: Sequence[_Floats]) -> Iterator[str]:
        """Yield a note if the copy of the scheduler gave rates for some steps and not for all."""
        tables = [
            factors
            for claimed, factors in zip(each, right, strict=True)
            if isinstance(claimed, Table) and len(claimed.stepped)
        ]
        unknown = np.any(np.isnan(tables), axis=0) if tables else np.zeros(0, np.bool_)
        if unknown.any():
            steps = [used.step for used, lacks in zip(self._rates, unknown, strict=True) if lacks]
            yield (
                f"the learning rate is checked for {len(unknown) - len(steps)} of {len(unknown)} steps: the scheduler's own code "
                f"gave none for {spans(runs(steps))}"
            )

    def _initial_rate(self, group: int, claimed: Claimed, right: _Floats) -> float | None:
        """Return what a group starts from: as claimed for a tensor of it, else as torch's schedulers keep it, else as an
        earlier segment had it; for a group that is new in this segment what its first rate says. Return None for a group
        that the scheduler does not have.

        Raises TraceError if a run goes on and nothing tells.
        """
        first = next(k for k, used in enumerate(self._rates) if group < len(used.lr))
        if isinstance(claimed, Table) and (first == 0 or len(claimed.stepped)):
            return 1.0  # the table has rates instead of factors
        if group in self._initial:
            return self._initial[group]
        for check in reversed(self.earlier):
            if group in check._initial:
                return check._initial[group]
        if first > 0 and self._scheduled:
            self.context.notes.append(
                f"group {group} joined after the scheduler was made, which does not have it: its learning rate is not checked"
            )
            return None
        if first == 0 and (self.claims.applied or self.segment.header.first_step > 1):
            raise TraceError(
                f"{self.segment.folder}: a schedule is claimed, and nothing tells from which learning rate group {group} "
                "started: neither claims.options with its lr, nor initial_lr, nor an earlier segment"
            )
        known = [k for k in range(first, len(right)) if right[k] and np.isfinite(right[k])]
        self._initial[group] = self._rates[known[0]].lr[group] / float(right[known[0]]) if known else 0.0
        self.context.notes.append(
            f"nothing tells the initial learning rate of group {group}: it is taken to be "
            f"{self._initial[group]:.6g}, which is what its first rate and the claimed schedule make of it"
        )
        return self._initial[group]


def _rates_of(groups: Sequence[Mapping[str, Option]], name: str) -> tuple[float, ...]:
    """Return the option of this name of each group; NaN where it is no number."""
    rates = (as_float(group.get(name)) for group in groups)
    return tuple(math.nan if rate is None else rate for rate in rates)


def _told(claim: Mapping[str, Any]) -> str:
    """Return the name of a schedule; of several, all their names."""
    if claim["name"] == BY_GROUP:
        return ", ".join(dict.fromkeys(_told(inner) for inner in claim["schedules"]))
    if claim["name"] == "every":
        return f"{_told(claim['schedule'])}, stepped once in {claim['updates']} updates"
    return "of the scheduler's own code" if claim["name"] == RECORDED else str(claim["name"])


def _untested(claim: Mapping[str, Any], right: Sequence[_Floats]) -> str:
    """Return why nothing on record could have contradicted the schedule; nothing if something could."""
    known = [factors[~np.isnan(factors)] for factors in right]
    if not any(map(len, known)):
        return "its own code gave no rate at any step on record"
    if any((factors != factors[0]).any() for factors in known if len(factors)):
        return ""
    if claim["name"] == "constant" and len(right[0]) > 1:
        return ""
    return f"it asks for the same rate at all {len(right[0]):,} steps on record"
