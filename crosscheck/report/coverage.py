"""Which steps of a run its segments hold."""

from collections.abc import Iterable
from itertools import pairwise


class Held:
    """Steps as ranges, apart from each other and ascending: a long run resumed a few times is a few of them."""

    def __init__(self) -> None:
        self._ranges: list[range] = []
        self._taken: list[range] = []  # also those of which a header alone tells

    def add(self, steps: range) -> list[range]:
        """Those that were held already. An empty range says that its start is the next step the run took."""
        twice = [both for held in self._ranges if (both := _both(held, steps))]
        self._ranges = _merged([*self._ranges, steps])
        self._taken.append(steps)
        return twice

    def missing(self) -> list[range]:
        """Steps between the first and the last taken that are not held."""
        if not self._taken:
            return []
        first, end = min(steps.start for steps in self._taken), max(steps.stop for steps in self._taken)
        edges = [range(first, first), *self._ranges, range(end, end)]
        return [range(a.stop, b.start) for a, b in pairwise(edges) if a.stop < b.start]


def spans(ranges: Iterable[range]) -> str:
    """For a sentence: step 7; steps 8 to 11 (4); steps 8 to 11 (4), 15."""
    listed = list(ranges)
    texts = [f"{r[0]} to {r[-1]} ({r.stop - r.start:,})" if r.stop - r.start > 1 else f"{r[0]}" for r in listed]
    return f"step{'s' if sum(r.stop - r.start for r in listed) > 1 else ''} {', '.join(texts)}"


def _both(a: range, b: range) -> range:
    return range(max(a.start, b.start), min(a.stop, b.stop))


def _merged(ranges: Iterable[range]) -> list[range]:
    merged: list[range] = []
    for steps in sorted(filter(None, ranges), key=lambda r: r.start):
        if merged and steps.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, steps.stop))
        else:
            merged.append(steps)
    return merged
