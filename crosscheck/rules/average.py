"""The moving average of the parameters: torch.optim.swa_utils.AveragedModel with get_ema_multi_avg_fn."""

from typing import Any

import jax.numpy as jnp
import optax

from crosscheck.rules.rule import Hyperparameters, Options, Rule, number
from crosscheck.trace.format import AVERAGE


def average(flags: None, h: Hyperparameters) -> optax.GradientTransformation:
    """a <- decay a + (1 - decay) p; the first update copies: a <- p.

    Here the average stands in the place of the parameter, and the new parameters in that of the gradient.
    """
    del flags
    step_size = jnp.where(h["seen"] > 0, 1 - h["decay"], 1.0)

    def move(updates: Any, params: Any) -> Any:
        averaged = optax.incremental_update(updates, params, step_size)
        return optax.tree.sub(averaged, params)

    return optax.stateless(move)


def _flags(options: Options) -> None:
    """Return no flags: the formula has one shape only."""
    del options


def _hyperparameters(options: Options) -> dict[str, float]:
    return {name: number(options, name) for name in ("decay", "seen")}


def _matters(flags: None) -> tuple[str, ...]:
    del flags
    return ("decay",)


MOVING_AVERAGE = Rule(
    name="average",
    check="average",
    moved=AVERAGE,
    complaint="the moving average is not what its decay makes of the new parameters",
    extras=("previous",),  # the parameter before the step
    flags=_flags,
    hyperparameters=_hyperparameters,
    chain=average,
    matters=_matters,
    complements=("decay",),
)
