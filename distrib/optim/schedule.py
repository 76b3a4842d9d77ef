"""Computes learning-rate schedules as pure functions of the number of updates applied so far.

Nothing here counts or steps. An optimizer step that the loss scaler skips does not advance the
schedule, a resumed run asks for the same factor again, and no rank can step it twice.
Each factor multiplies the `lr` of every parameter group. Formulas: torch.optim.lr_scheduler.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from distrib.config.section import Positive, PositiveNumber, Section
from distrib.errors import BadInput
from distrib.text import count

Factor = Callable[[int], float]

Unit = Literal["updates", "epochs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLength:
    """How long a run is, and how long its epochs are, in updates."""

    total_updates: int
    updates_per_epoch: int

    def updates(self, count: int, unit: Unit) -> int:
        """Return how many updates so many `unit`s are."""
        return count * self.updates_per_epoch if unit == "epochs" else count


class _Schedule(Section, ABC):
    @abstractmethod
    def factor(self, run: RunLength) -> Factor:
        """Return the factor of the next update as a function of how many were applied before it (0, 1, 2, …).

        Raises BadInput where the run is too short for the schedule to do what it says.
        """

    @abstractmethod
    def claim(self, run: RunLength) -> dict[str, Any]:
        """Return the schedule for the record: its name and its numbers, which JSON can hold.

        All lengths are in applied updates, as `crosscheck.checks.learning_rate.schedules.factors` takes them.
        """


class Constant(_Schedule):
    """The learning rate stays at `lr`."""

    name: Literal["constant"] = "constant"
    """The schedule: constant, step, multistep, exponential, cosine or onecycle."""

    def factor(self, run: RunLength) -> Factor:
        del run
        return lambda _: 1.0

    def claim(self, run: RunLength) -> dict[str, Any]:
        del run
        return {"name": self.name}


class Step(_Schedule):
    """torch's StepLR: times gamma after every step_size."""

    name: Literal["step"] = "step"
    """StepLR."""
    step_size: Positive
    """Length of one plateau, in `unit`s; it must end before the run does."""
    gamma: PositiveNumber = 0.1
    """Factor between one plateau and the next."""
    unit: Unit = "epochs"
    """What step_size counts: applied updates, or epochs."""

    def factor(self, run: RunLength) -> Factor:
        size = run.updates(self.step_size, self.unit)
        _require_end("step_size", self.step_size, self.unit, size, run)
        return lambda applied: _power(self.gamma, applied // size)

    def claim(self, run: RunLength) -> dict[str, Any]:
        return {"name": self.name, "size": run.updates(self.step_size, self.unit), "gamma": self.gamma}


class MultiStep(_Schedule):
    """torch's MultiStepLR: times gamma at each milestone."""

    name: Literal["multistep"] = "multistep"
    """MultiStepLR."""
    milestones: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]
    """Where the learning rate drops, ascending, in `unit`s; the run must go beyond the last one."""
    gamma: PositiveNumber = 0.1
    """Factor at each milestone."""
    unit: Unit = "epochs"
    """What the milestones count: applied updates, or epochs."""

    def factor(self, run: RunLength) -> Factor:
        milestones = sorted(run.updates(milestone, self.unit) for milestone in self.milestones)
        _require_end("milestones", list(self.milestones), self.unit, milestones[-1], run)
        return lambda applied: _power(self.gamma, bisect_right(milestones, applied))

    def claim(self, run: RunLength) -> dict[str, Any]:
        milestones = [run.updates(milestone, self.unit) for milestone in self.milestones]
        return {"name": self.name, "milestones": milestones, "gamma": self.gamma}


