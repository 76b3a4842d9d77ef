"""The criterion: by how many roundoffs a recorded step misses its formula, beyond what storing the result explains.

A step writes before + change. Storing the sum costs at most the slack, whatever the change; what is left must be an
error of the change, and is counted in roundoffs of the change and of its inputs: a componentwise backward error (Higham,
Accuracy and Stability of Numerical Algorithms, chapter 7). `exact_step` computes the exact numbers and their reach,
`measure` the slack and eta. docs/criterion.md has the derivation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from crosscheck.criterion.aggregate import Sums, Weighted, sum_rows
from crosscheck.criterion.exact_step import ExactStep, exact_step, loses_as_it_stores, scalar_roundoffs
from crosscheck.criterion.measure import Measured, measure
from crosscheck.criterion.octaves import count_octaves
from crosscheck.programs import call
from crosscheck.rules.arrays import Array
from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Flags, Rule
from crosscheck.tolerance import FAIL
from crosscheck.trace.format import PARAM

_SMALL_EPS = 2.0**-50
"""Beside a larger eps it does not matter in float32 that a second moment below 2^-126 is lost."""


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


def compare(rule: Rule[Any], flags: Flags, inputs: Inputs, *, often: bool = False) -> Compared:
    """Compare a batch of recorded rows with the rule.

    If this is done `often`, XLA does it: the step is compiled once for each rule, flags and shape, and the measuring once
    for all rules that have as many hyperparameters.
    """
    # What no row asks for need not be computed.
    if not np.any(inputs.scalar_error):
        rule = replace(rule, correction_error=None)
    loses = loses_as_it_stores(inputs)
    small_eps = loses & (inputs.hyperparameters.get("eps", 1.0) < _SMALL_EPS)
    if not (rule.decays_gradient(flags) or np.any(inputs.rounds_between) or np.any(small_eps)):
        rule = replace(rule, spread=None)
    names = (PARAM, *rule.elementwise(flags))
    step: ExactStep = call(exact_step, (rule, flags), inputs, often=often)
    real = np.arange(inputs.values[PARAM].shape[1])[None, :] < inputs.width[:, None]
    unusual = np.logical_or.reduce([~np.isfinite(value) for value in inputs.values.values()])
    nothing = np.zeros(real.shape)
    overflowed = np.zeros(real.shape, np.bool_)
    measured: dict[str, Measured] = {}
    for i, name in reversed(list(enumerate(names))):  # the parameter last: what becomes of the state decides about it
        of_parameter = name == PARAM
        found: Measured = call(
            measure,
            (),
            often=often,
            before=inputs.values[name],
            recorded=inputs.recorded[name],
            exact=step.exact[name],
            reach=step.reach[name],
            old=step.old[name],
            slopes=tuple([step.slopes[tried][name] for tried in rule.hyperparameters_read(flags)]),
            correction=step.correction if of_parameter else nothing,
            interval=step.intervals[name],
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
    """Return how many units of the criterion each hyperparameter may itself be off by: see `scalar_roundoffs`."""
    tried = rule.hyperparameters_read(flags)
    roundoffs = np.ones((*inputs.compute_error.shape, len(tried)))
    for output in range(roundoffs.shape[1]):
        for number, name in enumerate(tried):
            own = scalar_roundoffs(rule, name, inputs, output)
            roundoffs[:, output, number] = np.maximum(1.0, np.asarray(own))
    return roundoffs
