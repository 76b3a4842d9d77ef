"""Counts how many of all elements are compared from step to step."""

import math
from collections.abc import Sequence

import numpy as np

from crosscheck.checks.continuity.left_behind import Left
from crosscheck.trace.format import PARAM, Part
from crosscheck.trace.reader import Segment
from crosscheck.trace.tensors import TensorBlock


class ShareHeld:
    """Counts the elements that are held over each boundary between two steps."""

    def __init__(self, segment: Segment, earlier: Sequence["ShareHeld"]) -> None:
        """`earlier`: those of the segments before this one."""
        self._earlier = earlier
        self._samples_change = segment.samples_change
        self._follows = bool(earlier)  # a boundary lies before the first step of the next part
        self._held = self._there = 0
        self._at: dict[tuple[int, int], int] = {}  # elements held before a step, by tensor and step of this part
        self._sizes: dict[int, int] = {}  # elements, by tensor

    def add_part(self, part: Part) -> None:
        """Take in which tensors the next part is about."""
        self.end_part()
        if self._samples_change:
            boundaries = len(part.steps) - (not self._follows)
            recorded = {entry.tensor for block in part.blocks for entry in block.tensors}
            # A tensor that requires no gradient may be given one nevertheless, and is then stepped.
            there = (info for number, info in enumerate(part.tensors) if info.stepped or number in recorded)
            self._there += boundaries * sum(info.numel for info in there)
        self._follows = True

    def add(self, block: TensorBlock, before: list[Left], last: Left | None) -> None:
        """Count the elements that are held before each row.

        `before`: all that is on record of what the step before the first row left; `last`: that of it which is compared.
        """
        self._sizes[block.number] = block.info.numel
        held = [_count_held(block, row) for row in range(1, len(block.steps))]
        if last is not None:
            first = np.isin(block.coordinates, last.coordinates).sum()
            by_digest = not block.full and any(
                left.held is not None and left.held.of_same(PARAM, block.param) is not None for left in before
            )
            held.insert(0, _count_held(block, 0) if by_digest else int(first))
        for step, count in zip(block.steps[-len(held) :] if held else (), held, strict=True):
            at = block.number, step.step
            self._at[at] = max(self._at.get(at, 0), count)

    def end_part(self) -> None:
        """Sum up what was counted in the part."""
        self._held += sum(self._at.values())
        if not self._samples_change:
            self._there += sum(self._sizes[number] for number, _ in self._at)
        self._at = {}

    def note(self) -> str:
        """Return the share over this segment and those before it, in words; empty if there was no boundary."""
        each = (*self._earlier, self)
        held, there = sum(share._held for share in each), sum(share._there for share in each)
        if not there:
            return ""
        # Rounded down, so that it is all only if nothing is missing.
        percent = "all" if held == there else f"{math.floor(1e4 * held / there) / 100:g} %"
        return f"between steps {percent} of the elements were held, bit for bit"


def _count_held(block: TensorBlock, row: int) -> int:
    """Return how many elements of a parameter are held before a row: those that are sampled, and those of the digest."""
    if block.param.held is None:
        return len(block.coordinates)
    start, stop = map(int, block.param.held[row])
    outside = np.count_nonzero((block.coordinates < start) | (block.coordinates >= stop))
    return stop - start + int(outside)
