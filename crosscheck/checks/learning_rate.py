"""Is each learning rate that was used the one that the claimed schedule gives?"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosscheck.checks.check import Check
from crosscheck.checks.schedules import factors
from crosscheck.errors import TraceError
from crosscheck.report.report import Finding
from crosscheck.tolerance import roundoffs
from crosscheck.trace.format import Option, Part, Step, TensorInfo

_Floats = NDArray[np.float64]
_Counts = NDArray[np.int64]
_Bits = NDArray[np.bool_]

_RELATIVE = 1e-11  # torch's own schedulers multiply from step to step: 6e-14 of a rate in 30,000 steps
_RELATIVE_IN_FLOAT32 = 2.0**-22
_NEAR_ZERO = 2.0**-50  # of the peak: a cosine near zero is a difference of numbers near one
_TINY = float(np.finfo(np.float64).tiny)  # below it XLA has zero


class RateUsed(NamedTuple):
    """The learning rates of one attempt to step."""

    step: int  # counted from 1, skipped ones included
    applied: bool
    lr: tuple[float, ...]  # by parameter group


class LearningRate(Check):
    """Gathers the learning rates of every step of a segment, and then holds them against the schedule.

    Where no schedule is claimed, one thing can be asked all the same: a step that was skipped must leave the learning
    rate where it was, because the next attempt is the same step.
    """

    def start(self) -> None:
        self._initial: dict[int, float] = {}  # by group, where it is told
        self._rates: list[RateUsed] = []
        self._last: tuple[Step, list[dict[str, Option]]] | None = None

    def part(self, part: Part, options: list[list[dict[str, Option]]]) -> None:
        silent = self.claims.schedule is None
        self.answered = not silent
        claimed = {tensor.group: lr for tensor in reversed(part.tensors) if (lr := self._claimed(tensor)) is not None}
        for step, groups in zip(part.steps, options, strict=True):
            rates = tuple(_number(group.get("lr")) for group in groups)
            self._rates.append(RateUsed(step.step, step.applied, rates))
            if silent and self._last is not None and not self._last[0].applied:
                self.context.findings.add(_moved_on(*self._last, step, groups))
            self._last = step, groups
            for number, group in enumerate(groups):
                told = claimed.get(number, group.get("initial_lr"))
                if number not in self._initial and _is_number(told):
                    self._initial[number] = _number(told)

    def finish(self) -> None:
        schedule = self.claims.schedule
        if schedule is None or not self._rates:
            return
        applied, world_size = self.claims.applied, self.segment.header.world_size
        right = factors(schedule, _counts(self._rates, applied))
        constant = schedule["name"] == "constant"
        untested = f"it asks for the same rate at all {len(right):,} steps on record"
        tested = len(right) > 1 if constant else (right != right[0]).any()
        self.context.claimed("learning rate", f"schedule {schedule['name']}", "" if tested else untested)
        initial = [self._initial_rate(number, right) for number in range(max(len(used.lr) for used in self._rates))]
        self.context.findings.add_complete(
            check_learning_rates(schedule, initial, self._rates, applied_before=applied, world_size=world_size)
        )

    def _claimed(self, tensor: TensorInfo) -> Option:
        return (self.claims.options or {}).get(tensor.name, {}).get("lr")

    def _initial_rate(self, group: int, right: _Floats) -> float:
        """Return what a group starts from: as claimed for a tensor of it, else as torch's schedulers keep it, else as an
        earlier segment had it; for a group that is new in this segment what its first rate says.

        Raises TraceError if a run goes on and nothing tells.
        """
        if group in self._initial:
            return self._initial[group]
        for check in reversed(self.earlier):
            if group in check._initial:
                return check._initial[group]
        first = next(k for k, used in enumerate(self._rates) if group < len(used.lr))
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


def _is_number(value: Option) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Option) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _moved_on(
    skipped: Step, before: list[dict[str, Option]], step: Step, now: list[dict[str, Option]]
) -> Iterator[Finding]:
    """Yield a finding for each group whose learning rate is another after a skipped step."""
    for number, (old, new) in enumerate(zip(before, now, strict=False)):
        lr, expected = new.get("lr"), old.get("lr")
        if lr != expected and isinstance(lr, int | float) and isinstance(expected, int | float):
            yield Finding(
                step=step.step,
                tensor=f"group {number}",
                slot="lr",
                recorded=float(lr),
                expected=float(expected),
                cause=f"the schedule advanced on a skipped step: step {skipped.step} was skipped, yet lr went on",
                check="learning rate",
            )


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
        claim: The schedule, as `crosscheck.checks.schedules.factors` takes it.
        initial_lr: By parameter group.
        attempts: Every attempt in its order. Where one lacks a group, that group is not judged.
        applied_before: Updates applied before the first of the attempts.
        world_size: Ranks of the run.

    Raises:
        TraceError: The claim is not usable.
    """
    counts = _counts(attempts, applied_before)
    right = factors(claim, counts)
    steps = np.array([attempt.step for attempt in attempts], np.int64)
    findings, mistakes = list[Finding](), list[_Mistake]()
    for group, initial in enumerate(initial_lr):
        there = np.array([group < len(attempt.lr) for attempt in attempts], np.bool_)
        used = np.array([attempt.lr[group] for attempt in attempts if group < len(attempt.lr)], np.float64)
        rates = _Rates(claim, initial, used, _times(initial, right[there]))
        wrong = ~rates.agree(rates.expected)
        if wrong.any():
            mistakes = mistakes or _mistakes(claim, counts, steps, applied_before, world_size)
            findings.append(_finding(group, steps[there], rates, wrong, rates.causes(wrong, mistakes, there)))
    return findings


