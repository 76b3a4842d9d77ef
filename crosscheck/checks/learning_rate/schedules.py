"""Computes the factors of the schedule that a trace claims, by Optax's own schedules. Never imports torch.

A claim is a JSON object: a `name`, and numbers that count applied updates. Each factor multiplies the initial
learning rate of a parameter group. The formulas are those of torch.optim.lr_scheduler.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from crosscheck.float64 import float64
from crosscheck.trace.schedule_claims import Claim, read_schedule

Schedule = Callable[[Any], Any]
"""From the number of applied updates to the factor, one number at a time."""


def factors(claim: Claim, applied: NDArray[np.int64 | np.float64]) -> NDArray[np.float64]:
    """Return the factors of the updates that follow so many applied ones, in float64.

    In float32 Optax's schedules are inaccurate: a cosine over 5,000 updates is 2 % off at its end.

    Args:
        claim: `name` and the numbers that go with it, none besides.
            constant; step: size, gamma; multistep: milestones, gamma; exponential: size, gamma;
            cosine: warmup, total, start_factor, end_factor; onecycle and linear onecycle: total, pct_start,
            div_factor, final_div_factor;
            and those of `crosscheck.trace.schedule_claims.SCHEDULES` that are read from a scheduler.
        applied: Counts from 0 up, of any one-dimensional length. Those of `warm restarts` may have fractions.

    Returns:
        As many factors; infinite where gamma's power is beyond float64, zero where it is below its normal numbers.

    Raises:
        TraceError: The claim has another name, or lacks a number, or one is not usable.
    """
    read_schedule(claim)
    with float64():
        return np.asarray(_of_many(json.dumps(claim, sort_keys=True))(applied), np.float64)


@lru_cache(maxsize=256)
def _of_many(claim: str) -> Schedule:
    """Return the schedule of a claim, which is given as JSON, for an array of numbers.

    A claim has the same function each time, so that many groups of one schedule have it compiled once.
    """
    return jax.jit(jax.vmap(_schedule(json.loads(claim))))


def _schedule(claim: Claim) -> Schedule:
    """Return the schedule of a claim that was read and found usable."""
    return _SCHEDULES[claim["name"]](**{key: value for key, value in claim.items() if key != "name"})


def _constant() -> Schedule:
    return optax.constant_schedule(1.0)


def _staircase(size: int, gamma: float) -> Schedule:
    """Return gamma^floor(t / size): StepLR, and ExponentialLR where an epoch has `size` updates."""
    level = _levels(gamma)
    return lambda applied: level(applied // size)


def _multistep(milestones: Sequence[int], gamma: float) -> Schedule:
    """Return gamma^(number of milestones <= t): MultiStepLR.

    Optax's `piecewise_constant_schedule` cannot have a milestone twice, and makes NaN of an infinite factor.
    """
    ascending, level = np.sort(np.array(milestones, np.int64)), _levels(gamma)

    def factor(applied: Any) -> Any:
        passed = jnp.searchsorted(ascending, applied, side="right")
        return level(passed.astype(np.int64))  # of int32 the power would be float32

    return factor


def _levels(gamma: float) -> Schedule:
    """Return gamma^n for whole n, which are counted here and not by Optax.

    Of the t / size of its `exponential_decay` XLA makes t times 1 / size when it compiles: with a size of 49 most
    plateaus then last an update too long.
    """
    return optax.exponential_decay(1.0, 1, gamma, staircase=True)


def _cosine(warmup: int, total: int, start_factor: float, end_factor: float) -> Schedule:
    """Go from start_factor to 1 in a line of `warmup` updates, then in half a cosine to end_factor, and stay there.

    This is LinearLR and then CosineAnnealingLR, which however rises again after its T_max.
    """
    down = optax.cosine_decay_schedule(1.0, total - warmup, alpha=end_factor)
    return optax.join_schedules([optax.linear_schedule(start_factor, 1.0, warmup), down], [warmup]) if warmup else down


def _onecycle(
    total: int, pct_start: float, div_factor: float, final_div_factor: float, between: str = "cosine"
) -> Schedule:
    """Return OneCycleLR, annealed by cosines or in straight lines: its phases end at pct_start T - 1 and T - 1, and its last
    value stays.

    `optax.cosine_onecycle_schedule` ends elsewhere and is 31 times off at the last update.
    """
    # Where the peak falls before the first update, torch starts on the way down, and so does Optax.
    boundaries: Any = {pct_start * total - 1.0: div_factor, total - 1.0: 1.0 / (div_factor * final_div_factor)}
    return optax.piecewise_interpolate_schedule(between, 1.0 / div_factor, boundaries)


def _piecewise(start: float, boundaries: Sequence[float], factors: Sequence[float], between: str) -> Schedule:
    """Go from `start` at 0 to each factor at its boundary, and stay at the last: LinearLR, ConstantLR, OneCycleLR."""
    before = [start, *factors[:-1]]
    scales: Any = {at: new / old for at, old, new in zip(boundaries, before, factors, strict=True)}
    if between == "none":
        return optax.piecewise_constant_schedule(start, scales)
    return optax.piecewise_interpolate_schedule("cosine" if between == "cosine" else "linear", start, scales)


def _polynomial(total: int, power: float) -> Schedule:
    """Return (1 - t / total)^power, and what it has at `total` from there on: PolynomialLR.

    Optax's `polynomial_schedule` subtracts from 1, and XLA makes t times 1 / total of its t / total. What is left at `total` can
    then be 1e-16 or below zero, of which a power below 1 makes 1e-8 or NaN.
    """
    return lambda applied: (jnp.maximum(total - applied, 0) / total) ** power


def _cosine_annealing(half_period: int, end_factor: float) -> Schedule:
    """Go down and up again for ever: CosineAnnealingLR. Optax's cosine stays down."""
    return lambda applied: _half_cosine(applied / half_period, end_factor)


