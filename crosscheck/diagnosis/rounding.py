"""Rounding that is not the one of the format: truncated, stochastic, or to a narrower format than the one stored.

All of these are told from what was recorded, what the formula makes, and the unit roundoffs of the formats.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscheck.arrays import Floats
from crosscheck.diagnosis.cause import Cause
from crosscheck.diagnosis.mistake import NARROW
from crosscheck.diagnosis.trial import Candidate, Trial, exact_along_slot, stored_unit
from crosscheck.tolerance import FORMATS
from crosscheck.trace.format import PARAM

_ENOUGH = 16  # elements, to tell one kind of rounding from another
_SLACK = 0.05  # of a unit in the last place, for the arithmetic before the number was stored
_NEARLY_ALL = 0.99
_HARDLY_ANY = 0.1
_CLEARLY = 16  # times the rounding of the parameter itself, so that what is under it shows
_SCATTERED = 0.7  # of the mean square of the errors, at least, that must differ within a row
_UNBIASED = 0.3  # of the root mean square: how far the mean may be from zero
_OUTLIER = 5  # times the root mean square
_SIZES = 0.2, 1.6  # roundoffs: the root mean square of an update that was rounded once or a few times
_FEW_MULTIPLES = 0.5  # of the mean square: what is left of errors that are mostly multiples of something
_NONZERO = 1e-300


def narrower(unit: float) -> Iterator[tuple[str, float]]:
    """Yield the formats that are narrower than the one of this unit roundoff, and their unit roundoffs."""
    for name, format_ in sorted(FORMATS.items(), key=lambda pair: pair[1].unit_roundoff):
        if name in NARROW and format_.unit_roundoff > unit:
            yield name, format_.unit_roundoff


def rounded(numbers: Any, name: str) -> Floats:
    """Return the numbers rounded to nearest in a format."""
    with np.errstate(all="ignore"):
        return np.asarray(numbers).astype(NARROW[name]).astype(np.float64)


def rounding(trial: Trial) -> list[Cause]:
    """Return how the numbers were rounded, if that explains all rows.

    First the state is taken as it was recorded, each slot with a reason of its own; then the parameter must follow from it,
    or from the state before that was rounded.
    """
    right = trial.right
    moved = right.rule.moved  # what a report calls the parameter's place: for averages and gradients it is theirs
    said: list[str] = []
    for number, name in enumerate(trial.names):
        if name != PARAM and trial.over[name].any():
            made = np.asarray(trial.compared.exact[name])[trial.real(name)]
            reason = how_rounded(name, trial.recorded(name), made, stored_unit(right.inputs, number))
            if not reason:
                return []
            said.append(reason)
    if trial.over[PARAM].any():
        given = Trial(right.rule, right.flags, _from_recorded_state(right).inputs)
        if given.over[PARAM].any():
            made, unit = np.asarray(given.compared.exact[PARAM])[given.real(PARAM)], stored_unit(right.inputs, 0)
            reason = how_rounded(moved, given.recorded(PARAM), made, unit) or _narrow_update(given, made, unit)
            if not reason:
                return []
            said.append(reason)
        elif not said:
            said.append(f"{moved} is computed from the state after that was rounded to the format it is stored in")
    sentence = ", and ".join(said)
    return [Cause(sentence, sentence, 0, 0.0)]


def _from_recorded_state(right: Candidate) -> Candidate:
    """Return old state from which the formula makes the state that was recorded.

    A slot is linear in itself: if it misses by d, its old value must be off by d over the slope.
    """
    given = right
    for name in right.rule.elementwise(right.flags):  # in order, because a maximum is taken of the slot before it
        made, slope = exact_along_slot(given, name)
        before = given.inputs.values[name]
        off = (given.inputs.recorded[name] - made[name]) / slope[name]
        values = {**given.inputs.values, name: np.where(np.isfinite(off), before + off, before)}
        given = replace(given, inputs=replace(given.inputs, values=values))
    return given


def how_rounded(name: str, recorded: Floats, right: Floats, unit: float) -> str:
    """Return how numbers seem to have been rounded, as a sentence; empty if it does not look like rounding.

    `recorded` and `right`: (elements,), of those that are judged. `unit`: the unit roundoff of their format.
    """
    use = np.isfinite(recorded) & np.isfinite(right) & (np.abs(right) > 1e-30)
    recorded, right = recorded[use], right[use]
    if len(right) < _ENOUGH:
        return ""
    for narrow, coarse in narrower(unit):
        if np.array_equal(rounded(recorded, narrow), recorded):
            said = _direction(recorded, right, coarse, f"{name} is", narrow)
            if said:
                return said
    return _direction(recorded, right, unit, f"{name} is", "")


def _direction(recorded: Floats, right: Floats, unit: float, what: str, narrow: str) -> str:
    """Return the way from the exact numbers to those recorded: to nearest, toward zero or either way at random.

    To nearest is worth a sentence only in another format than the one stored.
    """
    last_place = 2 * unit * 2.0 ** np.floor(np.log2(np.abs(right)))
    off = (recorded - right) / last_place * np.sign(right)
    if np.max(np.abs(off)) > 1 + _SLACK:
        return ""
    to = f" to {narrow}" if narrow else ""
    if np.max(np.abs(off)) <= 0.5 + _SLACK:
        return f"{what} rounded{to}" if narrow else ""
    if np.mean(off <= _SLACK) >= _NEARLY_ALL:
        return f"{what} truncated{to} instead of rounded to nearest"
    if abs(np.mean(off)) <= 5 * np.std(off) / len(off) ** 0.5:
        return f"{what} rounded stochastically{to}"
    return ""


def _narrow_update(trial: Trial, right: Floats, unit: float) -> str:
    """Return that the update was computed in a narrower format, if its error looks like that: bounded and of either sign.

    Only elements whose update is large enough to show it beside the rounding of the parameter itself are asked. Those that hardly
    move must be right, and the error must not be a multiple of something that the step reads, such as a small weight decay.
    """
    real = trial.real(PARAM)
    values = {name: np.asarray(of)[real] for name, of in trial.right.inputs.values.items()}
    recorded = trial.recorded(PARAM)
    old = values[PARAM]
    change, beside = right - old, unit * (np.abs(right) + np.abs(old))
    for narrow, coarse in narrower(unit):
        use, resting = np.abs(change) * coarse > _CLEARLY * beside, np.abs(change) * coarse <= beside
        if resting.any() and np.mean((np.abs(recorded - right) > _CLEARLY * beside)[resting]) > _HARDLY_ANY:
            continue
        off = (recorded[use] - right[use]) / (coarse * change[use])
        if len(off) < _ENOUGH or not np.all(np.isfinite(off)):
            continue
        size = float(np.sqrt(np.mean(off**2)))
        rows = np.nonzero(real)[0][use]
        if any(_is_multiple(off, of[use] / change[use], rows) for of in values.values()):
            continue
        of_either_sign = abs(float(np.mean(off))) <= _UNBIASED * size and np.max(np.abs(off)) <= _OUTLIER * size
        if _is_scattered(off, change[use], rows, coarse, size) and of_either_sign and _SIZES[0] <= size < _SIZES[1]:
            return f"the update is computed in {narrow}"
    return ""


def _is_scattered(off: Floats, change: Floats, rows: NDArray[np.int64], coarse: float, size: float) -> bool:
    """Return whether errors differ within the rows, as far as their changes do.

    What is the same for a whole row, such as a rate that is a little off, is no rounding of its elements. Where their changes are
    all alike, as in Adam's first step, they would be rounded alike.
    """
    count = np.maximum(np.bincount(rows), 1)
    mean, about = np.bincount(rows, off) / count, np.bincount(rows, np.abs(change)) / count
    mixed = np.abs(np.abs(change) / about[rows] - 1) > coarse
    return bool(mixed.any() and np.mean((off - mean[rows])[mixed] ** 2) >= _SCATTERED * size**2)


def _is_multiple(off: Floats, of: Floats, rows: NDArray[np.int64]) -> bool:
    """Return whether errors are for the most part multiples of something, with one factor for all elements of a row."""
    if not np.all(np.isfinite(of)):
        return False
    factor = np.bincount(rows, off * of) / np.maximum(np.bincount(rows, of**2), _NONZERO)
    free = len(off) - len(np.unique(rows))  # a factor of its own explains a part of any row, and all of one element
    return free >= _ENOUGH and float(np.sum((off - factor[rows] * of) ** 2)) / free < _FEW_MULTIPLES * float(
        np.mean(off**2)
    )
