"""Tells whether a loop steps its scheduler on purpose less often than after each update, where nobody said how often it does.

An integration records the count of a scheduler that it found: how often it had been stepped at each attempt.
"""

from collections.abc import Sequence

import numpy as np

from crosscheck.checks.learning_rate.claimed_rates import Claimed
from crosscheck.checks.learning_rate.rates import RateUsed, rates_follow


def stepped_seldom(
    each: Sequence[Claimed], initial_lr: Sequence[float | None], attempts: Sequence[RateUsed], stepped: Sequence[float]
) -> str:
    """Return why the rates test no schedule of updates, if they follow the schedule in the scheduler's own steps, and there are
    two updates at least from one of these to the next. Return nothing otherwise, and if the count is not on record.

    Args:
        each: What is claimed of each group, by updates.
        initial_lr: By parameter group; None for one that the schedule does not cover.
        attempts: Every attempt in its order.
        stepped: How often the scheduler had been stepped at each of them; NaN where that is not on record.
    """
    told = np.array(stepped, np.float64)
    if not ((told >= 0) & (told < 2**53)).all():
        return ""
    counts = told.astype(np.int64)
    rises, updates = np.diff(counts), np.cumsum([attempt.applied for attempt in attempts[:-1]], dtype=np.int64)
    stepped_after = updates[np.flatnonzero(rises)]
    between = np.diff(stepped_after if counts[0] else np.append(0, stepped_after))
    # What is stepped after two updates in a row is stepped after each of them, and missed the others.
    if not np.isin(rises, (0, 1)).all() or rises.all() or (between < 2).any():
        return ""
    if not rates_follow(each, initial_lr, attempts, counts):
        return ""
    every = str(between[0]) if len(between) and (between == between[0]).all() else ""
    return (
        f"the loop stepped the scheduler {rises.sum():,} times in {updates[-1]:,} updates, and the rates follow that; nobody "
        f"said how often it should be stepped: if this is meant, as once an epoch, give the recorder scheduler_every={every}"
    )
