"""Defines what a diagnosis says: one cause, how simple it is, and how well it fits."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from crosscheck.tolerance import WARN


class Cause(NamedTuple):
    """One mistake, or two at once, that turns every row that disagreed into one that agrees."""

    sentence: str
    key: str
    """The mistake without its numbers: what two parameter groups may have in common."""
    fitted: int
    """How many numbers were fitted to the rows."""
    eta: float
    """The worst eta of all rows under this mistake."""
    make: tuple[Callable[[], Mapping[str, Any]], ...] = ()
    """What each variant of the mistake makes of the rows, by output; none where it cannot be computed, as of rounding."""

    @property
    def fits_well(self) -> bool:
        """Return whether no element is beyond what correct kernels show."""
        return self.eta <= WARN


def ranked(causes: Iterable[Cause]) -> list[Cause]:
    """Return the causes of one kind, each sentence once, those that fit best first.

    Below a roundoff no cause fits better than another, so they stay in the order of the catalogue. A fitted number
    was chosen to fit, so a cause must be better by a roundoff for each to come before one that has none.
    """
    best: dict[str, Cause] = {}
    for cause in sorted(causes, key=lambda cause: max(1.0, cause.eta) + cause.fitted):
        best.setdefault(cause.sentence, cause)
    return list(best.values())


def in_common(found: Sequence[Sequence[Cause]]) -> list[str]:
    """Return the sentences for rows of several settings, of which each has its own causes, the best first.

    A cause that all settings share is told alone. Without one, each setting has a mistake of its own, and all of them are
    told as one sentence. If nothing explains the rows of one setting, nothing explains the record.
    """
    if not found or not all(found):
        return []
    shared = [cause.key for cause in found[0] if all(cause.key in {c.key for c in causes} for causes in found)]
    if not shared:
        return [" and ".join(dict.fromkeys(causes[0].sentence for causes in found))]
    return [
        " and ".join(dict.fromkeys(c.sentence for causes in found for c in causes if c.key == key))
        for key in dict.fromkeys(shared)
    ]
