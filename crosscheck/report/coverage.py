"""Which steps of a run are on record, over all of its segments."""

from collections.abc import Iterable
from itertools import pairwise


class Coverage:
    """The recorded steps as ranges, ascending and apart from each other: a long run resumed a few times is a few."""

    def __init__(self) -> None:
        self._ranges: list[range] = []
        self._taken: list[range] = []  # with those empty ranges by which a header says where its segment starts

    def add(self, steps: range) -> list[range]:
        """Add the steps of a segment and return those that were on record before.

        A segment without a step adds an empty range: its start is the next step that the run took.
        """
        twice = [both for known in self._ranges if (both := _intersection(known, steps))]
        self._ranges = _merged([*self._ranges, steps])
        self._taken.append(steps)
        return twice

    def missing(self) -> list[range]:
        """Return the steps between the first and the last taken that no segment holds."""
        if not self._taken:
            return []
        first, end = min(steps.start for steps in self._taken), max(steps.stop for steps in self._taken)
        edges = [range(first, first), *self._ranges, range(end, end)]
        return [range(a.stop, b.start) for a, b in pairwise(edges) if a.stop < b.start]


def runs(steps: Iterable[int]) -> list[range]:
    """Return ascending steps as ranges of those that follow each other."""
    return _merged([range(step, step + 1) for step in steps])


def spans(ranges: Iterable[range]) -> str:
    """Return the ranges in words, such as `step 7`, `steps 8 to 11 (4)` or `steps 8 to 11 (4), 15`."""
    listed = list(ranges)
    texts = [f"{r[0]} to {r[-1]} ({r.stop - r.start:,})" if r.stop - r.start > 1 else f"{r[0]}" for r in listed]
    return f"step{'s' if sum(r.stop - r.start for r in listed) > 1 else ''} {', '.join(texts)}"


def _intersection(a: range, b: range) -> range:
    return range(max(a.start, b.start), min(a.stop, b.stop))


def _merged(ranges: Iterable[range]) -> list[range]:
    """Sort the ranges and join those that touch."""
    merged: list[range] = []
    for steps in sorted(filter(None, ranges), key=lambda r: r.start):
        if merged and steps.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, steps.stop))
        else:
            merged.append(steps)
    return merged
