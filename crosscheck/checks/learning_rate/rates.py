"""Compares the learning rates that were used with a claim, and names the mistakes that explain the wrong ones."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from crosscheck.arrays import Bits, Counts, Floats
from crosscheck.checks.learning_rate.claimed_rates import Claimed, Formula, Table, claimed_of_group
from crosscheck.checks.learning_rate.fractional_epochs import updates_of_an_epoch
from crosscheck.checks.learning_rate.mistaken_counts import Miscount, mistaken_counts, with_a_rest
from crosscheck.report import check_names
from crosscheck.report.finding import UNEXPLAINED, Finding
from crosscheck.tolerance import FORMATS, roundoffs
from crosscheck.trace.schedule_claims import BY_GROUP, RECORDED, read_schedule

_RELATIVE = 1e-11  # torch's own schedulers multiply from step to step: 6e-14 of a rate in 30,000 steps
_RELATIVE_IN_FLOAT32 = 2.0**-22  # a factor, its product with the initial rate, and that rate itself are rounded
_NEAR_ZERO = 2.0**-50  # of the peak: a cosine near zero is a difference of numbers near one
_TINY = float(np.finfo(np.float64).tiny)  # below it XLA has zero


class RateUsed(NamedTuple):
    """The learning rates of one attempt to step."""

    step: int  # counted from 1, skipped ones included
    applied: bool
    lr: tuple[float, ...]  # by parameter group
    claimed: tuple[float, ...] = ()  # by parameter group, where the claim is on record beside the rate


def check_learning_rates(
    claim: Mapping[str, Any],
    initial_lr: Sequence[float | None],
    attempts: Sequence[RateUsed],
    *,
    applied_before: int = 0,
    claimed_before: int | None = None,
    world_size: int = 1,
) -> list[Finding]:
    """Return a finding for each group whose learning rates are not its initial one times the schedule's factor.

    Args:
        claim: The schedule, as `crosscheck.checks.learning_rate.schedules.factors` takes it, or by group, or recorded.
        initial_lr: By parameter group; None for one that the schedule does not cover.
        attempts: Every attempt in its order. Where one lacks a group, that group is not judged.
        applied_before: Updates applied before the first of the attempts.
        claimed_before: How many these are by the claim itself; left out, as many.
        world_size: Ranks of the run.

    Raises:
        TraceError: The claim is not usable.
    """
    counts = counts_of(attempts, applied_before)
    steps = np.array([attempt.step for attempt in attempts], np.int64)
    findings = list[Finding]()
    mistakes: dict[int, list[_Mistake]] = {}  # by the schedule: groups may share one
    claimed_before = applied_before if claimed_before is None else claimed_before
    each = claimed_by_group(claim, attempts, counts, claimed_before)
    compared = list(_compared(each, initial_lr, attempts, counts))
    if any(rates.wrong.any() for *_, rates in compared) and any(claimed.every > 1 for claimed in each):
        by_attempts = attempts_before(attempts, applied_before) + np.arange(len(attempts))
        if not any(rates.wrong.any() for *_, rates in _compared(each, initial_lr, attempts, counts, by_attempts)):
            return []
    for group, there, rates in compared:
        claimed, used, wrong = rates.claimed, rates.used, rates.wrong
        if wrong.any():
            if id(claimed) not in mistakes:
                tried = mistaken_counts(
                    counts,
                    steps,
                    every=claimed.every,
                    applied_before=applied_before,
                    world_size=world_size,
                    changes=(_first_change(rates.expected, counts[there]), _first_change(used, counts[there])),
                )
                mistakes[id(claimed)] = _mistakes(claimed, tried)
            causes = (
                rates.causes(wrong, mistakes[id(claimed)], there)
                or rates.causes(wrong, _mistakes(claimed, rates.rests(mistakes[id(claimed)], counts, there)), there)
                or list(rates.periods(counts[there]))
                or list(_not_restored(claimed_before, applied_before))
            )
            findings.append(_finding(group, steps[there], rates, wrong, causes))
    return findings


def rates_follow(
    each: Sequence[Claimed], initial_lr: Sequence[float | None], attempts: Sequence[RateUsed], stepped: Counts
) -> bool:
    """Return whether every rate is what the schedule of its group gives after so many steps of the scheduler."""
    aligned = [replace(one, first=int(stepped[0])) if isinstance(one, Table) else one for one in each]
    return not any(rates.wrong.any() for *_, rates in _compared(aligned, initial_lr, attempts, stepped))


def claimed_by_group(
    claim: Mapping[str, Any], attempts: Sequence[RateUsed], counts: Counts, claimed_before: int
) -> list[Claimed]:
    """Return what is claimed of each group that any attempt has; groups of one schedule share one object."""
    read_schedule(claim)
    number = max((len(attempt.lr) for attempt in attempts), default=0)
    if claim["name"] not in (BY_GROUP, RECORDED):
        return [Formula(claim)] * number
    found: list[Claimed] = []
    for group in range(number):
        told = [attempt.claimed[group] if group < len(attempt.claimed) else np.nan for attempt in attempts]
        new = claimed_of_group(claim, group, counts, np.array(told, np.float64), claimed_before)
        found.append(next((old for old in found if isinstance(old, Formula) and old == new), new))
    return found


def counts_of(attempts: Sequence[RateUsed], applied_before: int) -> Counts:
    """Return how many updates were applied before each attempt."""
    applied = np.array([attempt.applied for attempt in attempts], np.int64)
    return applied_before + np.cumsum(applied) - applied


def attempts_before(attempts: Sequence[RateUsed], applied_before: int) -> int:
    """Return how many attempts there were before these, by their numbers; at least as many as updates were applied."""
    return max(attempts[0].step - 1, applied_before)


def _not_restored(claimed_before: int, applied_before: int) -> Iterator[str]:
    """Yield that claim and record start from different counts, if they do."""
    if claimed_before != applied_before:
        yield (
            f"the claim goes on from {claimed_before} applied updates, and the record from {applied_before}: the scheduler's "
            "state was probably not restored"
        )


def _first_change(rates: Floats, counts: Counts) -> int | None:
    """Return after how many updates a rate is first another than at the start; None if it never is."""
    changed = np.flatnonzero(rates != rates[0])
    return int(counts[changed[0]]) if len(changed) else None


class _Mistake(NamedTuple):
    """A schedule that counts something else."""

    counted: Miscount
    factors: Floats  # (attempts,)


def _mistakes(claimed: Claimed, tried: Iterable[Miscount]) -> list[_Mistake]:
    each = list(tried)
    if not each:
        return []
    found = claimed.factors(np.concatenate([counted.counts for counted in each]))  # at once: each length is compiled
    return [_Mistake(*one) for one in zip(each, np.split(found, len(each)), strict=True)]


class _Rates(NamedTuple):
    """One group: what it used, and what it should have."""

    claimed: Claimed
    initial: float
    used: Floats  # (attempts,)
    expected: Floats  # (attempts,)

    @property
    def told(self) -> Bits:
        """Return where the claim says anything: a rate that is no number is one that nobody could compute."""
        return ~np.isnan(self.expected) if isinstance(self.claimed, Table) else np.ones(self.expected.shape, np.bool_)

    @property
    def wrong(self) -> Bits:
        return self.told & ~self.agree(self.expected)

    @property
    def in_float32(self) -> bool:
        """Return whether the rates can be those of a float32 tensor, as capturable wants it."""
        with np.errstate(all="ignore"):  # whatever was recorded may be beyond float32
            return bool((self.used == self.used.astype(np.float32)).all())

    def agree(self, expected: Floats) -> Bits:
        with np.errstate(all="ignore"):  # whatever was recorded may be infinite
            peak = float(np.max(np.abs(self.expected), initial=0.0, where=np.isfinite(self.expected)))
            size = peak if isinstance(self.claimed, Table) else max(peak, abs(self.initial))
            floor = size * (_NEAR_ZERO if self.claimed.cancels else _TINY) + _TINY
            relative = _RELATIVE_IN_FLOAT32 if self.in_float32 else _RELATIVE
            close = np.abs(self.used - expected) <= relative * np.abs(expected) + floor
        same = (self.used == expected) | (np.isnan(self.used) & np.isnan(expected))
        return np.where(np.isfinite(expected), close, same)

    def causes(self, wrong: Bits, mistakes: list[_Mistake], there: Bits) -> list[str]:
        """Return the mistakes, as sentences, each of which explains all these rates: those of the simplest kind that does."""
        found: list[str] = []
        if np.all(self.used == self.used[0]) and not np.all(self.expected == self.expected[0]):
            found.append(f"it stays at {self.used[0]:.6g}, as if the schedule never stepped")
        for mistake in mistakes:
            as_if, in_time = self._as_if(mistake, there)
            if as_if[in_time].all() and (wrong & in_time).any():
                found.append(mistake.counted.sentence)
        return list(dict.fromkeys(found)) or list(self._multiple())

    def rests(self, mistakes: list[_Mistake], counts: Counts, there: Bits) -> Iterator[Miscount]:
        """Yield variants of those mistakes that explain the first rates and not all, where an epoch may have ended."""
        for mistake in mistakes:
            as_if, in_time = self._as_if(mistake, there)
            other = np.flatnonzero(in_time & ~as_if)
            if mistake.counted.micro_batches > 1 and len(other) and other[0] > 1:
                yield from with_a_rest(mistake.counted, counts, self.claimed.every, int(counts[there][other[0]]))

    def periods(self, counts: Counts) -> Iterator[str]:
        """Yield by how much longer the periods of warm restarts are than claimed, if that explains the rates."""
        updates = updates_of_an_epoch(self.claimed, self.initial, self.used, counts)
        if updates is not None:
            yield (
                f"its periods are {updates} times as long, as if the scheduler were stepped to fractions of an epoch, "
                f"step(epoch + i / {updates})"
            )

    def _as_if(self, mistake: _Mistake, there: Bits) -> tuple[Bits, Bits]:
        """Return which rates are as a mistake makes them, and of which it says something."""
        mistaken = _times(self.initial, mistake.factors[there])
        # What was counted wrong shows before the run that is claimed is over.
        in_time = mistake.counted.counts[there] <= self.claimed.total
        if isinstance(self.claimed, Table):
            in_time &= ~np.isnan(mistaken)
        return self.agree(mistaken), in_time

    def _multiple(self) -> Iterator[str]:
        regular = np.isfinite(self.expected) & np.isfinite(self.used)
        at = int(np.argmax(np.where(regular, np.abs(self.expected), 0.0)))
        if len(self.used) < 2 or not regular[at] or self.expected[at] == 0:
            return
        with np.errstate(all="ignore"):
            ratio = float(self.used[at] / self.expected[at])
            explains = self.agree(self.expected * ratio).all()
        if explains:
            yield (
                f"the initial lr acts as {self.initial * ratio:.6g} where the claim says {self.initial:.6g} "
                f"({ratio:.6g} times)"
            )


def _compared(
    each: Sequence[Claimed],
    initial_lr: Sequence[float | None],
    attempts: Sequence[RateUsed],
    counts: Counts,
    by_attempts: Counts | None = None,
) -> Iterator[tuple[int, Bits, _Rates]]:
    """Yield of each group that the schedule covers its number, which attempts have it, and its rates.

    `by_attempts`: what a scheduler that is stepped once in several updates counts instead: the batches of an epoch are counted
    whether their steps were skipped or not.
    """
    for group, (initial, claimed) in enumerate(zip(initial_lr, each, strict=False)):
        if initial is None:
            continue
        counted = counts
        if by_attempts is not None and claimed.every > 1:
            counted = by_attempts
            claimed = replace(claimed, first=int(counted[0])) if isinstance(claimed, Table) else claimed
        there = np.array([group < len(attempt.lr) for attempt in attempts], np.bool_)
        used = np.array([attempt.lr[group] for attempt in attempts if group < len(attempt.lr)], np.float64)
        yield group, there, _Rates(claimed, initial, used, _times(initial, claimed.factors(counted)[there]))


def _times(initial: float, factor: Floats) -> Floats:
    with np.errstate(all="ignore"):  # 0 times infinity, for one
        return initial * factor


def _finding(group: int, steps: Counts, rates: _Rates, wrong: Bits, causes: list[str]) -> Finding:
    at, count = int(np.argmax(wrong)), int(wrong.sum())
    used, expected = float(rates.used[at]), float(rates.expected[at])
    why = " or ".join(causes) or UNEXPLAINED
    often = f", stepped once in {rates.claimed.every} updates," if rates.claimed.every > 1 else ""
    roundoff = FORMATS["float32" if rates.in_float32 else "float64"].unit_roundoff
    return Finding(
        step=int(steps[at]),
        last_step=int(steps[np.flatnonzero(wrong)[-1]]),
        tensor=f"group {group}",
        slot="lr",
        recorded=used,
        expected=expected,
        eta=roundoffs(used, expected, roundoff),
        cause=f"lr is not what the {rates.claimed.name} schedule{often} gives: {why}",
        elements=count,
        steps=count,
        check=check_names.LEARNING_RATE,
    )
