"""Checks the labels of a set, and says what the classes are called."""

from collections.abc import Mapping, Sequence

import numpy
from numpy.typing import NDArray

from distrib.errors import BadInput

MOST_CLASSES = 10**5
_SORTED = 2**20
Labels = NDArray[numpy.integer]


def classes_of(labels: Mapping[str, Labels], places: Mapping[str, str], names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the classes; without `names` those are the numbers that the labels of "train" are.

    `places` says of each split where its labels are, for messages. Raises BadInput for labels that do not count from 0, that have
    no name or, without names, no training image; for a name that is there twice; and for one class only.
    """
    known = None if names is None else len(names)
    for split, its in labels.items():
        _refuse(its, its < 0, places[split], "labels count from 0 (-1 often says that there are none)")
        if known is not None:
            _refuse(
                its,
                its >= known,
                places[split],
                f"there are {known} names of classes, for labels from 0 to {known - 1}",
            )
    if names is None:
        present = _distinct(labels["train"])
        gaps = numpy.flatnonzero(present != numpy.arange(len(present)))
        if len(gaps):
            raise BadInput(
                f"{places['train']} holds the label {present[-1]} and no {gaps[0]}: labels count from 0, without gaps where "
                "no names of the classes are given"
            )
        for split, its in labels.items():
            _refuse(its, its >= len(present), places[split], f"no training image has it; theirs are 0 to {present[-1]}")
        names = list(map(str, present))
    if len(set(names)) < len(names):
        raise BadInput(f"{places['train']}: two classes have the same name; give each its own")
    if not 2 <= len(names) <= MOST_CLASSES:
        raise BadInput(
            f"{places['train']}: {len(names)} classes; a classifier needs at least two, and has at most {MOST_CLASSES}"
        )
    return tuple(names)


def _distinct(labels: Labels) -> Labels:
    """Return the different labels, ascending; a few are sorted at a time, because that takes a copy of them."""
    parts = [numpy.unique(labels[first : first + _SORTED]) for first in range(0, len(labels), _SORTED)]
    return numpy.unique(numpy.concatenate(parts))


def _refuse(labels: Labels, wrong: NDArray[numpy.bool_], place: str, why: str) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise BadInput(f"{place} holds the label {labels[row]} in row {row}: {why}")