def _counts(attempts: Sequence[RateUsed], applied_before: int) -> _Counts:
    """Return how many updates were applied before each attempt."""
    applied = np.array([attempt.applied for attempt in attempts], np.int64)
    return applied_before + np.cumsum(applied) - applied


def _mistaken_counts(
    counts: _Counts, steps: _Counts, applied_before: int, world_size: int
) -> Iterator[tuple[str, _Counts]]:
    """Yield what a schedule may count instead of the applied updates: a sentence and the counts."""
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


class _Mistake(NamedTuple):
    """A schedule that counts something else."""

    sentence: str
    counts: _Counts  # (attempts,)
    factors: _Floats  # (attempts,)


def _mistakes(
    claim: Mapping[str, Any], counts: _Counts, steps: _Counts, applied_before: int, world_size: int
) -> list[_Mistake]:
    tried = list(_mistaken_counts(counts, steps, applied_before, world_size))
    found = factors(claim, np.concatenate([mistaken for _, mistaken in tried]))  # at once: each call compiles
    return [_Mistake(*one, part) for one, part in zip(tried, np.split(found, len(tried)), strict=True)]


class _Rates(NamedTuple):
    """One group: what it used, and what it should have."""

    claim: Mapping[str, Any]
    initial: float
    used: _Floats  # (attempts,)
    expected: _Floats  # (attempts,)

    def agree(self, expected: _Floats) -> _Bits:
        cancels = self.claim["name"] in ("cosine", "onecycle")
        with np.errstate(all="ignore"):  # whatever was recorded may be infinite
            floor = abs(self.initial) * (_NEAR_ZERO if cancels else _TINY) + _TINY
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
        # When its run is over torch's CosineAnnealingLR goes up again: what was counted wrong shows before.
        total = self.claim.get("total", np.inf)
        for mistake in mistakes:
            as_if = self.agree(_times(self.initial, mistake.factors[there]))
            in_time = mistake.counts[there] <= total
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
        cause=f"lr is not what the {rates.claim['name']} schedule gives: {why}",
        elements=count,
        steps=count,
        check="learning rate",
    )
