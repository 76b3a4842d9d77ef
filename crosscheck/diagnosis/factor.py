"""Fits the number that a gradient seems to have been multiplied by on its way from backward to the optimizer."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import optax
from numpy.typing import NDArray

from crosscheck.diagnosis.mistake import Chain, with_numbers
from crosscheck.diagnosis.numbers import least_squares, with_error
from crosscheck.diagnosis.trial import Candidate, exact
from crosscheck.rules.clipping import CLIPPING, ClipFlags, clipping
from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Hyperparameters
from crosscheck.trace.format import GRAD, PARAM

_FACTOR = "factor"


def _before_clipping(flags: ClipFlags, h: Hyperparameters) -> optax.GradientTransformation:
    factor = h[_FACTOR]
    norm = {"norm": h["norm"] * abs(factor)} if "norm" in h else {}
    return clipping(flags, {**h, **norm, "loss_scale": h["loss_scale"] / factor})


def _after_clipping(flags: ClipFlags, h: Hyperparameters) -> optax.GradientTransformation:
    return optax.chain(clipping(flags, h), optax.scale(h[_FACTOR]))


def multiplied_gradients(right: Candidate) -> Iterator[Candidate]:
    """Yield that the gradient was multiplied by a number, before it was clipped or after, by the one that fits the rows."""
    if right.rule.name != CLIPPING.name:
        return
    scale = right.inputs.hyperparameters["loss_scale"][:, None]
    unscaled, clipped = np.asarray(right.inputs.values[GRAD] / scale), exact(right)[PARAM]
    # A row that is clipped after it was multiplied shows less than the factor.
    early, late = _ratios(right, unscaled), _ratios(right, clipped)
    for where, chain, ratios in (
        ("before clipping", _before_clipping, early),
        ("after clipping", _after_clipping, late),
    ):
        if len(ratios):
            yield from _fitted(right, where, chain, ratios[np.argmax(np.abs(ratios))])


def _read(flags: ClipFlags) -> tuple[str, ...]:
    del flags
    return (_FACTOR,)


def _ratios(right: Candidate, expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by row what the gradient consumed is of the one expected."""
    recorded: NDArray[np.float64] = np.asarray(right.inputs.recorded[PARAM])
    columns, width = np.arange(int(recorded.shape[1])), np.asarray(right.inputs.width)
    real = np.less(columns, width[:, None]) & np.isfinite(recorded) & np.isfinite(expected)
    ratios = np.sum(recorded * expected, axis=1, where=real) / np.sum(expected**2, axis=1, where=real)
    return ratios[np.isfinite(ratios) & (ratios != 0)]


def _fitted(right: Candidate, where: str, chain: Chain, near: float) -> Iterator[Candidate]:
    """Yield the factor of one of the chains, fitted from a first guess on."""
    rule = replace(right.rule, chain=chain, hyperparameters_read=_read)
    base = replace(right, rule=rule, inputs=_with_factor(right, near))
    (fit,) = least_squares(base, [(_FACTOR,)])
    if fit is None:
        return
    factor, error = near * float(fit.factors[0]), abs(near) * float(fit.errors[0])
    if abs(factor - 1) > error:
        yield replace(
            base,
            sentence=f"the gradient is multiplied by {with_error(factor, error)} between backward and the optimizer",
            key=f"the gradient is multiplied {where}",
            inputs=_with_factor(right, factor),
            fitted=1,
        )


def _with_factor(right: Candidate, factor: float) -> Inputs:
    return with_numbers(right.inputs, **{_FACTOR: np.full_like(right.inputs.hyperparameters["loss_scale"], factor)})
