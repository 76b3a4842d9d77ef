"""The criterion: by how many roundoffs a recorded step misses its formula, beyond what storing the result explains.

    eta = max(0, |recorded - exact| - slack) / (u reach + tiny)
    slack = size_error max(|before|, |after|) + result_error max(|exact|, |recorded|) + lost
    reach = |change| + sum over inputs x of |d change / dx * x|,   change = exact - before, lr one of the inputs

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
from crosscheck.criterion.octaves import count_octaves
from crosscheck.programs import call
from crosscheck.rules.arrays import Array
from crosscheck.rules.inputs import Inputs, one_step
from crosscheck.rules.rule import Flags, Rule
from crosscheck.tolerance import FAIL, FORMATS
from crosscheck.trace.format import PARAM

_SMALL_EPS = 2.0**-50
"""Beside a larger eps it does not matter in float32 that a second moment below 2^-126 is lost."""
_TINY = 2.0**-1022
"""This keeps a step without any change from being divided by zero: what is left of it, if anything, is an error."""


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
    octaves: Int64[np.ndarray, "outputs octaves"]
    """How many elements of all rows have an eta of each size; see `count_octaves`."""
    smallest: Mapping[str, Float64[np.ndarray, " rows"]]
    """By hyperparameter: its smallest relative error that one of the row's elements would have shown."""
    sums: Sums


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """What the formula makes of a batch, and how that depends on what goes in. By output, each (rows, width)."""

    exact: dict[str, Array]
    reach: dict[str, Array]
    old: dict[str, Array]
    """What an output changes by if the coefficient of the number before it is off by all of itself."""
    slopes: dict[str, dict[str, Array]]
    """By hyperparameter: what an output changes by if that is off by all of itself."""
    correction: Array
    """The error of the parameter's change by what is computed once a tensor, in units of the criterion."""
    down: Array
    """How far below its exact value the parameter may be, because a format loses small numbers on the way."""
    up: Array
    """How far above."""


def compare(rule: Rule[Any], flags: Flags, inputs: Inputs, *, often: bool = False) -> Compared:
    """Compare a batch of recorded rows with the rule.

    If this is done `often`, XLA does it: the step is compiled once for each rule, flags and shape, and the measuring once
    for all rules that have as many hyperparameters.
    """
    # What no row asks for need not be computed.
    if not np.any(inputs.scalar_error):
        rule = replace(rule, correction_error=None)
    loses = _loses_as_it_stores(inputs)
    if not np.any(inputs.rounds_between) and not np.any(loses & (inputs.hyperparameters.get("eps", 1.0) < _SMALL_EPS)):
        rule = replace(rule, underflow=None)
    names = (PARAM, *rule.elementwise(flags))
    step: _Step = call(_step, (rule, flags), inputs, often=often)
    real = np.arange(inputs.values[PARAM].shape[1])[None, :] < inputs.width[:, None]
    unusual = np.logical_or.reduce([~np.isfinite(value) for value in inputs.values.values()])
    nothing = np.zeros(real.shape)
    overflowed = np.zeros(real.shape, np.bool_)
    measured: dict[str, _Measured] = {}
    for i, name in reversed(list(enumerate(names))):  # the parameter last: what becomes of the state decides about it
        of_parameter = name == PARAM
        found: _Measured = call(
            _measure,
            (),
            often=often,
            before=inputs.values[name],
            recorded=inputs.recorded[name],
            exact=step.exact[name],
            reach=step.reach[name],
            old=step.old[name],
            slopes=tuple([step.slopes[tried][name] for tried in rule.hyperparameters_read(flags)]),
            correction=step.correction if of_parameter else nothing,
            interval=(step.down, step.up) if of_parameter else (nothing, nothing),
            there=inputs.judged[:, i, None] & real,
            unusual=unusual,
            lost_with=overflowed & loses[:, None] if of_parameter else np.zeros_like(overflowed),
            size_error=inputs.size_error[:, i, None],
            result_error=inputs.result_error[:, i, None],
            lost=inputs.lost[:, i, None],
            compute_error=inputs.compute_error[:, i, None],
            largest=inputs.largest[:, i, None],
        )
        measured[name] = jax.device_get(found)
        overflowed = overflowed | measured[name].out_of_range
    smallest = [measured[name].smallest for name in names]
    return Compared(
        eta={name: measured[name].eta for name in names},
        exact=jax.device_get(step.exact),
        judged={name: measured[name].judged for name in names},
        out_of_range={name: measured[name].out_of_range for name in names},
        undetermined=measured[PARAM].undetermined,
        smallest={
            tried: np.fmin.reduce([each[number] for each in smallest])
            for number, tried in enumerate(rule.hyperparameters_read(flags))
        },
        weighted=tuple(measured[name].weighted for name in names),
    )


