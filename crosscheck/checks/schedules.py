"""Learning-rate schedules, from Optax's own: what a trace claims, as factors. Never imports torch.

A claim is a JSON object: a `name`, and numbers that count applied updates. Each factor multiplies the initial
learning rate of a parameter group. The formulas are those of torch.optim.lr_scheduler.
"""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from crosscheck.errors import TraceError
from crosscheck.float64 import float64
from crosscheck.trace.format import Index, Positive

Claim = Mapping[str, Any]
Schedule = Callable[[Any], Any]
"""From the number of applied updates to the factor, one number at a time."""

_MOST = 1e300  # the reciprocal of a larger number is subnormal, and XLA takes it for zero

# What the values of a claim may be, as a type and in words.
_Count = Annotated[Positive, "a whole number from 1 to 2^63 - 1"]
_Milestones = Annotated[
    Sequence[_Count], Field(min_length=1), "a list of whole numbers from 1 to 2^63 - 1, at least one"
]
_Warmup = Annotated[Index, "a whole number from 0 to 2^63 - 1"]
_Gamma = Annotated[FiniteFloat, Field(gt=0), "a finite number above 0"]
_Fraction = Annotated[int | float, Field(ge=0, le=1), "a number from 0 to 1"]
_Divisor = Annotated[float, Field(ge=1, le=_MOST), f"a number from 1 to {_MOST:g}"]


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


def _constant() -> Schedule:
    return optax.constant_schedule(1.0)


def _staircase(size: _Count, gamma: _Gamma) -> Schedule:
    """Return gamma^floor(t / size): StepLR, and ExponentialLR where an epoch has `size` updates."""
    level = _levels(gamma)
    return lambda applied: level(applied // size)


def _multistep(milestones: _Milestones, gamma: _Gamma) -> Schedule:
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


def _cosine(warmup: _Warmup, total: _Count, start_factor: _Fraction, end_factor: _Fraction) -> Schedule:
    """Go from start_factor to 1 in a line of `warmup` updates, then in half a cosine to end_factor, and stay there.

    LinearLR, then CosineAnnealingLR; only that one rises again after its T_max.
    """
    if warmup >= total:
        raise _unusable({"warmup": warmup}, "warmup", f"a whole number below total, {total}")
    down = optax.cosine_decay_schedule(1.0, total - warmup, alpha=end_factor)
    return optax.join_schedules([optax.linear_schedule(start_factor, 1.0, warmup), down], [warmup]) if warmup else down


def _onecycle(total: _Count, pct_start: _Fraction, div_factor: _Divisor, final_div_factor: _Divisor) -> Schedule:
    """Return OneCycleLR with cosine annealing: its phases end at pct_start T - 1 and T - 1, and its last value stays.

    `optax.cosine_onecycle_schedule` ends elsewhere and is 31 times off at the last update.
    """
    if pct_start in (0.0, 1.0):
        raise _unusable({"pct_start": pct_start}, "pct_start", "a number between 0 and 1")
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
"""By the name of a claim; the parameters of each have the names of its other keys, and say what these may be."""


def _schedule(claim: Claim) -> Schedule:
    name = claim.get("name")
    if not isinstance(name, str) or name not in _SCHEDULES:
        raise _unusable(claim, "name", ", ".join(_SCHEDULES))
    build = _SCHEDULES[name]
    keys = signature(build).parameters
    others = sorted(set(claim) - set(keys) - {"name"})
    if others:
        raise TraceError(f"the schedule {name} has a key {reprlib.repr(others[0])}; it takes {', '.join(sorted(keys))}")
    return build(**{key: _value(claim, key, parameter.annotation) for key, parameter in keys.items()})


def _value(claim: Claim, key: str, kind: Any) -> Any:
    """Return the value of a key. Raises TraceError if it is not there or not of this type."""
    try:
        return TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(claim.get(key))
    except ValidationError:
        raise _unusable(claim, key, kind.__metadata__[-1]) from None


def _unusable(claim: Claim, key: str, accepted: str) -> TraceError:
    what = f"the schedule's {key} is {_told(claim[key])}" if key in claim else f"the schedule has no {key}"
    return TraceError(f"{what}; accepted: {accepted}")


def _told(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python refuses to write out an integer of thousands of digits
        return "a number of thousands of digits"
