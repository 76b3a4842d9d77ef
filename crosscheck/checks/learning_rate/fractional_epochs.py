"""Notices a CosineAnnealingWarmRestarts that is given fractions of an epoch, `step(epoch + i / iters)`, as torch documents."""

import numpy as np

from crosscheck.arrays import Counts, Floats
from crosscheck.checks.learning_rate.claimed_rates import Claimed, Formula
from crosscheck.checks.learning_rate.schedules import factors

_RELATIVE = 1e-6  # rates may be in float32
_NEAR_WHOLE = 0.01


def updates_of_an_epoch(claimed: Claimed, initial: float, used: Floats, counts: Counts) -> int | None:
    """Return of how many updates the epochs are, if the rates are the schedule's after counts / updates; None if they are not.

    Args:
        claimed: The schedule of a group.
        initial: The initial rate of the group.
        used: The rates that it used.
        counts: The applied updates before each of them, or one less where the scheduler is first given a zero.
    """
    if not isinstance(claimed, Formula) or claimed.name != "warm restarts" or not np.isfinite(used).all():
        return None
    end, period = claimed.schedule["end_factor"], claimed.schedule["period"]
    rises = np.flatnonzero(np.diff(used) > 0)
    descent = slice(0, int(rises[0]) + 1 if len(rises) else len(used))
    middle = initial * (1 + end) / 2
    # Where the first half cosine is steepest its argument can be told from the rate.
    at = int(np.argmin(np.abs(used[descent] - middle)))
    with np.errstate(all="ignore"):  # there may be nothing to go down to
        cosine = (used[at] - middle) / (initial - middle)
        updates = float(counts[at] * np.pi / (period * np.arccos(cosine)))
    if not 1.5 < updates < np.inf or abs(updates - round(updates)) > _NEAR_WHOLE:
        return None
    expected = initial * factors(claimed.schedule, counts / round(updates))
    return round(updates) if np.allclose(used, expected, rtol=_RELATIVE, atol=_RELATIVE * initial) else None
