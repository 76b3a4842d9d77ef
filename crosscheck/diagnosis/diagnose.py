"""Naming the cause: which known mistake, or which two, turn every row that disagreed into one that agrees?"""

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np

from crosscheck.diagnosis.catalogue import CATALOGUE
from crosscheck.diagnosis.cause import Cause, ranked
from crosscheck.diagnosis.corrections import float32_corrections
from crosscheck.diagnosis.factor import multiplied_gradients
from crosscheck.diagnosis.numbers import numbers, unrecorded_decays
from crosscheck.diagnosis.pairs import pairs, wrong_formulas, wrong_inputs
from crosscheck.diagnosis.rounding import rounding
from crosscheck.diagnosis.trial import Trial
from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Flags, Rule
from crosscheck.tolerance import WARN

_COMPILED = 6  # pairs that are judged, which bounds the time: each may be another formula


def diagnose(rule: Rule[Any], flags: Flags, inputs: Inputs) -> list[Cause]:
    """Return the mistakes each of which explains all these rows, the simplest first, then those that fit best.

    Kinds of mistakes are tried from the simplest on, until one of a kind fits well; those of that kind and of simpler ones
    that fit worse are returned with it. Behind them come wrong formulas that a coarse record cannot tell from a wrong input.
    """
    with np.errstate(all="ignore"):  # whatever was recorded may be infinite
        trial = Trial(rule, flags, inputs)
        found: list[Cause] = []
        if not trial.rows.any():
            return found
        for kind in _KINDS:
            new = kind(trial)
            if any(cause.fits_well for cause in new):
                # A mistake that barely fits often does so because it resembles one that fits well, so it comes after that one.
                return [*ranked(new), *found, *(_as_good(trial) if kind is _inputs else ())]
            found += new
        return found


def _inputs(trial: Trial) -> list[Cause]:
    """Return the mistakes that leave the formula right: something that goes into it is wrong."""
    return trial.causes(trial.promising(wrong_inputs(trial.right)))


def _as_good(trial: Trial) -> list[Cause]:
    """Return the wrong formulas that fit well."""
    return trial.causes(trial.promising(wrong_formulas(trial.right)), limit=WARN)


def _formulas_and_numbers(trial: Trial) -> list[Cause]:
    """Return wrong formulas and wrong numbers. Where a format is coarse, a number can pass for another formula.

    Wrong inputs are tried once more, because a formula may share the rows with one that has the same sentence.
    """
    right = trial.right
    decays = unrecorded_decays(right, CATALOGUE[right.rule.name].decays(right.flags))
    numbered = chain(numbers(right), multiplied_gradients(right), decays)
    return trial.causes(trial.promising(chain(wrong_inputs(right), wrong_formulas(right), numbered)))


def _rounding(trial: Trial) -> list[Cause]:
    """Return how numbers were rounded where that was wrong."""
    corrections = trial.causes(trial.promising(float32_corrections(trial.right)))
    return [*corrections, *rounding(trial)]


def _pairs(trial: Trial) -> list[Cause]:
    """Return two mistakes at once. With that much choice, one must fit well, and a number may only be what else fails."""
    found = trial.causes(trial.closest(pairs(trial.right), _COMPILED), limit=WARN)
    return [cause for cause in found if not cause.fitted] or found


_KINDS: tuple[Callable[[Trial], list[Cause]], ...] = (_inputs, _formulas_and_numbers, _rounding, _pairs)
