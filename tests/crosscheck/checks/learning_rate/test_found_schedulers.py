"""A scheduler that nobody gave may be stepped less often than after each update, if its own count says so."""

import math
from collections.abc import Sequence

import pytest

from crosscheck.checks.learning_rate.claimed_rates import Formula
from crosscheck.checks.learning_rate.found_schedulers import stepped_seldom
from crosscheck.checks.learning_rate.rates import RateUsed

HALVED = Formula({"name": "step", "size": 1, "gamma": 0.5})
EVERY_THIRD = [0, 0, 0, 1, 1, 1, 2, 2]


def why(stepped: Sequence[float], used: Sequence[float] | None = None, skipped: Sequence[int] = ()) -> str:
    """Return what is said of a rate that is halved by each step of the scheduler, or of the exponents that were used."""
    attempts = [
        RateUsed(number, number not in skipped, (0.5**exponent,)) for number, exponent in enumerate(used or stepped, 1)
    ]
    return stepped_seldom([HALVED], [1.0], attempts, stepped)


@pytest.mark.parametrize(
    ("stepped", "skipped", "told"),
    [
        (EVERY_THIRD, (), "2 times in 7 updates, .* scheduler_every=3"),
        ([0, 0, 0, 0, 1, 1, 1, 2], (2,), "2 times in 6 updates, .* scheduler_every=3"),
        ([0, 0, 1, 1, 1, 1, 2, 2], (), "2 times in 7 updates, .* scheduler_every="),
        ([5, 6, 6, 7, 7, 8, 8, 9], (), "4 times in 7 updates, .* scheduler_every=2"),
        ([0] * 8, (), "0 times in 7 updates, .* scheduler_every="),
    ],
    ids=["every third", "a skipped step", "epochs of other lengths", "a run that goes on", "an epoch that is not over"],
)
def test_rates_that_follow_the_scheduler(stepped: list[float], skipped: tuple[int, ...], told: str) -> None:
    start, _, end = told.partition(", .* ")
    found = why(stepped, skipped=skipped)
    assert found.startswith(f"the loop stepped the scheduler {start}, and the rates follow that")
    assert found.endswith(f"give the recorder {end}")


@pytest.mark.parametrize(
    "stepped",
    [[0, 1, 2, 3, 4], [0, 1, 1, 2, 3], [0, 0, 2, 2, 4], [2, 2, 2, 1, 1], [0], [math.nan] * 5, [1e300] * 5, [-1, -1, 0]],
    ids=["each", "one left out", "two at once", "back", "one attempt", "not on record", "too large", "too small"],
)
def test_other_counts(stepped: list[float]) -> None:
    assert not why(stepped)


def test_rates_that_do_not_follow_the_scheduler() -> None:
    assert not why(EVERY_THIRD, [0, 0, 0, 1, 1, 1, 2, 3])
