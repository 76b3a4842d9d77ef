"""What a rule is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import optax
from jax import Array

from crosscheck.errors import TraceError
from crosscheck.trace.format import PARAM

Options = Mapping[str, Any]
"""The options of a torch parameter group at one step."""
Hyperparameters = Mapping[str, Any]
"""Numbers or traced scalars, by name; what a compiled step takes as input."""


class Flags(NamedTuple):
    """What selects the shape of a formula, as opposed to its numbers; one compilation each."""

    variant: str  # of SGD: plain, momentum, nesterov; of Adam: plain, amsgrad
    decay: str  # none, coupled, decoupled


def _no_slots(flags: Flags) -> dict[str, str]:
    del flags
    return {}


def _nothing_own(flags: Flags, h: Mapping[str, float]) -> tuple[str, ...]:
    del flags, h
    return ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One torch optimizer as an Optax chain.

    `slots` maps torch's names of elementwise state to the fields of the Optax state that hold the same
    numbers, for given flags.
    """

    name: str
    flags: Callable[[Options], Flags]
    hyperparameters: Callable[[Options], dict[str, float]]
    chain: Callable[[Flags, Hyperparameters], optax.GradientTransformation]
    matters: Callable[[Flags], tuple[str, ...]]  # hyperparameters that the formula reads
    slots: Callable[[Flags], dict[str, str]] = _no_slots
    own: Callable[[Flags, Mapping[str, float]], tuple[str, ...]] = _nothing_own  # pieces that are ours, not Optax's
    counts: bool = False  # whether the state has torch's `step`
    check: str = "optimizer"  # the check of a report that the rule answers
    moved: str = PARAM  # what reports call the thing that moves
    complaint: str = "{output} is not what {rule} makes of the recorded inputs"
    extras: tuple[str, ...] = ()  # what the formula does not read, elementwise, but a mistake may
    correction_error: Callable[[Hyperparameters, Array, Array, Array], Any] | None = None
    """Relative error of the update from what is computed once a tensor: Adam's bias corrections, a clipping norm.

    Takes hyperparameters, count, and the relative errors of such a number (a power of beta, the norm) and of beta itself.
    """
    underflow: Callable[[Hyperparameters, Array, Mapping[str, Any], Mapping[str, Any]], Any] | None = None
    """Absolute error of the parameter when state and divisor lose what lies below their formats' floors.

    Takes hyperparameters, count, exact state after the step and the floors; infinite where all may be lost.
    """


def number(options: Options, name: str) -> float:
    """An option as float64. Raises TraceError if it is not there."""
    value = options.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TraceError(f"the option {name!r} of a parameter group is {value!r}; the rule needs a number")
    try:
        return float(value)
    except OverflowError:
        raise TraceError(f"the option {name!r} of a parameter group is beyond float64") from None


def flag(options: Options, name: str) -> bool:
    """An option that is on or off; torch versions without it mean off."""
    return bool(options.get(name, False))
