"""The criterion: by how many roundoffs a recorded step misses its formula, beyond what storing the result explains.

    eta = max(0, |recorded - exact| - slack) / (u reach + tiny)
    slack = size_error max(|before|, |after|) + result_error max(|exact|, |recorded|) + lost
    reach = |change| + sum over inputs x of |d change / dx * x|,   change = exact - before

A step writes before + change. Storing the sum costs at most the slack, whatever the change; what is left must be an
error of the change, and is counted in roundoffs of the change and of its inputs: a componentwise backward error (Higham,
Accuracy and Stability of Numerical Algorithms, chapter 7). The derivatives come from `jax.linearize` of the Optax chain
itself, so no bound is derived by hand. docs/criterion.md has the derivation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from crosscheck.criterion.aggregate import Sums, Weighted, sum_rows, weigh
from crosscheck.rules.arrays import Array
from crosscheck.rules.inputs import Inputs, one_step
from crosscheck.rules.rule import Flags, Rule
from crosscheck.tolerance import FAIL
from crosscheck.trace.format import PARAM

_TINY = 2.0**-1022
"""This keeps a step without any change from being divided by zero: what is left of it, if anything, is an error."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """What came out, element by element, of `param` and each slot."""

    eta: Mapping[str, Float64[Array, "rows width"]]
    """Infinite where recorded and exact differ in kind; 0 where nothing is judged."""
    exact: Mapping[str, Float64[Array, "rows width"]]
    judged: Mapping[str, Bool[Array, "rows width"]]
    """What says something: elements that are there, are not out of range and are determined."""
    out_of_range: Mapping[str, Bool[Array, "rows width"]]
    """What the format cannot represent."""
    undetermined: Bool[Array, "rows width"]
    """Parameters that may be anywhere on one side, because all of a divisor may be lost."""
    smallest: Mapping[str, Float64[Array, "rows width"]]
    """By hyperparameter: its smallest relative error that the element would have shown; infinite where it shows none."""
    weighted: tuple[Weighted, ...]
    """Of each output: what the aggregate sums up."""


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
    undetermined: Int64[np.ndarray, " rows"]
    """How many elements of the parameter may be anywhere on one side."""
    smallest: Mapping[str, Float64[np.ndarray, " rows"]]
    """By hyperparameter: its smallest relative error that one of the row's elements would have shown."""
    sums: Sums


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """What the formula makes of a batch, and how that depends on what goes in. By output, each (rows, width)."""

    exact: dict[str, Array]
    change: dict[str, Array]
    reach: dict[str, Array]
    old: dict[str, Array]
    """What an output changes by if the coefficient of the number before it is off by all of itself."""
    slopes: dict[str, dict[str, Array]]
    """By hyperparameter: what an output changes by if that is off by all of itself."""


@partial(jax.jit, static_argnums=(0, 1))
def compare(rule: Rule[Any], flags: Flags, inputs: Inputs) -> Compared:
    """Compare a batch of recorded rows with the rule; compiled once for each rule, flags and shape."""
    names = (PARAM, *rule.elementwise(flags))
    step = _step(rule, flags, inputs, names)
    h, counts = jax.tree.map(_column, (inputs.hyperparameters, inputs.counts))
    bound = {name: _column(inputs.compute_error[:, i]) * step.reach[name] + _TINY for i, name in enumerate(names)}
    if rule.correction_error is not None:
        scalar, beta = _column(inputs.scalar_error), _column(inputs.beta_error)
        bound[PARAM] += rule.correction_error(h, counts, scalar, beta) * jnp.abs(step.change[PARAM])
    down = up = jnp.zeros(step.exact[PARAM].shape)
    if rule.underflow is not None:
        floor = {name: _column(inputs.floor[:, i]) for i, name in enumerate(names)}
        between = _column(inputs.rounds_between)
        down, up = (jnp.where(between, way, 0.0) for way in rule.underflow(h, counts, step.exact, floor))
    slack = {name: _slack(i, name, inputs, step.exact[name]) for i, name in enumerate(names)}
    undetermined = jnp.isinf(down) | jnp.isinf(up)
    distance = {
        name: _distance(inputs, name, step.exact[name], (down, up) if name == PARAM else (0.0, 0.0)) for name in names
    }
    judged, out = _sort_out(names, inputs, step.exact)
    eta = {name: _eta(distance[name], slack[name], bound[name]) for name in names}
    evidence = {**judged, PARAM: judged[PARAM] & ~undetermined}
    slack[PARAM] += jnp.maximum(down, up)
    residual = {name: inputs.recorded[name] - step.exact[name] for name in names}
    shown = {name: jnp.abs(residual[name]) + slack[name] + FAIL * bound[name] for name in names}
    return Compared(
        eta={name: jnp.where(judged[name], eta[name], 0.0) for name in names},
        exact=step.exact,
        judged=evidence,
        out_of_range=out,
        undetermined=judged[PARAM] & undetermined,
        smallest={tried: _smallest(evidence, slope, shown) for tried, slope in step.slopes.items()},
        weighted=tuple(
            weigh(
                residual=residual[name],
                change=step.change[name],
                slack=slack[name],
                bound=bound[name],
                old=step.old[name],
                slopes=[slope[name] for slope in step.slopes.values()],
                judged=evidence[name],
            )
            for name in names
        ),
    )


