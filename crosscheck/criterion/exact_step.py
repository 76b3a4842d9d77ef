"""The exact step of a batch, by the Optax chain in float64, and how it depends on what goes into it.

    reach = |change| + sum over inputs x of |d change / dx * x|,   change = exact - before, lr one of the inputs

The derivatives come from `jax.linearize` of the chain itself, so no bound is derived by hand.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float64, Shaped

from crosscheck.rules.arrays import Array
from crosscheck.rules.inputs import Inputs, one_step
from crosscheck.rules.rule import Flags, Interval, Rule
from crosscheck.tolerance import FAIL, FORMATS
from crosscheck.trace.format import PARAM


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True)
class ExactStep:
    """What the formula makes of a batch, and how that depends on what goes in. By output, each (rows, width)."""

    exact: Mapping[str, Array]
    reach: Mapping[str, Array]
    old: Mapping[str, Array]
    """The number before the step, times its coefficient in the formula."""
    slopes: Mapping[str, Mapping[str, Array]]
    """By hyperparameter h: d exact / d log h; of log(1 - b) for a decay b."""
    correction: Array
    """The error of the parameter's change by what is computed once a tensor, in units of the criterion."""
    intervals: Mapping[str, Interval]
    """How far below and above its exact value each may be; infinite for a parameter where all of a divisor may be lost."""


@partial(jax.jit, static_argnums=(0, 1))
def exact_step(rule: Rule[Any], flags: Flags, inputs: Inputs) -> ExactStep:
    """Take a step of the rule from every row, with its derivatives."""

    def step(
        values: Mapping[str, Float64[Array, "rows width"]], hyperparameters: Mapping[str, Float64[Array, " rows"]]
    ) -> dict[str, Float64[Array, "rows width"]]:
        each_row = jax.vmap(partial(one_step, rule, flags))
        # The type of what `vmap` returns is that of one row.
        return each_row(hyperparameters, inputs.counts, inputs.absent, values)  # pyright: ignore[reportArgumentType]

    exact: dict[str, jax.Array]
    derivative: Callable[[Mapping[str, Array], Mapping[str, Array]], dict[str, jax.Array]]
    exact, derivative = jax.linearize(step, inputs.values, inputs.hyperparameters)  # pyright: ignore[reportUnknownVariableType]
    no_values: dict[str, Array] = {name: jnp.zeros(value.shape) for name, value in inputs.values.items()}
    no_h: dict[str, Array] = {name: jnp.zeros(h.shape) for name, h in inputs.hyperparameters.items()}
    reach: dict[str, Array] = {name: jnp.abs(after - inputs.values[name]) for name, after in exact.items()}
    old: dict[str, Array] = {}
    for name, value in inputs.values.items():
        size = jnp.abs(value)
        for output, moved in derivative({**no_values, name: size}, no_h).items():
            # sqrt has no derivative at zero; but a zero, perturbed by a factor, stays zero: it contributes none.
            moved = jnp.where(jnp.isnan(moved), 0.0, moved)
            if output == name:
                old[output] = jnp.sign(value) * moved
                moved = moved - size  # of the change alone
            reach[output] = reach[output] + jnp.abs(moved)
    slopes = {
        name: derivative(no_values, {**no_h, name: _per_log(rule, name, inputs)})
        for name in rule.hyperparameters_read(flags)
    }
    for name, by_output in slopes.items():
        for number, output in enumerate((PARAM, *rule.elementwise(flags))):
            # Kernels round the rate, or what they make of it, to the format they compute in before they multiply by it. Any
            # other scalar counts where the format of the tensors, which it is rounded to as well, holds it as a subnormal number.
            roundoffs = _column(scalar_roundoffs(rule, name, inputs, number))
            roundoffs = jnp.maximum(roundoffs, 1.0) if name == "lr" else jnp.where(roundoffs > 1, roundoffs, 0.0)
            moved = jnp.abs(by_output[output]) * roundoffs
            reach[output] = reach[output] + jnp.where(jnp.isnan(moved), 0.0, moved)
    return ExactStep(
        exact=exact,
        reach=reach,
        old=old,
        slopes=slopes,
        correction=_correction(rule, inputs, exact[PARAM]),
        intervals=_intervals(rule, flags, inputs, exact, reach),
    )


