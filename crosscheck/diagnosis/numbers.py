"""Fits the value that a hyperparameter seems to have had, with its error."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from crosscheck.arrays import Floats
from crosscheck.diagnosis.trial import Candidate, exact_along, scaled, stored_again, stored_unit, unit_roundoffs
from crosscheck.tolerance import FORMATS

_ITERATIONS = 8  # of Gauss and Newton; the formulas are nearly linear in each hyperparameter
_BESIDE = 4  # fits at a time in a first look
_MISFIT = 1000.0  # mean square of residuals, in roundoffs: rounding leaves one or two, another cause thousands
_BIAS = 1.0  # of the unit of residuals: what rounding may do in all elements alike
_ANY_DECAY = 0.01  # what the search for a decay begins with where the record has none
_SAME = 1e-6  # two slopes that differ by less of themselves are of equal numbers
_NOTHING = 1e-4  # of a hyperparameter: this little is as good as none


Names = tuple[str, ...]


class Fit(NamedTuple):
    """By what each of a few hyperparameters seems to be multiplied."""

    factors: Floats
    errors: Floats
    """Of the factors: within these the true ones lie, in nineteen cases of twenty."""
    misfit: float
    """The mean square of the residuals that are left, in roundoffs. One that is beyond 100 counts as 100."""


def names(base: Candidate) -> list[str]:
    """Return the hyperparameters that the formula reads and that are not zero."""
    return [name for name in base.rule.hyperparameters_read(base.flags) if base.inputs.hyperparameters[name].any()]


def numbers(base: Candidate, together: int = 1, of: Sequence[str] | None = None) -> Iterator[Candidate]:
    """Yield what `base` becomes with hyperparameters as the numbers that they act as, so many `together`.

    `of`: the hyperparameters that are fitted; left out, all that are not zero.
    A fit is left out if more than rounding remains, or if, beside another mistake, the fitted value is the recorded one.
    """
    for some in _worthwhile(base, list(combinations(names(base) if of is None else of, together))):
        (fit,) = least_squares(base, [some])
        alone = len(some) == 1 and not base.sentence  # if it explains nothing, no row comes closer by it
        if fit is not None and (alone or np.all(np.abs(fit.factors - 1) > fit.errors)):
            yield _acting(base, some, fit)


def unrecorded_decays(base: Candidate, kinds: Iterable[tuple[str, Any]]) -> Iterator[Candidate]:
    """Yield `base` with a weight decay that the record does not have, of each of these kinds, as large as fits the rows."""
    for kind, flags in kinds:
        rough = _decayed(base, flags, _ANY_DECAY)
        (fit,) = least_squares(rough, [("weight_decay",)])
        if fit is None or not np.all(np.abs(fit.factors) > fit.errors):
            continue
        near = _ANY_DECAY * float(fit.factors[0])
        (fit,) = least_squares(_decayed(base, flags, near), [("weight_decay",)])  # its error is for a factor near one
        if fit is None:
            continue
        acts, error = near * float(fit.factors[0]), abs(near) * float(fit.errors[0])
        yield replace(
            _decayed(base, flags, acts),
            sentence=f"{kind}weight_decay acts as {acts:.6g} where the record says 0 (consistent with {with_error(acts, error)})",
            key="there is a weight decay that is not on record",
            fitted=1,
        )


def _decayed(base: Candidate, flags: Any, decay: float) -> Candidate:
    h = base.inputs.hyperparameters
    new = {**h, "weight_decay": np.full_like(h["weight_decay"], decay)}
    return replace(base, flags=flags, inputs=replace(base.inputs, hyperparameters=new))


def _worthwhile(base: Candidate, which: Sequence[Names]) -> Iterator[Names]:
    """Yield the hyperparameters that, fitted to a few of the rows, leave nothing but rounding there.

    As many are fitted beside each other as make arrays of the size of all rows, for which everything is compiled already.
    """
    width = base.inputs.width
    rows = np.arange(0, len(width), _BESIDE)
    rows = np.minimum(np.unique(np.linspace(0, max(0, np.sum(width > 0) - 1), len(rows)).round()), len(width) - 1)
    rows = np.resize(np.concatenate([rows, np.flatnonzero(width == 0)]).astype(int), len(width) // _BESIDE)
    thin = replace(base, inputs=jax.tree.map(itemgetter(rows), base.inputs))
    for first in range(0, len(which), _BESIDE):
        some = which[first : first + _BESIDE]
        fits = least_squares(thin, [*some, *[some[-1]] * (_BESIDE - len(some))])
        yield from (each for each, fit in zip(some, fits, strict=False) if fit is not None and fit.misfit < _MISFIT)


def _acting(base: Candidate, some: Names, fit: Fit) -> Candidate:
    """Return the candidate with the fitted numbers in the place of those recorded.

    A rate of twice the size may be a step that is taken twice, and so stores twice what is stored once.
    """
    h, inputs = base.inputs.hyperparameters, base.inputs
    each = list(zip(some, fit.factors, fit.errors, strict=True))
    new = {name: scaled(name, h[name], factor) for name, factor, _ in each}
    first = [base.sentence] if base.sentence else []
    told = [_told(name, float(h[name][0]), float(new[name][0]), factor, error) for name, factor, error in each]
    if any(name == "lr" and abs(factor - 2) <= error for name, factor, error in each):
        inputs = stored_again(inputs)
    return Candidate(
        sentence=", and ".join([*first, *told]),
        rule=base.rule,
        flags=base.flags,
        inputs=replace(inputs, hyperparameters={**h, **new}),
        key=", and ".join([*first, *(f"{name} is another" for name in some)]),
        fitted=len(some),
    )


def _told(name: str, recorded: float, acts: float, factor: float, error: float) -> str:
    complement = name.startswith("beta")
    if not complement and (abs(factor) < _NOTHING or abs(factor) < error < 0.1):
        return f"{name} is without effect"
    what = f"1 - {name}" if complement else name
    return (
        f"{name} acts as {acts:.6g} where the record says {recorded:.6g} "
        f"(consistent with {what} x {with_error(factor, error)})"
    )


def with_error(value: float, error: float) -> str:
    """Return `1.100 ± 0.001`: the error to one digit, rounded up, and the value to the same place."""
    if not 0 < error < math.inf:
        return f"{value:.9g} ± {error:.1g}"
    places = -math.floor(math.log10(error))
    rounded = math.ceil(error * 10.0**places * (1 - 1e-12)) / 10.0**places
    places = min(max(places, 0), 12)
    return f"{value:.{places}f} ± {max(rounded, 10.0**-places):.{places}f}"


def least_squares(base: Candidate, which: Sequence[Names]) -> list[Fit | None]:
    """Fit factors of hyperparameters by Gauss and Newton, from 1 on, with residuals in roundoffs.

    All of `which`, each as many names as the others, are fitted beside each other: as so many copies of the rows.

    The error is that of clustered least squares, a row being a cluster, because what is computed once a tensor is rounded
    once for all of its elements. To it comes what rounding can do that has the sign of the slope in every element, which
    scatter does not show: a number such as lr is rounded for all rows alike, and half formats are biased.

    A fit is None where nothing depends on the hyperparameters, the search runs away, or any residuals would be explained.
    """
    if not which:
        return []

    def copied(array: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([array] * len(which))

    copies = replace(base, inputs=jax.tree.map(copied, base.inputs))
    factors = np.ones((len(which), len(which[0])))
    for _ in range(_ITERATIONS):
        residual, slopes = _linear(copies, which, factors)
        inverse = _inverse(_dot(slopes[:, None], slopes))
        move: Floats = np.einsum("ijn,jn->ni", inverse, _dot(slopes, residual))
        factors = factors + move
        if np.all((np.abs(move) < 1e-9 * np.abs(factors)) | np.isnan(factors)):
            break
    residual, slopes = _linear(copies, which, factors)
    inverse = _inverse(_dot(slopes[:, None], slopes))
    # The part of each element in each factor.
    leverage: Floats = np.sum(inverse[..., None, None] * slopes, axis=1)
    scatter = np.sum(np.sum(leverage * residual, axis=3) ** 2, axis=2)
    coherent = (_BIAS * np.sum(np.abs(leverage), axis=(2, 3))) ** 2
    rows = np.maximum(2, np.sum(np.any(slopes != 0, axis=(0, 3)), axis=1))
    errors = np.sqrt(4 * scatter * rows / (rows - 1) + coherent).T + [
        [_own(base, name) for name in some] for some in which
    ]
    used = np.maximum(1, np.sum(np.any(slopes != 0, axis=0), axis=(1, 2)))
    misfit = np.sum(np.minimum(residual**2, 1e4), axis=(1, 2)) / used
    return [
        Fit(f, e, float(m))
        if np.all(np.isfinite(f + e)) and np.all(np.abs(f) < 1e12) and _could_fail(slopes[:, k])
        else None
        for k, (f, e, m) in enumerate(zip(factors, errors, misfit, strict=True))
    ]


def _could_fail(slopes: Floats) -> bool:
    """Return whether there are more equations than numbers (numbers, rows, elements), so that not every residual is explained.

    Those of the same slopes say the same and count once, such as those of a tensor of ones at its first step.
    """
    left = slopes.reshape(len(slopes), -1)
    left = left[:, np.any(left != 0, axis=0)]
    for _ in range(len(slopes)):
        first = left[:, :1]
        left = left[:, np.any(np.abs(left - first) > _SAME * np.abs(first), axis=0)]
    return left.shape[1] > 0


def _own(base: Candidate, name: str) -> float:
    """Return the relative error of a hyperparameter that is itself rounded, to float32 at the coarsest."""
    unit = min(stored_unit(base.inputs, 0), FORMATS["float32"].unit_roundoff)
    left = 1 - base.inputs.hyperparameters[name] if name.startswith("beta") else np.ones(1)
    return float(2 * unit / np.min(np.abs(left)))


def _dot(a: Floats, b: Floats) -> Floats:
    """Return the sums of products over rows and elements, which are the last two axes."""
    return np.sum(a * b, axis=(-2, -1))


def _inverse(normal: Floats) -> Floats:
    """Return the inverse of each matrix (i, j, fits), or NaN where it has none."""
    matrices = np.moveaxis(normal, -1, 0)
    good = np.all(np.isfinite(matrices), axis=(1, 2))
    good[good] &= np.linalg.cond(matrices[good]) < 1e15
    inverse = np.full_like(matrices, np.nan)
    inverse[good] = np.linalg.inv(matrices[good])
    return np.moveaxis(inverse, 0, -1)


def _linear(copies: Candidate, which: Sequence[Names], factors: Floats) -> tuple[Floats, Floats]:
    """Return residuals (fits, rows, elements of all outputs) and their slopes (names of a fit, …), in roundoffs."""
    rows = len(copies.inputs.width) // len(which)
    every = copies.rule.hyperparameters_read(copies.flags)  # so that all fits share what is compiled

    def column(of: Callable[[int, Names], float]) -> Floats:
        return np.repeat([of(k, some) for k, some in enumerate(which)], rows)

    def factor(name: str) -> Floats:
        return column(lambda k, some: factors[k, some.index(name)] if name in some else 1.0)

    point = {name: factor(name) for name in every}
    along = [
        {name: column(lambda _, some, name=name, member=member: float(some[member] == name)) for name in every}
        for member in range(len(which[0]))
    ]
    residual, each = in_units(copies, *exact_along(copies, point, along))
    return residual.reshape(len(which), rows, -1), each.reshape(len(each), len(which), rows, -1)


def in_units(
    candidate: Candidate, made: Mapping[str, Any], slopes: Sequence[Mapping[str, Any]]
) -> tuple[Floats, Floats]:
    """Return residuals (rows, elements of all outputs) and slopes (number, rows, elements) in roundoffs of their numbers.

    Both are zero where nothing is judged.
    """
    inputs = candidate.inputs
    residuals: list[Floats] = []
    columns: list[Floats] = []
    roundoff = unit_roundoffs(inputs)
    real = np.arange(next(iter(inputs.recorded.values())).shape[1]) < inputs.width[:, None]
    for number, name in enumerate(candidate.outputs):
        right, recorded = np.asarray(made[name]), np.asarray(inputs.recorded[name])
        size = np.abs(right) + np.abs(inputs.values[name]) + np.abs(recorded)
        unit = roundoff[:, number, None] * size + inputs.floor[:, number, None]
        each: Floats = np.stack([np.asarray(slope[name]) / unit for slope in slopes])
        residual: Floats = (recorded - right) / unit
        use = real & inputs.judged[:, number, None] & np.isfinite(residual) & np.all(np.isfinite(each), axis=0)
        residuals.append(np.where(use, residual, 0.0))
        columns.append(np.where(use, each, 0.0))
    return np.concatenate(residuals, axis=1), np.concatenate(columns, axis=2)
