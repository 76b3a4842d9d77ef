"""Writes an update of torch.optim.swa_utils.AveragedModel as a rule, with get_ema_multi_avg_fn or as it is by itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from crosscheck.rules.rule import Column, Columns, Counts, Hyperparameters, Options, Rule, number
from crosscheck.trace.format import AVERAGE, PARAM


@dataclass(frozen=True, slots=True)
class AverageFlags:
    """Which kind of average it is."""

    equal: bool = False  # all parameters since the first weigh the same


def average(flags: AverageFlags, h: Hyperparameters) -> optax.GradientTransformation:
    """a <- decay a + (1 - decay) p, or a <- a + (p - a) / (n + 1) after n updates; the first update copies: a <- p.

    Here the average stands in the place of the parameter, and the new parameters in that of the gradient.
    """
    by_decay = jnp.where(h["seen"] > 0, 1 - h["decay"], 1.0)
    step_size = 1 / (h["seen"] + 1) if flags.equal else by_decay

    def move(updates: Any, params: Any) -> Any:
        averaged = optax.incremental_update(updates, params, step_size)
        return optax.tree.sub(averaged, params)

    return optax.stateless(move)


def _flags(options: Options) -> AverageFlags:
    return AverageFlags(equal=bool(options.get("equal")))


def _hyperparameters(options: Options) -> dict[str, float]:
    return {name: number(options, name) for name in ("decay", "seen")}


def _hyperparameters_read(flags: AverageFlags) -> tuple[str, ...]:
    return () if flags.equal else ("decay",)


def _formula(flags: AverageFlags, h: Mapping[str, float], first: bool) -> tuple[str, ...]:
    del first
    if flags.equal:
        return ("average = average + (param - average) / (seen + 1)",)
    return ("average = decay * average + (1 - decay) * param",) if h["seen"] > 0 else ("average = param",)


def _stores(flags: AverageFlags) -> int:
    """Return how many operations store the average: torch.lerp is one; mul_(decay).add_(param, alpha=1 - decay) are two."""
    del flags
    return 2


def _weight_error(h: Columns, counts: Counts, scalar_error: Column, beta_error: Column) -> Column:
    """Return the relative error of the weight of the new parameters: torch may compute 1 / (n + 1) in float32."""
    del counts, beta_error
    return jnp.where(h["seen"] > 0, scalar_error, 0.0)


MOVING_AVERAGE = Rule(
    name="average",
    check="average",
    moved=AVERAGE,
    reads=PARAM,
    formula=_formula,
    complaint="the moving average is not what its decay makes of the new parameters",
    extras=("previous",),  # the parameter before the step
    flags=_flags,
    hyperparameters=_hyperparameters,
    chain=average,
    hyperparameters_read=_hyperparameters_read,
    stores=_stores,
    complemented=("decay",),
    correction_error=_weight_error,
)