def _correction(rule: Rule[Any], inputs: Inputs, exact: Float64[Array, "rows width"]) -> Float64[Array, "rows width"]:
    """Return the error of the parameter's change by what is computed once a tensor, such as bias corrections in float32."""
    if rule.correction_error is None:
        return jnp.zeros(exact.shape)
    h, counts = jax.tree.map(_column, (inputs.hyperparameters, inputs.counts))
    change = jnp.abs(exact - inputs.values[PARAM])
    return rule.correction_error(h, counts, _column(inputs.scalar_error), _column(inputs.beta_error)) * change


def _intervals(
    rule: Rule[Any], flags: Flags, inputs: Inputs, exact: Mapping[str, Array], reach: Mapping[str, Array]
) -> dict[str, Interval]:
    """Return how far below and above its exact value each output may be, beyond what the derivatives tell.

    A format loses small numbers on the way, and where gradient and weight decay cancel, rounding decides what is left of them.
    """
    names = (PARAM, *rule.elementwise(flags))
    nothing = jnp.zeros(exact[PARAM].shape)
    h, counts = jax.tree.map(_column, (inputs.hyperparameters, inputs.counts))
    off: Mapping[str, Array] = {}
    if rule.cancellation is not None and rule.decays_gradient(flags):
        off = rule.cancellation(h, inputs.values, FAIL * _column(inputs.compute_error[:, 0]))
    intervals = {name: (off.get(name, nothing), off.get(name, nothing)) for name in names}
    if rule.spread is None:
        return intervals
    between = jnp.where(_column(loses_as_it_stores(inputs)), 2.0, 0.0)
    lost = {name: between * _column(inputs.floor[:, i]) for i, name in enumerate(names)}
    error = {name: lost[name] + off.get(name, 0.0) for name in names}
    rounding = {name: between * _column(inputs.compute_error[:, i]) * reach[name] for i, name in enumerate(names)}
    return intervals | {PARAM: rule.spread(h, counts, exact, error, rounding)}


def _per_log(rule: Rule[Any], name: str, inputs: Inputs) -> Float64[Array, " rows"]:
    """Return dh / d log h, which is h; of log(1 - b) for a decay b it is b - 1."""
    h = inputs.hyperparameters[name]
    return h - 1 if name in rule.complemented else h


def scalar_roundoffs(rule: Rule[Any], name: str, inputs: Inputs, output: int) -> Float64[Array, " rows"]:
    """Return how many units of the criterion the spacing of subnormal numbers makes of a hyperparameter.

    An unfused kernel rounds it to its tensors' format, and float16 has a rate of 1e-6 with an error of 1 %. Below one unit the
    spacing does not matter: the number is a normal one, and off by a unit at most.
    """
    size, unit = abs(_per_log(rule, name, inputs)), inputs.compute_error[:, output]
    return inputs.floor[:, output] * inputs.rounds_between / (size + (size == 0)) / (unit + (unit == 0))


def loses_as_it_stores(inputs: Inputs) -> Bool[Array, " rows"]:
    """Return whether what lies between the operations overflows and underflows as what is stored does.

    So it does if it is stored too. A fused kernel keeps it in float32, which has the range of bfloat16 and a larger one than
    float16.
    """
    beyond = inputs.largest > FORMATS["float16"].largest
    wide = beyond[:, 0]
    for output in range(1, beyond.shape[1]):  # NumPy takes this step too, and its table of operations has no reduction
        wide = wide & beyond[:, output]
    return inputs.rounds_between | wide


def _column(numbers: Shaped[Array, " rows"]) -> Shaped[jax.Array, "rows 1"]:
    """Return one number a row as a column, so that it goes with every element of the row."""
    return jnp.asarray(numbers)[:, None]
