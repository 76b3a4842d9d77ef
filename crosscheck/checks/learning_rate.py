"""Is each learning rate that was used the one that the claimed schedule gives?"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosscheck.checks.check import Check
from crosscheck.checks.schedules import factors
from crosscheck.report.report import Finding
from crosscheck.tolerance import roundoffs
from crosscheck.trace.format import Option, Part, Step

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
        self._initial: list[float] | None = None  # by group
        self._rates: list[RateUsed] = []
        self._last: tuple[Step, list[dict[str, Option]]] | None = None

    def part(self, part: Part, options: list[list[dict[str, Option]]]) -> None:
        if self._initial is None:
            self._initial = self._initial_rates(part, options[0])
        self.answered = self.claims.schedule is not None and self._initial is not None
        for step, groups in zip(part.steps, options, strict=True):
            rates = tuple(_number(group.get("lr")) for group in groups)
            self._rates.append(RateUsed(step.step, step.applied, rates))
            if not self.answered and self._last is not None and not self._last[0].applied:
                self.context.findings.add(_moved_on(*self._last, step, groups))
            self._last = step, groups

    def finish(self) -> None:
        schedule, initial = self.claims.schedule, self._initial
        if schedule is None or initial is None:
            return
        applied, world_size = self.claims.applied, self.segment.header.world_size
        self.context.findings.add_complete(
            check_learning_rates(schedule, initial, self._rates, applied_before=applied, world_size=world_size)
        )

    def _initial_rates(self, part: Part, groups: list[dict[str, Option]]) -> list[float] | None:
        """Return what each group starts from: as claimed for a tensor of it, else as torch's schedulers keep it.

        None if nobody says.
        """
        claimed = {t.group: (self.claims.options or {}).get(t.name, {}).get("lr") for t in reversed(part.tensors)}
        rates = [claimed.get(number, group.get("initial_lr")) for number, group in enumerate(groups)]
        if any(isinstance(rate, bool) or not isinstance(rate, int | float) for rate in rates):
            return None
        return [_number(rate) for rate in rates]


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
    applied = np.array([attempt.applied for attempt in attempts], np.int64)
    counts = applied_before + np.cumsum(applied) - applied
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
