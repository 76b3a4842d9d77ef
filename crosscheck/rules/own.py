"""Pieces of torch's formulas that Optax cannot express; every report names the ones it used."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Int32

from crosscheck.rules.arrays import Array, Number

Count = int | np.int32 | Int32[Array, ""]
"""A number of steps; NumPy makes its own scalar of the sum of an array without axes and a number."""


class DampenState(NamedTuple):
    first: Bool[Array, ""]  # no gradient has been seen yet


def dampen(dampening: Number) -> optax.GradientTransformation:
    """g <- (1 - dampening) * g, but not the first time: torch starts the momentum buffer with the bare gradient.

    In front of `optax.trace`. Source: torch.optim.SGD's documentation, `if t > 1: b = mu b + (1 - tau) g else b = g`.
    """

    def init(params: Any) -> DampenState:
        del params
        return DampenState(first=jnp.asarray(True))

    def update(updates: Any, state: DampenState, params: Any = None) -> tuple[Any, DampenState]:
        del params
        return optax.tree.scale(jnp.where(state.first, 1.0, 1.0 - dampening), updates), DampenState(
            first=jnp.zeros_like(state.first)
        )

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def scale_by_torch_amsgrad(b1: Number, b2: Number, eps: Number) -> optax.GradientTransformation:
    """m̂ / (sqrt(max v) / sqrt(1 - b2^t) + eps): the maximum first, then the bias correction, as torch does.

    `optax.scale_by_amsgrad` corrects first. Without its corrections, and with eps and the result scaled by
    sqrt(1 - b2^t), it computes torch's expression.
    """

    def at(count: Count) -> tuple[optax.GradientTransformation, Number]:
        root = jnp.sqrt(1.0 - b2**count)
        bare = optax.scale_by_amsgrad(b1, b2, eps * root, bias_correction_mu=False, bias_correction_nu=False)
        return bare, root / (1.0 - b1**count)

    return by_count(at)


def by_count(at: Callable[[Count], tuple[optax.GradientTransformation, Number]]) -> optax.GradientTransformation:
    """Return a transformation that depends on the step: `at(t)` is what it is at step t, from 1, and a factor on its result.

    The state, with the count in it, is the transformation's own.
    """

    def init(params: Any) -> Any:
        return at(1)[0].init(params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        inner, factor = at(state.count + 1)
        updates, state = inner.update(updates, state, params)
        return optax.tree.scale(factor, updates), state

    return optax.GradientTransformation(init, update)
