"""Learning-rate schedules, from Optax's own: what a trace claims, as factors. Never imports torch.

A claim is a JSON object: a `name`, and numbers that count applied updates. Each factor multiplies the initial
learning rate of a parameter group. The formulas are those of torch.optim.lr_scheduler.
"""

from collections.abc import Callable, Mapping, Sequence
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


def factors(claim: Claim, applied: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the factors of the updates that follow so many applied ones, in float64.

    In float32 Optax's schedules are inaccurate: a cosine over 5,000 updates is 2 % off at its end.

    Args:
        claim: `name` and the numbers that go with it, none besides.
            constant; step: size, gamma; multistep: milestones, gamma; exponential: size, gamma;
            cosine: warmup, total, start_factor, end_factor; onecycle: total, pct_start, div_factor, final_div_factor.
        applied: Counts from 0 up, of any one-dimensional length.

    Returns:
        As many factors; infinite where gamma's power is beyond float64, zero where it is below its normal numbers.

    Raises:
        TraceError: The claim has another name, or lacks a number, or one is not usable.
    """
    name, numbers = read_schedule(claim)
    schedule = _SCHEDULES[name](**numbers)
    with float64():
        return np.asarray(jax.jit(jax.vmap(schedule))(applied), np.float64)


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

    LinearLR, then CosineAnnealingLR; only that one rises again after its T_max.
    """
    down = optax.cosine_decay_schedule(1.0, total - warmup, alpha=end_factor)
    return optax.join_schedules([optax.linear_schedule(start_factor, 1.0, warmup), down], [warmup]) if warmup else down


def _onecycle(total: int, pct_start: float, div_factor: float, final_div_factor: float) -> Schedule:
    """Return OneCycleLR with cosine annealing: its phases end at pct_start T - 1 and T - 1, and its last value stays.

    `optax.cosine_onecycle_schedule` ends elsewhere and is 31 times off at the last update.
    """
    # Where the peak falls before the first update, torch starts on the way down, and so does Optax.
    boundaries: Any = {pct_start * total - 1.0: div_factor, total - 1.0: 1.0 / (div_factor * final_div_factor)}
    return optax.piecewise_interpolate_schedule("cosine", 1.0 / div_factor, boundaries)


_SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "constant": _constant,
    "step": _staircase,
    "multistep": _multistep,
    "exponential": _staircase,
    "cosine": _cosine,
    "onecycle": _onecycle,
}
"""By the name of a claim; the parameters of each are the other keys of `crosscheck.trace.schedule_claims.SCHEDULES`."""
