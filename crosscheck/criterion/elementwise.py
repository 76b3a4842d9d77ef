"""The criterion: by how many roundoffs of its inputs a recorded step misses its formula.

    eta = |recorded - exact| / (u (|exact| + sum over inputs x of |d exact / dx * x|) + floor)

that is, the recorded number is the exact formula on inputs each perturbed by at most eta roundoffs: a
componentwise backward error (Higham, Accuracy and Stability of Numerical Algorithms, chapter 7). The
derivatives come from `jax.linearize` of the Optax chain itself, so no bound is derived by hand.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from crosscheck.rules.arrays import Array
from crosscheck.rules.inputs import Inputs, one_step
from crosscheck.rules.rule import Flags, Rule
from crosscheck.tolerance import FAIL, trial_error
from crosscheck.trace.format import PARAM


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """What came out, element by element, of `param` and each slot."""

    eta: Mapping[str, Float64[Array, "rows width"]]
    """Infinite where recorded and exact differ in kind; 0 where nothing is judged."""
    exact: Mapping[str, Float64[Array, "rows width"]]
    judged: Mapping[str, Bool[Array, "rows width"]]
    out_of_range: Mapping[str, Bool[Array, "rows width"]]
    """What the format cannot represent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What came out, by row and output."""

    eta: Float64[np.ndarray, "rows outputs"]
    """The largest eta of the row; infinite where recorded and exact differ in kind."""
    element: Int64[np.ndarray, "rows outputs"]
    """The element that has it."""
    expected: Float64[np.ndarray, "rows outputs"]
    """The exact value of that element."""
    recorded: Float64[np.ndarray, "rows outputs"]
    over: Int64[np.ndarray, "rows outputs"]
    """How many elements are beyond FAIL."""
    checked: Int64[np.ndarray, "rows outputs"]
    """How many elements were judged."""
    out_of_range: Int64[np.ndarray, "rows outputs"]
    """How many elements the format cannot represent."""
    power: Mapping[str, float]
    """By hyperparameter tried: the largest eta if the record had been made with a wrong one."""


@partial(jax.jit, static_argnums=(0, 1))
def compare(rule: Rule[Any], flags: Flags, inputs: Inputs) -> Compared:
    """Compare a batch of recorded rows with the rule; compiled once for each rule, flags and shape."""
    names = (PARAM, *rule.elementwise(flags))
    values, floor = inputs.values, {name: _column(inputs.floor[:, i]) for i, name in enumerate(names)}

    def step(values: Mapping[str, Float64[Array, "rows width"]]) -> dict[str, Float64[Array, "rows width"]]:
        each_row = jax.vmap(partial(one_step, rule, flags))
        # The type of what `vmap` returns is that of one row.
        return each_row(inputs.hyperparameters, inputs.counts, inputs.absent, values)  # pyright: ignore[reportArgumentType]

    exact: dict[str, jax.Array]
    derivative: Callable[[Mapping[str, Array]], dict[str, jax.Array]]
    exact, derivative = jax.linearize(step, values)  # pyright: ignore[reportUnknownVariableType]
    reach = {name: jnp.abs(exact[name]) for name in names}
    for name in values:
        along = {other: jnp.abs(x) if other == name else jnp.zeros_like(x) for other, x in values.items()}
        for output, moved in derivative(along).items():
            # sqrt has no derivative at zero; but a zero, perturbed by a factor, stays zero: it contributes none.
            reach[output] = reach[output] + jnp.where(jnp.isnan(moved), 0.0, jnp.abs(moved))
    bound = {name: _column(inputs.roundoff[:, i]) * reach[name] + floor[name] for i, name in enumerate(names)}
    undetermined = jnp.zeros(values[PARAM].shape, bool)
    h, counts = jax.tree.map(_column, (inputs.hyperparameters, inputs.counts))
    if rule.correction_error is not None:
        update = jnp.abs(exact[PARAM] - values[PARAM])
        scalar, beta = _column(inputs.scalar_error), _column(inputs.beta_error)
        bound[PARAM] += rule.correction_error(h, counts, scalar, beta) * update
    if rule.underflow is not None:
        lost = jnp.where(_column(inputs.rounds_between), rule.underflow(h, counts, exact, floor), 0.0)
        bound[PARAM] += lost
        undetermined = jnp.isinf(lost)
    return _classify(names, inputs, exact, bound, undetermined)


def _column(numbers: Shaped[Array, " rows"]) -> Shaped[jax.Array, "rows 1"]:
    """Return one number a row as a column, so that it goes with every element of the row."""
    return jnp.asarray(numbers)[:, None]


def _classify(
    names: tuple[str, ...],
    inputs: Inputs,
    exact: Mapping[str, Float64[Array, "rows width"]],
    bound: Mapping[str, Float64[Array, "rows width"]],
    undetermined: Bool[Array, "rows width"],
) -> Compared:
    """Compute eta from the bound, and set apart what is infinite, overflows or underflows.

    `undetermined`: elements whose parameter nothing can be said about, because all of the update may be lost.
    """
    real = jnp.arange(undetermined.shape[1])[None, :] < _column(inputs.width)
    # Two spellings of one formula, p (1 - lr wd) and p - lr wd p, part at infinity: from there on any
    # number that is not finite will do.
    unusual = sum((~jnp.isfinite(x) for x in inputs.values.values()), jnp.zeros(real.shape, bool))
    eta: dict[str, Array] = {}
    there: dict[str, Array] = {}
    overflowed = jnp.zeros(real.shape, bool)
    for i, name in enumerate(names):
        recorded, right = inputs.recorded[name], exact[name]
        same_kind = (jnp.isnan(right) & jnp.isnan(recorded)) | (right == recorded)
        same_kind |= unusual & ~jnp.isfinite(right) & ~jnp.isfinite(recorded)
        distance = jnp.where(same_kind, 0.0, jnp.abs(recorded - right) / bound[name])
        eta[name] = jnp.where(jnp.isnan(distance), jnp.inf, distance)
        there[name] = _column(inputs.judged[:, i]) & real
        beyond = jnp.isfinite(right) & (jnp.abs(right) > _column(inputs.largest[:, i]))
        # What a format cannot hold overflows, and takes with it what the same element computes from it.
        overflowed |= there[name] & beyond & ~jnp.isfinite(recorded)
    out = {name: there[name] & (overflowed | undetermined if name == PARAM else overflowed) for name in names}
    judged = {name: there[name] & ~out[name] for name in names}
    eta = {name: jnp.where(judged[name], eta[name], 0.0) for name in names}
    return Compared(eta=eta, exact=exact, judged=judged, out_of_range=out)


def judge(rule: Rule[Any], flags: Flags, inputs: Inputs, tried: Iterable[str] = ()) -> Judged:
    """Compare a batch of recorded rows with the rule; what each row comes to, and the power of what is `tried`.

    The summing up is NumPy's: every reduction that XLA has to compile costs more than it saves.
    """
    # What no row asks for need not be compiled.
    if not np.any(inputs.scalar_error):
        rule = replace(rule, correction_error=None)
    if not np.any(inputs.rounds_between):
        rule = replace(rule, underflow=None)
    names = (PARAM, *rule.elementwise(flags))
    found: Compared = jax.device_get(compare(rule, flags, inputs))
    element = {name: np.argmax(found.eta[name], axis=1) for name in names}

    def gather(of: Callable[[str], Shaped[np.ndarray, " rows"]]) -> Shaped[np.ndarray, "rows outputs"]:
        return np.stack([of(name) for name in names], axis=1)

    def at_worst(arrays: Mapping[str, Float64[Array, "rows width"]]) -> Float64[np.ndarray, "rows outputs"]:
        return gather(lambda name: np.take_along_axis(arrays[name], element[name][:, None], axis=1)[:, 0])

    return Judged(
        eta=at_worst(found.eta),
        element=gather(element.__getitem__),
        expected=at_worst(found.exact),
        recorded=at_worst(inputs.recorded),
        over=gather(lambda name: np.sum(~(found.eta[name] <= FAIL), axis=1)),
        checked=gather(lambda name: np.sum(found.judged[name], axis=1)),
        out_of_range=gather(lambda name: np.sum(found.out_of_range[name], axis=1)),
        power={name: _power(rule, flags, inputs, found, name) for name in tried},
    )


def _power(rule: Rule[Any], flags: Flags, inputs: Inputs, found: Compared, name: str) -> float:
    """Return the largest eta between what the formula makes with the true hyperparameter and with a wrong one."""
    mistaken = inputs.hyperparameters[name] * (1 - trial_error(inputs.roundoff[:, 0]))
    wrong = replace(inputs, hyperparameters={**inputs.hyperparameters, name: mistaken}, recorded=found.exact)
    against: Compared = jax.device_get(compare(rule, flags, wrong))
    return max(
        float(np.max(eta, where=found.judged[output] & np.isfinite(eta), initial=0.0))
        for output, eta in against.eta.items()
    )
