"""Holds the learning rates that were used against a claim, and names the usual ways to step a schedule wrongly."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosscheck.checks.claimed_rates import Claimed, Formula, Table, claimed_of_group
from crosscheck.report.finding import Finding
from crosscheck.tolerance import roundoffs
from crosscheck.trace.schedule_claims import BY_GROUP, RECORDED, read_schedule

_Floats = NDArray[np.float64]
_Counts = NDArray[np.int64]
_Bits = NDArray[np.bool_]

_RELATIVE = 1e-11  # torch's own schedulers multiply from step to step: 6e-14 of a rate in 30,000 steps
_RELATIVE_IN_FLOAT32 = 2.0**-22
_NEAR_ZERO = 2.0**-50  # of the peak: a cosine near zero is a difference of numbers near one
_TIMES = (2, 3, 4, 8, 16)  # how often a schedule is stepped by mistake: for each loss, each part of a batch, each rank
_TINY = float(np.finfo(np.float64).tiny)  # below it XLA has zero


class RateUsed(NamedTuple):
    """The learning rates of one attempt to step."""

    step: int  # counted from 1, skipped ones included
    applied: bool
    lr: tuple[float, ...]  # by parameter group
    claimed: tuple[float, ...] = ()  # by parameter group, where the claim is on record beside the rate


def check_learning_rates(
    claim: Mapping[str, Any],
    initial_lr: Sequence[float],
    attempts: Sequence[RateUsed],
    *,
    applied_before: int = 0,
    world_size: int = 1,
) -> list[Finding]:
    """Return a finding for each group whose learning rates are not its initial one times the schedule's factor.

    Args:
        claim: The schedule, as `crosscheck.checks.schedules.factors` takes it, or by group, or recorded.
        initial_lr: By parameter group.
        attempts: Every attempt in its order. Where one lacks a group, that group is not judged.
        applied_before: Updates applied before the first of the attempts.
        world_size: Ranks of the run.

    Raises:
        TraceError: The claim is not usable.
    """
    counts = counts_of(attempts, applied_before)
    steps = np.array([attempt.step for attempt in attempts], np.int64)
    findings = list[Finding]()
    mistakes: dict[int, list[_Mistake]] = {}  # by the schedule: groups may share one
    each = claimed_by_group(claim, attempts, counts)
    for group, (initial, claimed) in enumerate(zip(initial_lr, each, strict=False)):
        there = np.array([group < len(attempt.lr) for attempt in attempts], np.bool_)
        used = np.array([attempt.lr[group] for attempt in attempts if group < len(attempt.lr)], np.float64)
        rates = _Rates(claimed, initial, used, _times(initial, claimed.factors(counts)[there]))
        wrong = rates.told & ~rates.agree(rates.expected)
        if wrong.any():
            if id(claimed) not in mistakes:
                tried = _mistaken_counts(counts, steps, used, applied_before, world_size)
                mistakes[id(claimed)] = _mistakes(claimed, list(tried))
            findings.append(
                _finding(group, steps[there], rates, wrong, rates.causes(wrong, mistakes[id(claimed)], there))
            )
    return findings


def claimed_by_group(claim: Mapping[str, Any], attempts: Sequence[RateUsed], counts: _Counts) -> list[Claimed]:
    """Return what is claimed of each group that any attempt has; groups of one schedule share one object."""
    read_schedule(claim)
    number = max((len(attempt.lr) for attempt in attempts), default=0)
    if claim["name"] not in (BY_GROUP, RECORDED):
        return [Formula(claim)] * number
    found: list[Claimed] = []
    for group in range(number):
        told = [attempt.claimed[group] if group < len(attempt.claimed) else np.nan for attempt in attempts]
        new = claimed_of_group(claim, group, counts, np.array(told, np.float64))
        found.append(next((old for old in found if isinstance(old, Formula) and old == new), new))
    return found


def counts_of(attempts: Sequence[RateUsed], applied_before: int) -> _Counts:
    """Return how many updates were applied before each attempt."""
    applied = np.array([attempt.applied for attempt in attempts], np.int64)
    return applied_before + np.cumsum(applied) - applied


def _mistaken_counts(
    counts: _Counts, steps: _Counts, used: _Floats, applied_before: int, world_size: int
) -> Iterator[tuple[str, _Counts]]:
    """Yield what a schedule may count instead of the applied updates: a sentence and the counts.

    `used`: the rates of a group that are wrong.
    """
    attempted = steps - 1
    once_a_rank = f"the schedule steps once per rank, {world_size} times an update"
    if world_size > 1:
        yield once_a_rank, counts * world_size
    if (attempted != counts).any():
        yield "the schedule counts skipped steps", attempted
        yield "the schedule counts skipped steps", applied_before + np.arange(len(steps))  # those since a resume
        if world_size > 1:
            yield f"{once_a_rank}, and counts skipped steps", attempted * world_size
    if applied_before:
        yield f"the schedule started over at step {steps[0]}", counts - applied_before
    yield "the schedule is one update ahead", counts + 1
    yield "the schedule is one update behind", np.maximum(counts - 1, 0)
    for times in _TIMES:
        if times != world_size:
            yield f"the schedule steps {times} times an update", counts * times
    changed = np.flatnonzero(used != used[0])
    if len(changed) and changed[0] > 1 and not applied_before:
        every = int(changed[0])
        yield (
            f"the schedule steps once in {every} updates; if that is meant, as once an epoch, "
            f"give the recorder scheduler_every={every}",
            counts // every,
        )


class _Mistake(NamedTuple):
    """A schedule that counts something else."""

    sentence: str
    counts: _Counts  # (attempts,)
    factors: _Floats  # (attempts,)


def _mistakes(claimed: Claimed, tried: list[tuple[str, _Counts]]) -> list[_Mistake]:
    found = claimed.factors(np.concatenate([mistaken for _, mistaken in tried]))  # at once: each call compiles
    return [_Mistake(*one, part) for one, part in zip(tried, np.split(found, len(tried)), strict=True)]


class _Rates(NamedTuple):
    """One group: what it used, and what it should have."""

    claimed: Claimed
    initial: float
    used: _Floats  # (attempts,)
    expected: _Floats  # (attempts,)

    @property
    def told(self) -> _Bits:
        """Return where the claim says anything: a rate that is no number is one that nobody could compute."""
        return ~np.isnan(self.expected) if isinstance(self.claimed, Table) else np.ones(self.expected.shape, np.bool_)

    def agree(self, expected: _Floats) -> _Bits:
        with np.errstate(all="ignore"):  # whatever was recorded may be infinite
            peak = float(np.max(np.abs(self.expected), initial=0.0, where=np.isfinite(self.expected)))
            size = peak if isinstance(self.claimed, Table) else max(peak, abs(self.initial))
            floor = size * (_NEAR_ZERO if self.claimed.cancels else _TINY) + _TINY
            in_float32 = (self.used == self.used.astype(np.float32)).all()  # a tensor, as capturable wants it
            relative = _RELATIVE_IN_FLOAT32 if in_float32 else _RELATIVE
            close = np.abs(self.used - expected) <= relative * np.abs(expected) + floor
        same = (self.used == expected) | (np.isnan(self.used) & np.isnan(expected))
        return np.where(np.isfinite(expected), close, same)

    def causes(self, wrong: _Bits, mistakes: list[_Mistake], there: _Bits) -> list[str]:
        """Return the mistakes, as sentences, each of which explains all these rates: those of the simplest kind that does."""
        found: list[str] = []
        if np.all(self.used == self.used[0]) and not np.all(self.expected == self.expected[0]):
            found.append(f"it stays at {self.used[0]:.6g}, as if the schedule never stepped")
        # What was counted wrong shows before the run that is claimed is over.
        for mistake in mistakes:
            mistaken = _times(self.initial, mistake.factors[there])
            as_if, in_time = self.agree(mistaken), mistake.counts[there] <= self.claimed.total
            if isinstance(self.claimed, Table):
                in_time &= ~np.isnan(mistaken)
            if as_if[in_time].all() and (wrong & in_time).any():
                found.append(mistake.sentence)
        return list(dict.fromkeys(found)) or list(self._multiple())

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


def _times(initial: float, factor: _Floats) -> _Floats:
    with np.errstate(all="ignore"):  # 0 times infinity, for one
        return initial * factor


def _finding(group: int, steps: _Counts, rates: _Rates, wrong: _Bits, causes: list[str]) -> Finding:
    at, count = int(np.argmax(wrong)), int(wrong.sum())
    used, expected = float(rates.used[at]), float(rates.expected[at])
    why = " or ".join(causes) or "no mistake of the catalogue explains it"
    return Finding(
        step=int(steps[at]),
        last_step=int(steps[np.flatnonzero(wrong)[-1]]),
        tensor=f"group {group}",
        slot="lr",
        recorded=used,
        expected=expected,
        eta=roundoffs(used, expected),
        cause=f"lr is not what the {rates.claimed.name} schedule gives: {why}",
        elements=count,
        steps=count,
        check="learning rate",
    )
