"""Learning-rate schedules as pure functions of the number of updates applied so far.

Nothing here counts or steps. An optimizer step that the loss scaler skips does not advance the
schedule, a resumed run asks for the same factor again, and no rank can step it twice.
Each factor multiplies the `lr` of every parameter group. Formulas: torch.optim.lr_scheduler.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from distrib.config.section import Positive, Section
from distrib.errors import BadInput

Factor = Callable[[int], float]

Unit = Literal["updates", "epochs"]


class Constant(Section):
    """The learning rate stays at `lr`."""

    name: Literal["constant"] = "constant"
    """The schedule: constant, step, multistep, exponential, cosine or onecycle."""


class Step(Section):
    """torch's StepLR: times gamma after every step_size."""

    name: Literal["step"] = "step"
    """StepLR."""
    step_size: Positive
    """Length of one plateau, in `unit`s; it must end before the run does."""
    gamma: Annotated[float, Field(gt=0)] = 0.1
    """Factor between one plateau and the next."""
    unit: Unit = "epochs"
    """What step_size counts: applied updates, or epochs."""


class MultiStep(Section):
    """torch's MultiStepLR: times gamma at each milestone."""

    name: Literal["multistep"] = "multistep"
    """MultiStepLR."""
    milestones: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]
    """Where the learning rate drops, ascending, in `unit`s; the run must go beyond the last one."""
    gamma: Annotated[float, Field(gt=0)] = 0.1
    """Factor at each milestone."""
    unit: Unit = "epochs"
    """What the milestones count: applied updates, or epochs."""


class Exponential(Section):
    """torch's ExponentialLR: times gamma every unit."""

    name: Literal["exponential"] = "exponential"
    """ExponentialLR."""
    gamma: Annotated[float, Field(gt=0)]
    """Factor from one unit to the next."""
    unit: Unit = "epochs"
    """How often gamma is applied: every applied update, or every epoch."""


class Cosine(Section):
    """Linear warm-up to `lr`, then half a cosine down (LinearLR, then CosineAnnealingLR)."""

    name: Literal["cosine"] = "cosine"
    """Linear warm-up, then cosine."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Length of the warm-up, in `unit`s; it must end before the run does."""
    start_factor: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Factor of the first update, when there is a warm-up."""
    end_factor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Factor that the cosine reaches when the run is complete."""
    unit: Unit = "epochs"
    """What `warmup` counts: applied updates, or epochs."""


class OneCycle(Section):
    """torch's OneCycleLR with `lr` as its peak, cosine annealing, momentum and betas untouched."""

    name: Literal["onecycle"] = "onecycle"
    """OneCycleLR."""
    pct_start: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Fraction of the run in which the learning rate rises."""
    div_factor: Annotated[float, Field(ge=1)] = 25.0
    """The run starts at lr / div_factor."""
    final_div_factor: Annotated[float, Field(ge=1)] = 1e4
    """The run ends at lr / (div_factor * final_div_factor)."""


ScheduleConfig = Constant | Step | MultiStep | Exponential | Cosine | OneCycle


def build(config: ScheduleConfig, *, total_updates: int, updates_per_epoch: int) -> Factor:
    """The factor of the next update, given how many were applied before it (0, 1, 2, …).

    Raises BadInput where the run is too short for the schedule to do what it says.
    """
    match config:
        case Constant():
            return lambda _: 1.0
        case Step():
            size = config.step_size * _length(config.unit, updates_per_epoch)
            if size >= total_updates:
                raise _never("step_size", config.step_size, config.unit, size, total_updates)
            return lambda applied: _power(config.gamma, applied // size)
        case MultiStep():
            milestones = sorted(m * _length(config.unit, updates_per_epoch) for m in config.milestones)
            if milestones[-1] >= total_updates:
                raise _never("milestones", list(config.milestones), config.unit, milestones[-1], total_updates)
            return lambda applied: _power(config.gamma, bisect_right(milestones, applied))
        case Exponential():
            size = _length(config.unit, updates_per_epoch)
            return lambda applied: _power(config.gamma, applied // size)
        case Cosine():
            warmup = config.warmup * _length(config.unit, updates_per_epoch)
            if warmup >= total_updates:
                raise BadInput(
                    f"schedule.warmup = {config.warmup} {config.unit} is {warmup} updates, and the whole run has "
                    f"{total_updates}: shorten the warm-up, or raise training.epochs"
                )
            return lambda applied: _cosine(config, warmup, total_updates, applied)
        case OneCycle():
            return lambda applied: _onecycle(config, total_updates, applied)


def claim(config: ScheduleConfig, *, total_updates: int, updates_per_epoch: int) -> dict[str, Any]:
    """The schedule that `build` makes of the same arguments, for the record: its name and its numbers.

    All lengths are in applied updates, as `crosscheck.checks.schedules.factors` takes them; JSON can hold it.
    """
    match config:
        case Constant():
            return {"name": config.name}
        case Step():
            size = config.step_size * _length(config.unit, updates_per_epoch)
            return {"name": config.name, "size": size, "gamma": config.gamma}
        case MultiStep():
            milestones = [m * _length(config.unit, updates_per_epoch) for m in config.milestones]
            return {"name": config.name, "milestones": milestones, "gamma": config.gamma}
        case Exponential():
            return {"name": config.name, "size": _length(config.unit, updates_per_epoch), "gamma": config.gamma}
        case Cosine():
            warmup = config.warmup * _length(config.unit, updates_per_epoch)
            lengths = {"warmup": warmup, "total": total_updates}
            return config.model_dump(exclude={"unit"}) | lengths
        case OneCycle():
            return config.model_dump() | {"total": total_updates}


def _never(key: str, value: object, unit: Unit, updates: int, total: int) -> BadInput:
    return BadInput(
        f"schedule.{key} = {value} {unit} goes to update {updates}, and the whole run has {total}: gamma would never "
        "be applied there; choose less, or raise training.epochs"
    )


def _length(unit: Unit, updates_per_epoch: int) -> int:
    return updates_per_epoch if unit == "epochs" else 1


def _power(gamma: float, exponent: int) -> float:
    try:
        return gamma**exponent
    except OverflowError:
        return math.inf  # a rate that grows for ever ends the run by its loss, with a message


def _cosine(config: Cosine, warmup: int, total: int, applied: int) -> float:
    if applied < warmup:
        return config.start_factor + (1.0 - config.start_factor) * applied / warmup
    # CosineAnnealingLR rises again after T_max; a run that is complete stays at the end.
    done = min(1.0, (applied - warmup) / (total - warmup))
    return config.end_factor + (1.0 - config.end_factor) * (1.0 + math.cos(math.pi * done)) / 2.0


def _onecycle(config: OneCycle, total: int, applied: int) -> float:
    first, last = 1.0 / config.div_factor, 1.0 / (config.div_factor * config.final_div_factor)
    peak_at, end_at = config.pct_start * total - 1.0, total - 1.0  # torch's phase ends
    if peak_at > 0 and applied <= peak_at:
        return _anneal(first, 1.0, applied / peak_at)
    return _anneal(1.0, last, min(1.0, (applied - peak_at) / (end_at - peak_at)))


def _anneal(start: float, end: float, done: float) -> float:
    """Half a cosine from start (done = 0) to end (done = 1)."""
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * done))