def _step(rule: Rule[Any], flags: Flags, inputs: Inputs, names: tuple[str, ...]) -> _Step:
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
    change = {name: exact[name] - inputs.values[name] for name in names}
    reach: dict[str, Array] = {name: jnp.abs(change[name]) for name in names}
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
    slopes = {name: derivative(no_values, {**no_h, name: _whole(rule, name, inputs)}) for name in rule.matters(flags)}
    return _Step(exact=exact, change=change, reach=reach, old=old, slopes=slopes)  # pyright: ignore[reportArgumentType]


def _whole(rule: Rule[Any], name: str, inputs: Inputs) -> Float64[Array, " rows"]:
    """Return by how much a hyperparameter is off if it is off by all of itself: of 1 - b for a decay b."""
    h = inputs.hyperparameters[name]
    return jnp.asarray(h - 1 if name in rule.complements else h)


def _column(numbers: Shaped[Array, " rows"]) -> Shaped[jax.Array, "rows 1"]:
    """Return one number a row as a column, so that it goes with every element of the row."""
    return jnp.asarray(numbers)[:, None]


def _slack(i: int, name: str, inputs: Inputs, exact: Float64[Array, "rows width"]) -> Float64[Array, "rows width"]:
    """Return how far storing alone may take the recorded number from the exact one. `i`: the position of the output."""
    recorded = jnp.where(jnp.isfinite(inputs.recorded[name]), jnp.abs(inputs.recorded[name]), 0.0)
    size = jnp.maximum(jnp.abs(inputs.values[name]), jnp.abs(exact))
    result = jnp.maximum(jnp.abs(exact), recorded)
    slack = _column(inputs.size_error[:, i]) * size + _column(inputs.result_error[:, i]) * result
    return slack + _column(inputs.lost[:, i])


def _distance(
    inputs: Inputs, name: str, exact: Float64[Array, "rows width"], interval: tuple[Any, Any]
) -> Float64[Array, "rows width"]:
    """Return how far the recorded number is from where the exact one may be; NaN where they differ in kind."""
    recorded, (down, up) = inputs.recorded[name], interval
    # Two spellings of one formula, p (1 - lr wd) and p - lr wd p, part at infinity: from there on any
    # number that is not finite will do.
    unusual = sum((~jnp.isfinite(x) for x in inputs.values.values()), jnp.zeros(exact.shape, bool))
    same = (jnp.isnan(exact) & jnp.isnan(recorded)) | (exact == recorded)
    same |= unusual & ~jnp.isfinite(exact) & ~jnp.isfinite(recorded)
    lost = (jnp.isinf(up) & (recorded == jnp.inf)) | (jnp.isinf(down) & (recorded == -jnp.inf))
    lost |= jnp.isinf(up) & jnp.isinf(down) & jnp.isnan(recorded)  # nothing, divided by nothing
    distance = jnp.maximum(recorded - exact - up, exact - recorded - down)
    return jnp.where(same | lost, 0.0, distance)


def _eta(
    distance: Float64[Array, "rows width"], slack: Float64[Array, "rows width"], bound: Float64[Array, "rows width"]
) -> Float64[Array, "rows width"]:
    """Return what is left of the distance in units of the bound. What is NaN differs in kind, and no rounding explains it."""
    eta = jnp.maximum(distance - jnp.where(jnp.isfinite(slack), slack, 0.0), 0.0) / bound
    return jnp.where(distance == 0, 0.0, jnp.where(jnp.isnan(eta), jnp.inf, eta))


def _sort_out(
    names: tuple[str, ...], inputs: Inputs, exact: Mapping[str, Float64[Array, "rows width"]]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return which elements of each output are to be judged, and which their format cannot represent."""
    real = jnp.arange(exact[PARAM].shape[1])[None, :] < _column(inputs.width)
    there = {name: _column(inputs.judged[:, i]) & real for i, name in enumerate(names)}
    out: dict[str, Array] = {}
    for i, name in enumerate(names):
        beyond = jnp.isfinite(exact[name]) & (jnp.abs(exact[name]) > _column(inputs.largest[:, i]))
        out[name] = there[name] & beyond & (inputs.recorded[name] == jnp.copysign(jnp.inf, exact[name]))
    # An unfused kernel computes the parameter from the state as it stored it.
    overflowed = sum((out[name] for name in names[1:]), jnp.zeros(real.shape, bool))
    out[PARAM] |= there[PARAM] & overflowed & _column(inputs.rounds_between)
    return {name: there[name] & ~out[name] for name in names}, out


def _smallest(
    evidence: Mapping[str, Bool[Array, "rows width"]],
    slopes: Mapping[str, Float64[Array, "rows width"]],
    shown: Mapping[str, Float64[Array, "rows width"]],
) -> Float64[Array, "rows width"]:
    """Return the smallest relative error of a hyperparameter that an element would have shown, in any output.

    An error e moves the exact number by e times the slope; it shows at the latest when that is as much as `shown`: the
    residual that is there, the slack and FAIL times the bound together.
    """
    smallest = jnp.full(shown[PARAM].shape, jnp.inf)
    for name, slope in slopes.items():
        smallest = jnp.fmin(smallest, jnp.where(evidence[name], shown[name] / jnp.abs(slope), jnp.inf))
    return smallest


def judge(rule: Rule[Any], flags: Flags, inputs: Inputs) -> Judged:
    """Compare a batch of recorded rows with the rule, and return what each row comes to.

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
        undetermined=np.sum(found.undetermined, axis=1),
        smallest={name: np.min(found.smallest[name], axis=1) for name in rule.matters(flags)},
        sums=sum_rows(found.weighted, inputs),
    )
