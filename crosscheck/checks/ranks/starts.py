"""Finds the segments of several ranks that are of the same start of the run."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Key = tuple[int, int, int, int]
"""First step, world size, how many such segments the rank has, and which of them it is."""


class Start(NamedTuple):
    """What the replay knows of a segment before it reads the segment's parts."""

    first_step: int
    world_size: int
    is_empty: bool
    """It holds no part, and none will come."""


class RunStarts:
    """The starts of a run in their order, and the segment that each rank recorded of them."""

    def __init__(self, segments: Mapping[int, Sequence[Start]]) -> None:
        """`segments`: of each rank, in the order in which it recorded them."""
        self._segments = segments
        keys = _keys(segments)
        order = _merged([list(keys[rank].values()) for rank in sorted(segments)])
        self.members: list[dict[int, int]] = [{} for _ in order]
        """Of each start, the position of the segment that a rank recorded of it, by rank in ascending order."""
        self._numbers: dict[tuple[int, int], int] = {}
        for rank in sorted(segments):
            for segment, key in keys[rank].items():
                self._numbers[rank, segment] = number = order.index(key)
                self.members[number][rank] = segment

    def number(self, rank: int, segment: int) -> int:
        """Return of which start a rank's segment is, from 0; -1 for a segment without a part."""
        return self._numbers.get((rank, segment), -1)

    def lowest(self, start: int) -> int:
        """Return the lowest rank that recorded the start."""
        return min(self.members[start])

    def name(self, start: int) -> str:
        """Return the name of the start's segments, or that of the lowest rank where ranks count differently."""
        rank, segment = min(self.members[start].items())
        alike = len(set(self.members[start].values())) == 1
        return f"segment-{segment + 1:04}" if alike else f"segment-{segment + 1:04} of rank {rank}"

    def described(self, start: int) -> str:
        """Return the name of the start's segments with what they were paired by."""
        rank, segment = min(self.members[start].items())
        first_step, world_size, _ = self._segments[rank][segment]
        return f"{self.name(start)} (first step {first_step}, world size {world_size})"


def _keys(segments: Mapping[int, Sequence[Start]]) -> dict[int, dict[int, Key]]:
    """Return a key for each segment, by rank and position; segments of the same key are of the same start.

    Segments that begin with the same step under the same world size belong together in their order, on ranks that have the
    same number of them. A rank that was killed before its first part may have left an empty segment more than others, so empty
    ones are left out where the numbers are not the same.
    """
    alike: defaultdict[tuple[int, int], dict[int, list[int]]] = defaultdict(dict)
    for rank, its in segments.items():
        for segment, start in enumerate(its):
            alike[start.first_step, start.world_size].setdefault(rank, []).append(segment)
    keys: dict[int, dict[int, Key]] = {rank: {} for rank in segments}
    for (first_step, world_size), by_rank in alike.items():
        unequal = len({len(its) for its in by_rank.values()}) > 1
        for rank, its in by_rank.items():
            kept = [segment for segment in its if not (unequal and segments[rank][segment].is_empty)]
            for position, segment in enumerate(kept):
                keys[rank][segment] = first_step, world_size, len(kept), position
    return {rank: dict(sorted(its.items())) for rank, its in keys.items()}


def _merged(sequences: Sequence[Sequence[Key]]) -> list[Key]:
    """Return all keys once, in an order that is that of the first sequence, and of the others as far as these agree."""
    merged: list[Key] = []
    for sequence in sequences:
        at = len(merged)
        for key in reversed(sequence):
            if key in merged:
                at = merged.index(key)
            else:
                merged.insert(at, key)
    return merged
