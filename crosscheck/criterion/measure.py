"""How far one recorded output is from its formula, element by element.

    eta = max(0, |recorded - exact| - slack) / (u_c reach + tiny)
    slack = size_error max(|before|, |exact|) + result_error max(|exact|, |recorded|) + lost

u_c is the unit roundoff of the format that the change is computed in, which `Inputs` calls compute_error.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float64

from crosscheck.criterion.aggregate import Weighted, weigh
from crosscheck.rules.arrays import Array
from crosscheck.tolerance import FAIL

_TINY = 2.0**-1022
"""This keeps a step without any change from being divided by zero: what is left of it, if anything, is an error."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What came out of one output, as in `Compared`."""

    eta: Float64[Array, "rows width"]
    judged: Bool[Array, "rows width"]
    out_of_range: Bool[Array, "rows width"]
    undetermined: Bool[Array, "rows width"]
    smallest: tuple[Float64[Array, "rows width"], ...]
    weighted: Weighted


@jax.jit
def measure(
    *,
    before: Float64[Array, "rows width"],
    recorded: Float64[Array, "rows width"],
    exact: Float64[Array, "rows width"],
    reach: Float64[Array, "rows width"],
    old: Float64[Array, "rows width"],
    slopes: tuple[Float64[Array, "rows width"], ...],
    correction: Float64[Array, "rows width"],
    interval: tuple[Float64[Array, "rows width"], Float64[Array, "rows width"]],
    there: Bool[Array, "rows width"],
    unusual: Bool[Array, "rows width"],
    lost_with: Bool[Array, "rows width"],
    size_error: Float64[Array, "rows 1"],
    result_error: Float64[Array, "rows 1"],
    lost: Float64[Array, "rows 1"],
    compute_error: Float64[Array, "rows 1"],
    largest: Float64[Array, "rows 1"],
) -> Measured:
    """Measure how far one output is from its formula.

    Args not in `Inputs` or `ExactStep`:
        there: Elements that are on record.
        unusual: Elements of which something that goes in is not finite.
        lost_with: Elements computed from state that its format could not represent.
    """
    # A number that the format cannot hold is to be the infinity of its own sign.
    beyond = jnp.isfinite(exact) & (jnp.abs(exact) > largest) & (recorded == jnp.copysign(jnp.inf, exact))
    out_of_range = there & (beyond | lost_with)
    there = there & ~out_of_range
    undetermined = there & (jnp.isinf(interval[0]) | jnp.isinf(interval[1]))
    bound = compute_error * reach + correction + _TINY
    size = jnp.maximum(jnp.abs(before), jnp.abs(exact))
    result = jnp.maximum(jnp.abs(exact), jnp.where(jnp.isfinite(recorded), jnp.abs(recorded), 0.0))
    slack = size_error * size + result_error * result + lost
    distance = _distance(recorded, exact, interval, unusual)
    eta = jnp.maximum(distance - jnp.where(jnp.isfinite(slack), slack, 0.0), 0.0) / bound
    # What is NaN differs in kind, and no rounding explains it.
    eta = jnp.where(distance == 0, 0.0, jnp.where(jnp.isnan(eta), jnp.inf, eta))
    judged, residual = there & ~undetermined, recorded - exact
    slack = slack + jnp.maximum(*interval)
    # An error e of a hyperparameter moves the exact number by e times the slope. It shows at the latest when that is as
    # much as the residual that is there, the slack and FAIL times the bound together. A residual that is larger than the
    # other two is an error that shows, and no larger error is needed for the next one to show.
    hidden = slack + FAIL * bound
    shown = jnp.where(judged, jnp.minimum(jnp.abs(residual), hidden) + hidden, jnp.inf)
    return Measured(
        eta=jnp.where(there, eta, 0.0),
        judged=judged,
        out_of_range=out_of_range,
        undetermined=undetermined,
        smallest=tuple(shown / jnp.abs(slope) for slope in slopes),
        weighted=weigh(
            residual=residual, change=exact - before, slack=slack, bound=bound, old=old, slopes=slopes, judged=judged
        ),
    )


def _distance(
    recorded: Float64[Array, "rows width"],
    exact: Float64[Array, "rows width"],
    interval: tuple[Float64[Array, "rows width"], Float64[Array, "rows width"]],
    unusual: Bool[Array, "rows width"],
) -> Float64[Array, "rows width"]:
    """Return how far the recorded number is from where the exact one may be; NaN where they differ in kind."""
    down, up = interval
    # Two spellings of one formula, p (1 - lr wd) and p - lr wd p, part at infinity: from there on any
    # number that is not finite will do.
    same = (jnp.isnan(exact) & jnp.isnan(recorded)) | (exact == recorded)
    same |= unusual & ~jnp.isfinite(exact) & ~jnp.isfinite(recorded)
    lost = (jnp.isinf(up) & (recorded == jnp.inf)) | (jnp.isinf(down) & (recorded == -jnp.inf))
    lost |= jnp.isinf(up) & jnp.isinf(down) & jnp.isnan(recorded)  # nothing, divided by nothing
    distance = jnp.maximum(recorded - exact - up, exact - recorded - down)
    return jnp.where(same | lost, 0.0, distance)