@partial(jax.jit, static_argnums=(0, 1))
def _step(rule: Rule[Any], flags: Flags, inputs: Inputs) -> _Step:
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
        name: derivative(no_values, {**no_h, name: _whole(rule, name, inputs)})
        for name in rule.hyperparameters_read(flags)
    }
    for name, by_output in slopes.items():
        for number, output in enumerate((PARAM, *rule.elementwise(flags))):
            # Kernels round the rate, or what they make of it, to the format they compute in before they multiply by it. Any
            # other scalar counts where the format of the tensors, which it is rounded to as well, holds it as a subnormal number.
            roundoffs = _column(_scalar_roundoffs(rule, name, inputs, number))
            roundoffs = jnp.maximum(roundoffs, 1.0) if name == "lr" else jnp.where(roundoffs > 1, roundoffs, 0.0)
            moved = jnp.abs(by_output[output]) * roundoffs
            reach[output] = reach[output] + jnp.where(jnp.isnan(moved), 0.0, moved)
    h, counts = jax.tree.map(_column, (inputs.hyperparameters, inputs.counts))
    correction = down = up = jnp.zeros(exact[PARAM].shape)
    if rule.correction_error is not None:
        scalar, beta = _column(inputs.scalar_error), _column(inputs.beta_error)
        change = jnp.abs(exact[PARAM] - inputs.values[PARAM])
        correction = rule.correction_error(h, counts, scalar, beta) * change
    if rule.underflow is not None:
        floor = {name: _column(inputs.floor[:, i]) for i, name in enumerate((PARAM, *rule.elementwise(flags)))}
        between = _column(_loses_as_it_stores(inputs))
        # Where a sum of large numbers is small, rounding alone decides its sign, and so on which side the half-line is.
        rounded = {
            name: floor[name] + _column(inputs.compute_error[:, i]) * reach[name] for i, name in enumerate(floor)
        }
        finite, half_lines = (
            rule.underflow(h, counts, exact, least) for least in (floor, {**rounded, PARAM: floor[PARAM]})
        )
        down, up = (
            jnp.where(between, jnp.where(jnp.isinf(far), far, near), 0.0)
            for near, far in zip(finite, half_lines, strict=True)
        )
    return _Step(exact=exact, reach=reach, old=old, slopes=slopes, correction=correction, down=down, up=up)  # pyright: ignore[reportArgumentType]


def _whole(rule: Rule[Any], name: str, inputs: Inputs) -> Float64[Array, " rows"]:
    """Return by how much a hyperparameter is off if it is off by all of itself: of 1 - b for a decay b."""
    h = inputs.hyperparameters[name]
    return h - 1 if name in rule.complemented else h


def _scalar_roundoffs(rule: Rule[Any], name: str, inputs: Inputs, output: int) -> Float64[Array, " rows"]:
    """Return how many units of the criterion the spacing of subnormal numbers makes of a hyperparameter.

    An unfused kernel rounds it to its tensors' format, and float16 has a rate of 1e-6 with an error of 1 %. Below one unit the
    spacing does not matter: the number is a normal one, and off by a unit at most.
    """
    size, unit = abs(_whole(rule, name, inputs)), inputs.compute_error[:, output]
    return inputs.floor[:, output] * inputs.rounds_between / (size + (size == 0)) / (unit + (unit == 0))


def _loses_as_it_stores(inputs: Inputs) -> Bool[Array, " rows"]:
    """Return whether what lies between the operations overflows and underflows as what is stored does.

    So it does if it is stored too. A fused kernel keeps it in float32, which has the range of bfloat16 and a larger one than float16.
    """
    beyond = inputs.largest > FORMATS["float16"].largest
    wide = beyond[:, 0]
    for output in range(1, beyond.shape[1]):  # NumPy takes this step too, and its table of operations has no reduction
        wide = wide & beyond[:, output]
    return inputs.rounds_between | wide


def _column(numbers: Shaped[Array, " rows"]) -> Shaped[jax.Array, "rows 1"]:
    """Return one number a row as a column, so that it goes with every element of the row."""
    return jnp.asarray(numbers)[:, None]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True)
class _Measured:
    """What came out of one output, as in `Compared`."""

    eta: Float64[Array, "rows width"]
    judged: Bool[Array, "rows width"]
    out_of_range: Bool[Array, "rows width"]
    undetermined: Bool[Array, "rows width"]
    smallest: tuple[Float64[Array, "rows width"], ...]
    weighted: Weighted


@jax.jit
def _measure(
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
) -> _Measured:
    """Measure how far one output is from its formula.

    Args not in `Inputs` or `_Step`:
        there: Elements that are on record.
        unusual: Elements of which something that goes in is not finite.
        lost_with: Elements computed from state that its format could not represent.
    """
    # What a format cannot hold overflows in its own direction.
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
    # much as the residual that is there, the slack and FAIL times the bound together.
    shown = jnp.where(judged, jnp.abs(residual) + slack + FAIL * bound, jnp.inf)
    return _Measured(
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


def judge(rule: Rule[Any], flags: Flags, inputs: Inputs, *, often: bool = False) -> Judged:
    """Compare a batch of recorded rows with the rule, and return what each row comes to. `often`: see `compare`.

    The summing up is NumPy's: every reduction that XLA has to compile costs more than it saves.
    """
    names = (PARAM, *rule.elementwise(flags))
    found = compare(rule, flags, inputs, often=often)
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
        octaves=np.stack([count_octaves(found.eta[name], found.judged[name]) for name in names]),
        smallest={name: np.fmin.reduce(found.smallest[name], axis=1) for name in rule.hyperparameters_read(flags)},
        sums=sum_rows(found.weighted, inputs, _own_roundoffs(rule, flags, inputs)),
    )


def _own_roundoffs(rule: Rule[Any], flags: Flags, inputs: Inputs) -> Float64[np.ndarray, "rows outputs tried"]:
    """Return how many units of the criterion each hyperparameter may itself be off by: see `_scalar_roundoffs`."""
    tried = rule.hyperparameters_read(flags)
    roundoffs = np.ones((*inputs.compute_error.shape, len(tried)))
    for output in range(roundoffs.shape[1]):
        for number, name in enumerate(tried):
            own = _scalar_roundoffs(rule, name, inputs, output)
            roundoffs[:, output, number] = np.maximum(1.0, np.asarray(own))
    return roundoffs
