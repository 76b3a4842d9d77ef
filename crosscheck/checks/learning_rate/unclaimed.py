"""Finds rates that go on after a skipped step, where no schedule is claimed.

A schedule of updates must stay where it is, because the next attempt is the same step. A rate that is changed now and then, by a
scheduler that is stepped once an epoch or by hand, may change after any step.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from crosscheck.checks.learning_rate.rates import RateUsed
from crosscheck.report import check_names
from crosscheck.report.finding import Finding

_NEAREST = 5  # applied steps on either side of a skipped one, which tell what kind of schedule it is in
_FEWEST = 3
_NEARLY_EVERY = 0.9


def moved_on(attempts: Sequence[RateUsed]) -> Iterator[Finding]:
    """Yield a finding for each group and skipped step after which the rate is another,
    if it changes after nearly every step there.
    """
    applied = np.array([attempt.applied for attempt in attempts[:-1]], np.bool_)
    for group in range(max((len(attempt.lr) for attempt in attempts), default=0)):
        rates = np.array([attempt.lr[group] if group < len(attempt.lr) else np.nan for attempt in attempts])
        known = ~np.isnan(rates)
        changed = known[1:] & known[:-1] & (rates[1:] != rates[:-1])
        others = np.flatnonzero(applied & known[1:] & known[:-1])
        for k in map(int, np.flatnonzero(changed & ~applied)):
            at = int(np.searchsorted(others, k))
            near = changed[others[max(0, at - _NEAREST) : at + _NEAREST]]
            if len(near) >= _FEWEST and near.mean() >= _NEARLY_EVERY:
                yield Finding(
                    step=attempts[k + 1].step,
                    tensor=f"group {group}",
                    slot="lr",
                    recorded=float(rates[k + 1]),
                    expected=float(rates[k]),
                    cause=f"the schedule advanced on a skipped step: step {attempts[k].step} was skipped, yet lr went on",
                    check=check_names.LEARNING_RATE,
                )
