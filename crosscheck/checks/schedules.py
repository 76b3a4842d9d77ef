"""Learning-rate schedules, from Optax's own: what a trace claims, as factors. Never imports torch.

A claim is a JSON object: a `name`, and numbers that count applied updates. Each factor multiplies the initial
learning rate of a parameter group. The formulas are those of torch.optim.lr_scheduler.
"""

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from crosscheck.errors import TraceError
from crosscheck.float64 import float64

Claim = Mapping[str, Any]
Schedule = Callable[[Any], Any]
"""From the number of applied updates to the factor, one number at a time."""

_MOST_UPDATES = 2**63 - 1
_MOST = 1e300  # the reciprocal of a larger number is subnormal, and XLA takes it for zero


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
    schedule = _schedule(claim)
    with float64():
        return np.asarray(jax.jit(jax.vmap(schedule))(applied), np.float64)


def _constant(claim: Claim) -> Schedule:
    del claim
    return optax.constant_schedule(1.0)


def _staircase(claim: Claim) -> Schedule:
    """Return gamma^floor(t / size): StepLR, and ExponentialLR where an epoch has `size` updates."""
    size, level = _count(claim, "size", 1), _levels(claim)
    return lambda applied: level(applied // size)


def _multistep(claim: Claim) -> Schedule:
    """Return gamma^(number of milestones <= t): MultiStepLR.

    Optax's `piecewise_constant_schedule` cannot have a milestone twice, and makes NaN of an infinite factor.
    """
    milestones, level = np.sort(np.array(_milestones(claim), np.int64)), _levels(claim)

    def factor(applied: Any) -> Any:
        passed = jnp.searchsorted(milestones, applied, side="right")
        return level(passed.astype(np.int64))  # of int32 the power would be float32

    return factor


def _levels(claim: Claim) -> Schedule:
    """Return gamma^n for whole n, which are counted here and not by Optax.

    Of the t / size of its `exponential_decay` XLA makes t times 1 / size when it compiles: with a size of 49 most
    plateaus then last an update too long.
    """
    return optax.exponential_decay(1.0, 1, _gamma(claim), staircase=True)


def _cosine(claim: Claim) -> Schedule:
    """Go from start_factor to 1 in a line of `warmup` updates, then in half a cosine to end_factor, and stay there.

    LinearLR, then CosineAnnealingLR; only that one rises again after its T_max.
    """
    warmup, total = _count(claim, "warmup", 0), _count(claim, "total", 1)
    start, end = _fraction(claim, "start_factor"), _fraction(claim, "end_factor")
    if warmup >= total:
        raise _unusable(claim, "warmup", f"a whole number below total, {total}")
    down = optax.cosine_decay_schedule(1.0, total - warmup, alpha=end)
    return optax.join_schedules([optax.linear_schedule(start, 1.0, warmup), down], [warmup]) if warmup else down


def _onecycle(claim: Claim) -> Schedule:
    """Return OneCycleLR with cosine annealing: its phases end at pct_start T - 1 and T - 1, and its last value stays.

    `optax.cosine_onecycle_schedule` ends elsewhere and is 31 times off at the last update.
    """
    total, pct_start = _count(claim, "total", 1), _fraction(claim, "pct_start")
    div, final_div = _divisor(claim, "div_factor"), _divisor(claim, "final_div_factor")
    if pct_start in (0.0, 1.0):
        raise _unusable(claim, "pct_start", "a number between 0 and 1")
    # Where the peak falls before the first update, torch starts on the way down, and so does Optax.
    boundaries: Any = {pct_start * total - 1.0: div, total - 1.0: 1.0 / (div * final_div)}
    return optax.piecewise_interpolate_schedule("cosine", 1.0 / div, boundaries)


_SCHEDULES: dict[str, tuple[Callable[[Claim], Schedule], frozenset[str]]] = {
    "constant": (_constant, frozenset()),
    "step": (_staircase, frozenset({"size", "gamma"})),
    "multistep": (_multistep, frozenset({"milestones", "gamma"})),
    "exponential": (_staircase, frozenset({"size", "gamma"})),
    "cosine": (_cosine, frozenset({"warmup", "total", "start_factor", "end_factor"})),
    "onecycle": (_onecycle, frozenset({"total", "pct_start", "div_factor", "final_div_factor"})),
}


def _schedule(claim: Claim) -> Schedule:
    name = claim.get("name")
    if not isinstance(name, str) or name not in _SCHEDULES:
        raise _unusable(claim, "name", ", ".join(_SCHEDULES))
    build, keys = _SCHEDULES[name]
    others = sorted(set(claim) - keys - {"name"})
    if others:
        raise TraceError(f"the schedule {name} has a key {reprlib.repr(others[0])}; it takes {', '.join(sorted(keys))}")
    return build(claim)


def _count(claim: Claim, key: str, least: int) -> int:
    value = claim.get(key)
    if not _is_count(value, least):
        raise _unusable(claim, key, f"a whole number from {least} to 2^63 - 1")
    return value


def _is_count(value: Any, least: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _MOST_UPDATES


def _milestones(claim: Claim) -> list[int]:
    value: Any = claim.get("milestones")
    if (
        not isinstance(value, list | tuple) or not value or not all(_is_count(milestone, 1) for milestone in value)  # pyright: ignore[reportUnknownVariableType]
    ):
        raise _unusable(claim, "milestones", "a list of whole numbers from 1 to 2^63 - 1, at least one")
    return list(value)  # pyright: ignore[reportUnknownArgumentType]


def _gamma(claim: Claim) -> float:
    return _real(claim, "gamma", "a finite number above 0", lambda value: value > 0)


def _fraction(claim: Claim, key: str) -> float:
    return _real(claim, key, "a number from 0 to 1", lambda value: 0 <= value <= 1)


def _divisor(claim: Claim, key: str) -> float:
    return _real(claim, key, f"a number from 1 to {_MOST:g}", lambda value: 1 <= value <= _MOST)


def _real(claim: Claim, key: str, accepted: str, accepts: Callable[[float], bool]) -> float:
    value = claim.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unusable(claim, key, accepted)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or not accepts(number):
        raise _unusable(claim, key, accepted)
    return number


def _unusable(claim: Claim, key: str, accepted: str) -> TraceError:
    what = f"the schedule's {key} is {_told(claim[key])}" if key in claim else f"the schedule has no {key}"
    return TraceError(f"{what}; accepted: {accepted}")


def _told(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python refuses to write out an integer of thousands of digits
        return "a number of thousands of digits"
