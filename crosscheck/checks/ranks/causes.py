"""Says in words what differs between ranks, and what that may come from."""

from dataclasses import dataclass, field

from crosscheck.checks.ranks.differences import Difference, Moment
from crosscheck.checks.ranks.starts import RunStarts
from crosscheck.text import listed

Place = tuple[int, float]
"""The number of a start of the run, and a step in its segments."""


@dataclass(slots=True)
class Spread:
    """All differences of one kind from one rank."""

    first: Difference
    place: Place
    lowest: int
    """The rank that the others differ from."""
    rank: int
    """The one that differs in `first`."""
    ahead: int
    """`Difference.ahead`, of any difference at that place."""
    ranks: set[int] = field(default_factory=set[int])
    steps: set[int] = field(default_factory=set[int])
    tensors: dict[str, None] = field(default_factory=dict[str, None])
    elements: int = 0


def cause(spread: Spread, starts: RunStarts, *, at_start: bool, counts: str) -> str:
    """Return in one sentence which ranks differ, in what, and what that may come from.

    `at_start`: it is the first step of its segments that was compared; `counts`: how many steps each rank has, if not the same.
    """
    ranks = [str(rank) for rank in sorted(spread.ranks)]
    who = f"ranks {listed(ranks)} differ" if len(ranks) > 1 else f"rank {ranks[0]} differs"
    return f"{who} from rank {spread.lowest}: {_what(spread, starts, at_start, counts)}"


def _what(spread: Spread, starts: RunStarts, at_start: bool, counts: str) -> str:
    first = spread.first
    if first.moment is Moment.GRADIENT:
        return _of_gradients(spread, counts)
    if first.moment is Moment.APPLIED:
        return "one skipped the step and the other did not"
    if first.moment is Moment.OPTIONS:
        return f"{first.slot} is not the same"
    if first.lacking:
        return _of_absence(spread, starts, at_start)
    unseen = "" if first.values else ", in elements that are not sampled: their digest is another"
    if first.moment is Moment.AFTER:
        return (
            f"{first.slot} is not the same after the step, although all that is on record of what it was computed from "
            f"is{unseen}"
        )
    if at_start:
        return f"{first.slot} was not the same before the first step on record{unseen}: they did not start alike"
    return f"{first.slot} was changed between two steps on some ranks and not on others{unseen}"


def _of_gradients(spread: Spread, counts: str) -> str:
    step, other_iterations = spread.first.step, f"or they are of different iterations{counts and f': {counts}'}"
    if spread.first.lacking:
        has, lacks = _has_and_lacks(spread)
        return (
            f"the gradient that the optimizer consumed is there on rank {has} and absent on rank {lacks}. Either the tensor took "
            "no part in the loss there and nothing averages its gradient over the ranks, or the gradient was set to None there, "
            f"{other_iterations}"
        )
    differ = "the gradients that the optimizers consumed are not the same, although the parameters were"
    if spread.ahead:
        lowest, other = spread.lowest, spread.rank
        behind, ahead = (lowest, other) if spread.ahead > 0 else (other, lowest)
        return (
            f"{differ}. That of step {step} on rank {ahead} is that of step {step + 1} on rank {behind}: rank {ahead} did not "
            f"take a step that rank {behind} took"
        )
    return (
        f"{differ}. Either they were not averaged over the ranks (a no_sync that never ends, parameters that DDP does not know, "
        f"no all-reduce), {other_iterations}"
    )


def _of_absence(spread: Spread, starts: RunStarts, at_start: bool) -> str:
    has, lacks = _has_and_lacks(spread)
    one_sided = f"{spread.first.slot} is there on rank {has} and absent on rank {lacks}"
    if spread.first.moment is Moment.AFTER:
        return f"{one_sided} after the step, although all that is on record of what it was computed from is the same"
    if not at_start:
        return f"{one_sided}: it was dropped or set between two steps"
    start = spread.place[0]
    if starts.members[start][lacks]:
        return f"{one_sided} before the first step of {starts.name(start)}: it was not loaded there"
    return f"{one_sided} before the first step on record: they did not start alike"


def _has_and_lacks(spread: Spread) -> tuple[int, int]:
    """Return the rank that has what differs first, and the one that lacks it."""
    lowest, other = spread.lowest, spread.rank
    return (lowest, other) if spread.first.lacking == "other" else (other, lowest)
