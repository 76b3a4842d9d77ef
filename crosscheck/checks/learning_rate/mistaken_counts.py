"""Lists the usual ways to step a schedule wrongly, each with the number of updates that the schedule then seems to count."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from crosscheck.arrays import Counts

# How often a schedule is stepped by mistake: for each loss, each part of a batch, each rank.
_TIMES = (2, 3, 4, 5, 6, 8, 16, 32)


class Miscount(NamedTuple):
    """What a schedule may count instead of the applied updates."""

    sentence: str
    counts: Counts  # before each attempt
    micro_batches: int = 1  # of an update, where the scheduler is stepped after each of them


def mistaken_counts(
    counts: Counts,
    steps: Counts,
    *,
    every: int,
    applied_before: int,
    world_size: int,
    changes: tuple[int | None, int | None],
) -> Iterator[Miscount]:
    """Yield the mistakes that are to be tried.

    Args:
        counts: The updates applied before each attempt, which the schedule should count.
        steps: The number of each attempt, from 1.
        every: The updates to one step of the scheduler. A scheduler that was stepped n times has counted n times as many.
        applied_before: Updates applied before the first attempt.
        world_size: Ranks of the run.
        changes: After how many updates the rate should have changed first, and after how many it did; None if never.
    """
    stepped = counts // every  # how often the scheduler should have been stepped
    attempted = steps - 1
    an_update = "an update" if every == 1 else f"in {every} updates"
    once_a_rank = f"the schedule steps once per rank, {world_size} times {an_update}"
    if world_size > 1:
        yield Miscount(once_a_rank, stepped * world_size * every)
    if (attempted != counts).any():
        yield Miscount("the schedule counts skipped steps", attempted)
        since_a_resume = applied_before + np.arange(len(steps))
        yield Miscount("the schedule counts skipped steps", since_a_resume)
        if world_size > 1:
            yield Miscount(f"{once_a_rank}, and counts skipped steps", attempted // every * world_size * every)
    if applied_before:
        yield Miscount(f"the schedule started over at step {steps[0]}", (stepped - applied_before // every) * every)
    yield Miscount("the schedule is one update ahead", counts + 1)
    yield Miscount("the schedule is one update behind", np.maximum(counts - 1, 0))
    for times in _TIMES:
        if times != world_size:
            yield Miscount(f"the schedule steps {times} times {an_update}", stepped * times * every)
        # The first update follows the last of its micro-batches.
        yield Miscount(
            f"the schedule steps after each of {times} micro-batches", (counts * times + times - 1) * every, times
        )
    if every > 1:
        yield Miscount("the schedule is one of its steps ahead", counts + every)
        yield Miscount(_at_other_intervals(1, every), counts * every)
    if (interval := _interval(every, *changes)) is not None and not applied_before:
        yield Miscount(_at_other_intervals(interval, every), counts // interval * every)


def with_a_rest(miscount: Miscount, counts: Counts, every: int, last: int) -> Iterator[Miscount]:
    """Yield the same mistake in epochs that do not divide into whole updates, for each number of micro-batches in the last.

    Args:
        miscount: The mistake with whole updates.
        counts: The updates applied before each attempt.
        every: The updates to one step of the scheduler.
        last: How many updates the first epoch has before its last.
    """
    epoch, within = np.divmod(counts, last + 1)
    for rest in range(1, miscount.micro_batches):
        length = last * miscount.micro_batches + rest
        stepped = epoch * length + np.minimum((within + 1) * miscount.micro_batches, length) - 1
        yield Miscount(f"{miscount.sentence} ({rest} in the last update of an epoch)", stepped * every)


def _interval(every: int, expected: int | None, used: int | None) -> int | None:
    """Return the updates between two steps of the scheduler, from when the rate should have changed and when it did."""
    if not used:
        return None
    due = expected or every  # after so many updates the rate changes, which may be after several steps of the scheduler
    interval, rest = divmod(used * every, due)
    return interval if interval > 1 and not rest and interval != every else None


def _at_other_intervals(interval: int, every: int) -> str:
    often = f"once in {interval} updates" if interval > 1 else "once an update"
    instead = f", not once in {every}" if every > 1 else ""
    meant = ", as once an epoch" if interval > 1 else ""
    return f"the schedule steps {often}{instead}; if that is meant{meant}, give the recorder scheduler_every={interval}"
