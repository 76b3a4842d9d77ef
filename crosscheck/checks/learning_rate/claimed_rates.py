"""Reads what a claim says of one parameter group: by a formula, or by the rates that a scheduler's own code gave."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from crosscheck.arrays import Counts, Floats
from crosscheck.checks.learning_rate.schedules import factors
from crosscheck.trace.schedule_claims import BY_GROUP, RECORDED

_EXACT_AT_ZERO = ("constant", "step", "multistep", "exponential")
"""Schedules that multiply. A cosine or a line that ends near zero is a difference of numbers that are not."""


class Claimed(Protocol):
    """The schedule of one group: its factors of the initial learning rate, by the number of applied updates."""

    @property
    def name(self) -> str: ...

    @property
    def every(self) -> int:
        """Return after how many updates the scheduler is stepped."""
        ...

    @property
    def total(self) -> float:
        """Return how many updates the claim covers; after them torch's scheduler goes on in a way that the claim does not
        describe.
        """
        ...

    @property
    def cancels(self) -> bool:
        """Return whether small factors are differences of large numbers, and as inexact as these."""
        ...

    def factors(self, counts: Counts) -> Floats:
        """Return the factor after each of these numbers of updates; NaN where the claim says nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Formula:
    """A claim that can be computed for any number of updates."""

    claim: Mapping[str, Any]

    @property
    def schedule(self) -> Mapping[str, Any]:
        """Return the schedule that the scheduler's own steps go through."""
        return self.claim["schedule"] if self.claim["name"] == "every" else self.claim

    @property
    def name(self) -> str:
        return str(self.schedule["name"])

    @property
    def every(self) -> int:
        return int(self.claim["updates"]) if self.claim["name"] == "every" else 1

    @property
    def total(self) -> float:
        # When its run is over torch's CosineAnnealingLR goes up again.
        return float(self.schedule["total"]) * self.every if self.name == "cosine" else np.inf

    @property
    def cancels(self) -> bool:
        return self.name not in _EXACT_AT_ZERO

    def factors(self, counts: Counts) -> Floats:
        return factors(self.claim, counts)


@dataclass(frozen=True, slots=True)
class Table:
    """Rates that the recorder took from a copy of the scheduler, each beside the one that was used."""

    stepped: Counts  # how often the copy had been stepped when it gave a rate, ascending
    rates: Floats
    every: int = 1
    first: int = 0  # what is counted before the copy was made
    name: str = "scheduler's own"
    total: float = np.inf
    cancels: bool = True

    def factors(self, counts: Counts) -> Floats:
        if not len(self.stepped):
            return np.full(counts.shape, np.nan)
        stepped = counts // self.every - self.first // self.every
        at = np.minimum(np.searchsorted(self.stepped, stepped), len(self.stepped) - 1)
        return np.where(self.stepped[at] == stepped, self.rates[at], np.nan)


def claimed_of_group(
    claim: Mapping[str, Any], group: int, counts: Counts, recorded: Floats, claimed_before: int
) -> Claimed:
    """Return what the claim says of a group.

    Args:
        claim: The schedule, as it was claimed.
        group: The number of the parameter group.
        counts: The updates applied before each attempt on record.
        recorded: The rate claimed beside each of these attempts; NaN where there is none.
        claimed_before: The updates applied before all of them, by the claim itself.
    """
    if claim["name"] == RECORDED:
        every, taken = claim["every"], counts - counts[:1]
        stepped = (claimed_before + taken) // every - claimed_before // every
        known, first = np.unique(stepped[~np.isnan(recorded)], return_index=True)
        return Table(known, recorded[~np.isnan(recorded)][first], every, int(counts[0]) if len(counts) else 0)
    if claim["name"] == BY_GROUP:
        schedules = claim["schedules"]
        return Formula(schedules[min(group, len(schedules) - 1)])
    return Formula(claim)
