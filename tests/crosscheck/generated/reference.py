"""One step of SGD, Adam and AdamW in float64 by NumPy, and which differences rounding cannot explain.

It shares nothing with the cross-check: the formulas are written out, and how far rounding can carry is measured by moving the
numbers that go in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
LIMIT = 10.0
"""Rounding explains so many roundoffs of a change and of what goes into it. Correct kernels stay below 3."""
NUDGE = 2.0**-26
"""The relative amount by which an input is moved to measure what depends on it."""


@dataclass(frozen=True)
class Format:
    """A format of floating-point numbers."""

    unit: float
    """Half the distance from 1 to the next number."""
    least: float
    """What is smaller may be lost."""
    largest: float


FORMATS = {
    "float64": Format(2.0**-53, 2.0**-1022, float(np.finfo(np.float64).max)),
    "float32": Format(2.0**-24, 2.0**-126, float(np.finfo(np.float32).max)),
    "bfloat16": Format(2.0**-8, 2.0**-126, (2 - 2.0**-7) * 2.0**127),
    "float16": Format(2.0**-11, 2.0**-24, 65504.0),
}


@dataclass(frozen=True)
class Before:
    """What a step of one tensor starts from."""

    rule: str
    options: Mapping[str, Any]
    values: Mapping[str, Values]
    """`param`, `grad`, and the state that there is."""
    count: int
    """Adam's count of steps before this one."""


def state_after(before: Before) -> dict[str, Values]:
    """Return the state that the step leaves."""
    o, x = before.options, before.values
    g = -x["grad"] if o["maximize"] else x["grad"]
    if before.rule != "adamw" and o["weight_decay"]:
        g = g + o["weight_decay"] * x["param"]
    zero = np.zeros_like(g)
    if before.rule == "sgd":
        if not o["momentum"]:
            return {}
        if "momentum_buffer" not in x:
            return {"momentum_buffer": g}
        return {"momentum_buffer": o["momentum"] * x["momentum_buffer"] + (1 - o["dampening"]) * g}
    b1, b2 = o["betas"]
    after = {
        "exp_avg": b1 * x.get("exp_avg", zero) + (1 - b1) * g,
        "exp_avg_sq": b2 * x.get("exp_avg_sq", zero) + (1 - b2) * g * g,
    }
    if o["amsgrad"]:
        after["max_exp_avg_sq"] = np.maximum(x.get("max_exp_avg_sq", zero), after["exp_avg_sq"])
    return after


def change(before: Before, after: Mapping[str, Values], lost: float = 0.0) -> Values:
    """Return the change of the parameter. `lost`: by how much moments and divisor are smaller or larger than they should be."""
    o, x = before.options, before.values
    g = -x["grad"] if o["maximize"] else x["grad"]
    if before.rule == "sgd":
        g = g + o["weight_decay"] * x["param"] if o["weight_decay"] else g
        direction = after.get("momentum_buffer", g)
        if o["momentum"] and o["nesterov"]:
            direction = g + o["momentum"] * direction
        return -o["lr"] * direction
    (b1, b2), t = o["betas"], before.count + 1
    m, v = after["exp_avg"], after["max_exp_avg_sq" if o["amsgrad"] else "exp_avg_sq"]
    m, v = m + np.sign(m) * lost, np.maximum(v - lost, 0.0)
    divisor = np.sqrt(v / (1 - b2**t)) + max(o["eps"] - lost, 0.0)
    decay = o["lr"] * o["weight_decay"] * x["param"] if before.rule == "adamw" and o["weight_decay"] else 0.0
    return -o["lr"] / (1 - b1**t) * m / divisor - decay


def excess(before: Before, recorded: Mapping[str, Values], dtype: str, *, computed_wide: bool) -> dict[str, Values]:
    """Return how far each recorded number is from the exact one, in units of what rounding explains.

    `computed_wide`: the step computes in float32 and rounds to its half format when it stores.
    """
    with np.errstate(all="ignore"):
        stored, computed = FORMATS[dtype], FORMATS["float32" if computed_wide else dtype]
        exact, reach = _exact_and_reach(before)
        found: dict[str, Values] = {}
        for name, right in exact.items():
            old = before.values.get(name, np.zeros_like(right))
            new = old + right if name == "param" else right
            stores = _stores(name, before.rule)
            size = np.maximum(np.abs(old), np.abs(new))
            slack = (
                stored.unit * np.maximum(np.abs(new), np.abs(recorded[name])) + stores * computed.unit * size
                if computed_wide
                else stores * stored.unit * size
            )
            slack = slack + 4 * stored.least
            if name == "param":
                slack = slack + _underflow(before, exact, 4 * computed.least)
            off = np.abs(recorded[name] - new)
            rounding = slack + LIMIT * computed.unit * reach[name]
            # From a number that is not finite none comes that is.
            lost = ~np.isfinite(old) | ~np.isfinite(new)
            same = (recorded[name] == new) | (lost & ~np.isfinite(recorded[name]))
            unknown = np.isfinite(new) & ((np.abs(new) > stored.largest) | ~np.isfinite(slack))
            ratio = off / rounding
            found[name] = np.where(same | unknown, 0.0, np.where(np.isnan(ratio), np.inf, ratio))
        return found


def _exact_and_reach(before: Before) -> tuple[dict[str, Values], dict[str, Values]]:
    """Return the exact change and state, and how strongly each depends on the numbers that go in, relatively."""
    exact = _step(before)
    reach = {name: np.abs(value) for name, value in exact.items()}
    for moved in before.values:
        values = {**before.values, moved: before.values[moved] * (1 + NUDGE)}
        for name, value in _step(Before(before.rule, before.options, values, before.count)).items():
            slope = np.abs(value - exact[name]) / NUDGE
            reach[name] = reach[name] + np.where(np.isfinite(slope), slope, 0.0)
    return exact, reach


def _step(before: Before) -> dict[str, Values]:
    after = state_after(before)
    return {**after, "param": change(before, after)}


def _underflow(before: Before, exact: Mapping[str, Values], lost: float) -> Values:
    """Return by how much the change may be off because state and divisor lose what their format cannot hold."""
    nominal = exact["param"]
    if before.rule == "sgd":
        return before.options["lr"] * np.full_like(nominal, lost)
    both = [np.abs(change(before, exact, sign * lost) - nominal) for sign in (1, -1)]
    worst = np.maximum(*both)
    return np.where(np.isnan(worst), np.where(np.isfinite(nominal), np.inf, 0.0), worst)


def _stores(name: str, rule: str) -> int:
    """Return how often a step stores a number of this size."""
    return {"exp_avg": 2, "param": 3 if rule == "adamw" else 2}.get(name, 3)


def unmoved(before: Before, dtype: str, *, computed_wide: bool) -> float:
    """Return how far a parameter that stays where it is would be from where it should go, as `excess` measures it."""
    with np.errstate(all="ignore"):
        still = {**state_after(before), "param": before.values["param"]}
    return float(excess(before, still, dtype, computed_wide=computed_wide)["param"].max())


def error_of(before: Before, recorded: Mapping[str, Values]) -> float:
    """Return the error of a step relative to what it should change: the largest of the parameter and each slot."""
    worst = 0.0
    with np.errstate(all="ignore"):
        for name, right in _step(before).items():
            old = before.values.get(name, np.zeros_like(right))
            changed, new = (right, old + right) if name == "param" else (right - old, right)
            error = float(np.linalg.norm(recorded[name] - new) / np.linalg.norm(changed))
            worst = max(worst, error if np.isfinite(error) else 0.0)
    return worst
