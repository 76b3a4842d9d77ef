"""Bias corrections in float32: off by a factor of their own at each step, and by no more than float32 can be."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from crosscheck.arrays import Floats
from crosscheck.diagnosis.adam import FIRST, SECOND, WITH_CORRECTIONS
from crosscheck.diagnosis.numbers import in_units
from crosscheck.diagnosis.trial import Candidate, exact_along
from crosscheck.rules.adam import AdamFlags
from crosscheck.tolerance import FORMATS

_ITERATIONS = 4
_STEPS = 4.0  # a correction may be off by so many of the errors that float32 has on the average


def float32_corrections(right: Candidate) -> Iterator[Candidate]:
    """Yield the corrections that each row seems to have been made with, if float32 explains how far they are off.

    How exactly a power is rounded is up to its implementation, so the two corrections are fitted for each row.
    """
    if not isinstance(right.flags, AdamFlags):
        return
    allowed = np.stack([_float32_error(right, beta) for beta in ("beta1", "beta2")], axis=1)
    factors: Floats = np.ones_like(allowed)
    ones = dict.fromkeys((FIRST, SECOND), np.ones(len(allowed)))
    inputs = replace(right.inputs, hyperparameters={**right.inputs.hyperparameters, **ones})
    base = replace(right, rule=replace(right.rule, chain=WITH_CORRECTIONS), inputs=inputs)
    for _ in range(_ITERATIONS):
        residual, slopes = _linear(base, factors)
        slopes = slopes * allowed[:, :, None]
        off: Floats = (factors - 1) / allowed
        gained: Floats = np.einsum("ric,rc->ri", slopes, residual) - off
        factors = factors + allowed * _ridge(slopes, gained)
    real = right.inputs.width > 0
    if np.all(np.abs(factors - 1)[real] <= _STEPS * allowed[real]):
        yield replace(_with(base, factors), sentence="bias corrections are computed in float32")


def _ridge(slopes: Floats, gained: Floats) -> Floats:
    """Return the solution of (S Sᵀ + 1) x = gained for each row.

    The one is the prior, an error of the allowed size, because the two corrections do nearly the same. Where slopes are so
    large that it is lost in the sum, the determinant written out is still no less than one.
    """
    (first, both), (_, second) = np.einsum("ric,rjc->ijr", slopes, slopes)
    determinant = 1 + first + second + np.maximum(first * second - both**2, 0.0)
    solved = (1 + second) * gained[:, 0] - both * gained[:, 1], (1 + first) * gained[:, 1] - both * gained[:, 0]
    return np.stack(solved, axis=1) / determinant[:, None]


def _float32_error(right: Candidate, beta: str) -> Floats:
    """Return the relative error of 1 - beta^t in float32: beta is off, the power is off, and so is the difference."""
    t = np.asarray(right.inputs.counts["step"]) + 1
    power: Floats = np.asarray(right.inputs.hyperparameters[beta]) ** t
    return FORMATS["float32"].unit_roundoff * ((t + 2) * power / (1 - power) + 1)


def _with(base: Candidate, factors: Floats) -> Candidate:
    h = {**base.inputs.hyperparameters, FIRST: factors[:, 0], SECOND: factors[:, 1]}
    return replace(base, inputs=replace(base.inputs, hyperparameters=h))


def _linear(base: Candidate, factors: Floats) -> tuple[Floats, Floats]:
    """Return residuals (rows, elements) and their slopes along both corrections, (rows, 2, elements), in roundoffs."""
    one, none = np.ones(len(factors)), np.zeros(len(factors))
    along = [{FIRST: one, SECOND: none}, {FIRST: none, SECOND: one}]
    residual, slopes = in_units(base, *exact_along(base, {FIRST: factors[:, 0], SECOND: factors[:, 1]}, along))
    return residual, np.swapaxes(slopes, 0, 1)