def _half_cosine(part: Any, end_factor: float) -> Any:
    return end_factor + (1 - end_factor) * (1 + jnp.cos(jnp.pi * part)) / 2


def _warm_restarts(period: int, multiplier: int, end_factor: float) -> Schedule:
    """Return CosineAnnealingWarmRestarts: half a cosine after the other, each `multiplier` times as long as the one before.

    `optax.sgdr_schedule` takes a list of cycles, which for a run of unknown length there is not.
    """
    starts, lengths = [0], [period]
    while multiplier > 1 and starts[-1] + lengths[-1] < 2**62:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * multiplier)
    begin, length = np.array(starts, np.int64), np.array([float(one) for one in lengths])

    def factor(applied: Any) -> Any:
        cycle = jnp.clip(jnp.searchsorted(begin, applied, side="right") - 1, 0, len(starts) - 1)
        inside = applied - jnp.asarray(begin)[cycle]
        return _half_cosine((inside % period if multiplier == 1 else inside) / jnp.asarray(length)[cycle], end_factor)

    return factor


def _cyclic(up: float, down: float, peak_factor: float, mode: str, gamma: float) -> Schedule:
    """Return CyclicLR (Smith 2017): lines up and down between 1 and the peak, whose height may shrink."""

    def factor(applied: Any) -> Any:
        cycle = jnp.floor(applied / (up + down))
        inside = applied - cycle * (up + down)
        height = jnp.where(inside <= up, inside / up, (up + down - inside) / down)
        shrunk = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": gamma ** (applied * 1.0)}[mode]
        return 1.0 + (peak_factor - 1.0) * height * shrunk

    return factor


def _every(updates: int, schedule: Claim) -> Schedule:
    inner = _schedule(schedule)
    return lambda applied: inner(applied // updates)


def _sequential(milestones: Sequence[int], schedules: Sequence[Claim]) -> Schedule:
    """Return SequentialLR: one schedule after the other, each counted from its milestone."""
    return optax.join_schedules([_schedule(claim) for claim in schedules], milestones)


def _product(schedules: Sequence[Claim]) -> Schedule:
    """Return ChainedScheduler, where each of them multiplies what it finds."""
    each = [_schedule(claim) for claim in schedules]
    return lambda applied: jnp.prod(jnp.stack([jnp.asarray(one(applied), np.float64) for one in each]))


_SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "constant": _constant,
    "step": _staircase,
    "multistep": _multistep,
    "exponential": _staircase,
    "cosine": _cosine,
    "onecycle": _onecycle,
    "linear onecycle": partial(_onecycle, between="linear"),
    "piecewise": _piecewise,
    "polynomial": _polynomial,
    "cosine annealing": _cosine_annealing,
    "warm restarts": _warm_restarts,
    "cyclic": _cyclic,
    "every": _every,
    "sequential": _sequential,
    "product": _product,
}
"""By the name of a claim; the parameters of each are its other keys in `crosscheck.trace.schedule_claims.SCHEDULES`."""
