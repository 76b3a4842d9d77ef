"""Two mistakes at once: each pair is tried uncompiled, and the few that come closest are judged."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crosscheck.diagnosis.catalogue import CATALOGUE
from crosscheck.diagnosis.numbers import names, numbers
from crosscheck.diagnosis.trial import Candidate, Outputs, exact
from crosscheck.trace.format import PARAM


def wrong_inputs(base: Candidate) -> Iterator[Candidate]:
    """Yield the mistakes that leave the formula right, beside the mistake that `base` is."""
    for sentence, flags, inputs in CATALOGUE[base.rule.name].inputs(base.flags, base.inputs):
        yield Candidate(_both(base.sentence, sentence), base.rule, flags, inputs)


def wrong_formulas(base: Candidate) -> Iterator[Candidate]:
    """Yield the formulas that may have been taken for the right one, beside the mistake of inputs that `base` is."""
    for sentence, chain in CATALOGUE[base.rule.name].formulas(base.flags):
        yield replace(base, sentence=_both(base.sentence, sentence), rule=replace(base.rule, chain=chain))


def pairs(right: Candidate) -> Iterator[Candidate]:
    """Yield every two mistakes that can be made together, the second found or fitted on what the first makes."""
    inputs, formulas = list(wrong_inputs(right)), list(wrong_formulas(right))
    seen: set[frozenset[str]] = set()
    for first in inputs:
        for candidate in (*wrong_inputs(first), *wrong_formulas(first)):
            # The two may be named in either order, and a mistake made twice may undo itself.
            both = frozenset(candidate.sentence.split(", and "))
            if len(both) == 2 and both not in seen:
                seen.add(both)
                yield candidate
    for sentence, chain in CATALOGUE[right.rule.name].pairs(right.flags):
        yield replace(right, sentence=sentence, rule=replace(right.rule, chain=chain))
    made = exact(right)
    for first in (*inputs, *formulas):
        if _changes(first, made):
            yield from numbers(first, of=_untouched(first, right))
    yield from numbers(right, together=2)


def _changes(mistake: Candidate, made: Outputs) -> bool:
    """Return whether a mistake makes anything else of the rows than `made`, which the right formula makes of them."""
    instead = exact(mistake)
    columns, width = np.arange(int(made[PARAM].shape[1])), np.asarray(mistake.inputs.width)
    real: NDArray[np.bool_] = np.less(columns, width[:, None])
    return any(
        name not in instead or not np.array_equal(made[name][real], instead[name][real], equal_nan=True)
        for name in made
    )


def _untouched(mistake: Candidate, right: Candidate) -> list[str]:
    """Return the hyperparameters that a mistake leaves as they were recorded."""
    recorded, h = right.inputs.hyperparameters, mistake.inputs.hyperparameters
    return [name for name in names(mistake) if name in recorded and np.array_equal(h[name], recorded[name])]


def _both(first: str, second: str) -> str:
    return f"{first}, and {second}" if first else second
