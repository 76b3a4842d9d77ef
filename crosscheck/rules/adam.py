"""Writes torch.optim.Adam and AdamW as Optax chains, and says how their options and their state are read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax.numpy as jnp
import optax
from jaxtyping import Float64

from crosscheck.errors import TraceError
from crosscheck.rules import own
from crosscheck.rules.arrays import Array
from crosscheck.rules.rule import (
    Column,
    Columns,
    Counts,
    Errors,
    Hyperparameters,
    Interval,
    Options,
    Rule,
    Slot,
    Values,
    flag,
    number,
    one_count,
    signed_gradient,
)
from crosscheck.trace.format import GRAD, PARAM

Decay = Literal["none", "coupled", "decoupled"]


@dataclass(frozen=True, slots=True)
class AdamFlags:
    """What selects the shape of Adam's formula."""

    amsgrad: bool = False
    decay: Decay = "none"


def adam(flags: AdamFlags, h: Hyperparameters) -> optax.GradientTransformation:
    """p <- p - lr m̂ / (sqrt(v̂) + eps), with m and v moving averages of g and g², corrected for their start.

    Under `maximize` the sign of g turns first. Coupled weight decay adds wd p to g; decoupled decay subtracts
    lr wd p from p beside the step (AdamW). AMSGrad puts the running maximum of v in the place of v.
    Sources: Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019; the algorithm in torch.optim.Adam's documentation.
    """
    return adam_around(adam_moments(flags, h), flags, h)


def adam_moments(flags: AdamFlags, h: Hyperparameters) -> optax.GradientTransformation:
    """Return what keeps m and v, and makes m̂ / (sqrt(v̂) + eps) of them."""
    scale_by = own.scale_by_torch_amsgrad if flags.amsgrad else optax.scale_by_adam
    return scale_by(h["beta1"], h["beta2"], h["eps"])


def adam_around(
    moments: optax.GradientTransformation, flags: AdamFlags, h: Hyperparameters
) -> optax.GradientTransformation:
    """Put around the moments what stands before and behind them: sign, weight decay, learning rate."""
    decay = [optax.add_decayed_weights(h["weight_decay"])]
    return optax.chain(
        optax.scale(h["sign"]),
        *(decay if flags.decay == "coupled" else []),
        moments,
        *(decay if flags.decay == "decoupled" else []),
        optax.scale_by_learning_rate(h["lr"]),
    )


def _flags(options: Options) -> AdamFlags:
    decay: Decay = "decoupled" if flag(options, "decoupled_weight_decay") else "coupled"
    return AdamFlags(flag(options, "amsgrad"), decay if number(options, "weight_decay") != 0 else "none")


def _decoupled_flags(options: Options) -> AdamFlags:
    return _flags({**options, "decoupled_weight_decay": True})


def _hyperparameters(options: Options) -> dict[str, float]:
    betas = options.get("betas")
    if not isinstance(betas, tuple | list) or len(betas) != 2:  # pyright: ignore[reportUnknownArgumentType]
        raise TraceError(f"the option 'betas' of a parameter group is {betas!r}; the rule needs two numbers")
    named: dict[str, Any] = {"beta1": betas[0], "beta2": betas[1]}
    return {
        "lr": number(options, "lr"),
        "beta1": number(named, "beta1"),
        "beta2": number(named, "beta2"),
        "eps": number(options, "eps"),
        "weight_decay": number(options, "weight_decay"),
        "sign": -1.0 if flag(options, "maximize") else 1.0,
    }


def _hyperparameters_read(flags: AdamFlags) -> tuple[str, ...]:
    return ("lr", "beta1", "beta2", "eps", *(("weight_decay",) if flags.decay != "none" else ()))


def _formula(flags: AdamFlags, h: Mapping[str, float], first: bool) -> tuple[str, ...]:
    del first
    decay = " + weight_decay * param"
    second = "max_exp_avg_sq" if flags.amsgrad else "exp_avg_sq"
    return (
        f"g = {signed_gradient(h)}{decay if flags.decay == 'coupled' else ''}",
        "exp_avg = beta1 * exp_avg + (1 - beta1) * g",
        "exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2",
        *(["max_exp_avg_sq = max(max_exp_avg_sq, exp_avg_sq)"] if flags.amsgrad else []),
        f"update = exp_avg / (1 - beta1**t) / (sqrt({second} / (1 - beta2**t)) + eps)",
        f"param = param - lr * {f'(update{decay})' if flags.decay == 'decoupled' else 'update'}",
    )


def _stores(flags: AdamFlags) -> int:
    return 2 if flags.decay == "decoupled" else 1  # the decay, then the step


def _unused(flags: AdamFlags) -> tuple[str, ...]:
    return () if flags.amsgrad else ("max_exp_avg_sq",)


def _own(flags: AdamFlags, h: Mapping[str, float]) -> tuple[str, ...]:
    del h
    return ("scale_by_torch_amsgrad",) if flags.amsgrad else ()


def _correction_error(h: Columns, counts: Counts, scalar_error: Column, beta_error: Column) -> Column:
    """Return the relative error of the update from its bias corrections.

    b^t off by e of itself (beta off by e: t times that) moves 1 - b^t by e b^t / (1 - b^t) of itself; v's under a root.

    What follows, a difference, a root and two quotients, adds four errors.
    """
    t = counts["step"] + 1
    first, second = h["beta1"] ** t, h["beta2"] ** t
    return (scalar_error + t * beta_error) * (first / (1 - first) + 0.5 * second / (1 - second)) + 4 * scalar_error