class Exponential(_Schedule):
    """torch's ExponentialLR: times gamma every unit."""

    name: Literal["exponential"] = "exponential"
    """ExponentialLR."""
    gamma: PositiveNumber
    """Factor from one unit to the next."""
    unit: Unit = "epochs"
    """How often gamma is applied: every applied update, or every epoch."""

    def factor(self, run: RunLength) -> Factor:
        size = run.updates(1, self.unit)
        return lambda applied: _power(self.gamma, applied // size)

    def claim(self, run: RunLength) -> dict[str, Any]:
        return {"name": self.name, "size": run.updates(1, self.unit), "gamma": self.gamma}


class Cosine(_Schedule):
    """Linear warm-up to `lr`, then half a cosine down (LinearLR, then CosineAnnealingLR)."""

    name: Literal["cosine"] = "cosine"
    """Linear warm-up, then cosine."""
    warmup: Annotated[int, Field(ge=0, le=10**9)] = 0
    """Length of the warm-up, in `unit`s; it must end before the run does."""
    start_factor: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Factor of the first update, when there is a warm-up."""
    end_factor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Factor that the cosine reaches when the run is complete."""
    unit: Unit = "epochs"
    """What `warmup` counts: applied updates, or epochs."""

    def factor(self, run: RunLength) -> Factor:
        warmup, total = run.updates(self.warmup, self.unit), run.total_updates
        if warmup >= total:
            raise BadInput(
                f"schedule.warmup = {count(self.warmup, self.unit[:-1])} is {count(warmup, 'update')}, and the whole run has "
                f"{total}: shorten the warm-up, or raise training.epochs"
            )

        def factor(applied: int) -> float:
            if applied < warmup:
                return self.start_factor + (1.0 - self.start_factor) * applied / warmup
            # CosineAnnealingLR rises again after T_max; a run that is complete stays at the end.
            done = min(1.0, (applied - warmup) / (total - warmup))
            return self.end_factor + (1.0 - self.end_factor) * (1.0 + math.cos(math.pi * done)) / 2.0

        return factor

    def claim(self, run: RunLength) -> dict[str, Any]:
        lengths = {"warmup": run.updates(self.warmup, self.unit), "total": run.total_updates}
        return self.model_dump(exclude={"unit"}) | lengths


class OneCycle(_Schedule):
    """torch's OneCycleLR with `lr` as its peak, momentum and betas untouched."""

    name: Literal["onecycle"] = "onecycle"
    """OneCycleLR."""
    pct_start: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Fraction of the run in which the learning rate rises."""
    div_factor: Annotated[float, Field(ge=1, le=1e30)] = 25.0
    """The run starts at lr / div_factor."""
    final_div_factor: Annotated[float, Field(ge=1, le=1e30)] = 1e4
    """The run ends at lr / (div_factor * final_div_factor)."""
    anneal_strategy: Literal["cos", "linear"] = "cos"
    """Whether the learning rate rises and falls in half a cosine each, or in straight lines."""

    def factor(self, run: RunLength) -> Factor:
        first, last = 1.0 / self.div_factor, 1.0 / (self.div_factor * self.final_div_factor)
        anneal = _half_cosine if self.anneal_strategy == "cos" else _line
        peak_at, end_at = self.pct_start * run.total_updates - 1.0, run.total_updates - 1.0  # torch's phase ends

        def factor(applied: int) -> float:
            if peak_at > 0 and applied <= peak_at:
                return anneal(first, 1.0, applied / peak_at)
            return anneal(1.0, last, min(1.0, (applied - peak_at) / (end_at - peak_at)))

        return factor

    def claim(self, run: RunLength) -> dict[str, Any]:
        name = self.name if self.anneal_strategy == "cos" else "linear onecycle"
        return self.model_dump(exclude={"anneal_strategy"}) | {"name": name, "total": run.total_updates}


ScheduleConfig = Constant | Step | MultiStep | Exponential | Cosine | OneCycle


def _power(gamma: float, exponent: int) -> float:
    try:
        return gamma**exponent
    except OverflowError:
        return math.inf  # a rate that grows for ever ends the run by its loss, with a message


def _half_cosine(start: float, end: float, done: float) -> float:
    """Return where half a cosine from `start` (done = 0) to `end` (done = 1) stands."""
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * done))


def _line(start: float, end: float, done: float) -> float:
    """Return where a straight line from `start` (done = 0) to `end` (done = 1) stands."""
    return start + (end - start) * done


def _require_end(key: str, value: object, unit: Unit, end: int, run: RunLength) -> None:
    """Raise BadInput if gamma is only applied at update `end`, which the run never reaches."""
    if end >= run.total_updates:
        length = count(value, unit[:-1]) if isinstance(value, int) else f"{value} {unit}"
        raise BadInput(
            f"schedule.{key} = {length} goes to update {end}, and the whole run has {run.total_updates}: gamma would "
            "never be applied there; choose less, or raise training.epochs"
        )