def _decays_gradient(flags: AdamFlags) -> bool:
    return flags.decay == "coupled"


def _cancellation(h: Columns, before: Values, error: Column) -> Mapping[str, Float64[Array, "rows width"]]:
    """Return how far m and v may be off where grad and wd p cancel, beyond what their derivatives tell.

    Their sum g is off by d = error (|grad| + |wd p|) at most. Where it is itself less than twice that, rounding decides its
    size and sign. No derivative tells so: that of g² is 2 g, almost nothing, and a first step m / sqrt(v) does not depend on g
    at all but for its sign. So there g counts as off by d.
    """
    decay = h["weight_decay"] * before[PARAM]
    g = jnp.abs(h["sign"] * before[GRAD] + decay)
    d = error * (jnp.abs(before[GRAD]) + jnp.abs(decay))
    off = jnp.where((g < 2 * d) & jnp.isfinite(d * d), d, 0.0)
    of_square = (1 - h["beta2"]) * off * (2 * g + off)
    return {"exp_avg": (1 - h["beta1"]) * off, "exp_avg_sq": of_square, "max_exp_avg_sq": of_square}


def _spread(h: Columns, counts: Counts, after: Values, error: Errors, rounding: Errors) -> Interval:
    """Return where the parameter may be if m, v and the divisor are off by these errors.

    In float16 this is everyday: (1 - beta2) g² is below 2^-25 for g = 1e-3, eps = 1e-8 is zero. The quotient then lies
    between the least and the most that m and the divisor allow, and is infinite in its own direction where the divisor
    may be lost.
    """
    t = counts["step"] + 1
    root = jnp.sqrt(1 - h["beta2"] ** t)
    name = "max_exp_avg_sq" if "max_exp_avg_sq" in after else "exp_avg_sq"
    v, m = after[name], after["exp_avg"]
    divisor = jnp.sqrt(v) / root + h["eps"]
    least = jnp.sqrt(jnp.maximum(v - error[name], 0.0)) / root + h["eps"] - error[PARAM]
    most = jnp.sqrt(v + error[name]) / root + h["eps"] + error[PARAM]
    low, high = m - error["exp_avg"], m + error["exp_avg"]
    lost = jnp.sqrt(jnp.maximum(v - error[name] - rounding[name], 0.0)) / root + h["eps"] <= error[PARAM]
    size = h["lr"] / (1 - h["beta1"] ** t)
    # How much larger the quotient may be, and how much smaller: with the least divisor if that takes it away from zero.
    larger = jnp.where(high > 0, high / least, high / most) - m / divisor
    smaller = m / divisor - jnp.where(low < 0, low / least, low / most)
    fall = jnp.where(lost & (high + rounding["exp_avg"] > 0), jnp.inf, jnp.maximum(larger, 0.0))
    rise = jnp.where(lost & (low - rounding["exp_avg"] < 0), jnp.inf, jnp.maximum(smaller, 0.0))
    regular = jnp.isfinite(divisor) & (divisor > 0)  # what is wrong already is not excused
    down, up = (jnp.where(regular & ~jnp.isnan(moved), moved, 0.0) for moved in (size * fall, size * rise))
    return jnp.where(size < 0, -up, down), jnp.where(size < 0, -down, up)


def _stock(flags: AdamFlags, options: Options) -> optax.GradientTransformation:
    """Return the alias of the same name, with ascent as a negative learning rate and coupled decay in front of it.

    torch's order in AMSGrad has no argument.
    """
    lr = number(options, "lr") * (-1 if flag(options, "maximize") else 1)
    decay = number(options, "weight_decay")
    (b1, b2), eps = options["betas"], number(options, "eps")
    before = [optax.add_decayed_weights(decay)] if flags.decay == "coupled" else []
    if not flags.amsgrad:
        if flags.decay == "decoupled":
            return optax.adamw(lr, b1, b2, eps, weight_decay=decay)
        return optax.chain(*before, optax.adam(lr, b1, b2, eps))
    if flags.decay == "decoupled":  # there is no alias; this is adamw's definition with amsgrad inside
        return optax.chain(
            optax.scale_by_amsgrad(b1, b2, eps), optax.add_decayed_weights(decay), optax.scale_by_learning_rate(lr)
        )
    return optax.chain(*before, optax.amsgrad(lr, b1, b2, eps))


ADAM = Rule(
    name="adam",
    flags=_flags,
    hyperparameters=_hyperparameters,
    slots={
        "exp_avg": Slot("mu", stores=2),  # one in torch.optim, a lerp; others multiply, and add
        "exp_avg_sq": Slot("nu", stores=2),
        "max_exp_avg_sq": Slot("nu_max", stores=2),
        "step": Slot("count", one_count),
    },
    unused=_unused,
    chain=adam,
    own=_own,
    hyperparameters_read=_hyperparameters_read,
    formula=_formula,
    stores=_stores,
    complemented=("beta1", "beta2"),
    correction_error=_correction_error,
    spread=_spread,
    decays_gradient=_decays_gradient,
    cancellation=_cancellation,
    stock=_stock,
)
ADAMW = replace(ADAM, name="adamw", flags=_decoupled_flags)
