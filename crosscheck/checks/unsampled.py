"""Elements that nobody sampled are held by digests: where a digest changed, some of them did."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from crosscheck.checks.bits import Values, differ
from crosscheck.trace.tensors import Quantity, TensorBlock


@dataclass(frozen=True, slots=True)
class Held:
    """What a row left of the elements that are held by digests."""

    start: int
    stop: int
    digests: dict[str, int]  # by quantity; those that were absent are left out
    sampled: dict[str, Values]

    def covers(self, block: TensorBlock) -> bool:
        """Return whether the first row of a block has digests of the same elements."""
        return (self.start, self.stop) == (block.held[0, 0], block.held[0, 1])


def held_after(block: TensorBlock, quantities: dict[str, Quantity]) -> Held:
    """Return what the last row of a block left."""
    there = {name: q for name, q in quantities.items() if q.there_after[-1]}
    return Held(
        start=int(block.held[-1, 0]),
        stop=int(block.held[-1, 1]),
        digests={name: int(q.digests[-1, 1]) for name, q in there.items() if q.digests is not None},
        sampled={name: q.after[-1] for name, q in there.items()},
    )


def moved_between(block: TensorBlock, name: str, quantity: Quantity, left: Held | None) -> Iterator[int]:
    """Yield the rows before which the digest of a quantity changed although no sampled element did.

    `left`: what the row before the block left.
    """
    digests = quantity.digests
    if digests is None:
        return
    if left is not None and left.covers(block) and quantity.there_before[0]:
        known = left.digests.get(name)
        if known is not None and known != digests[0, 0] and not _shown(left.sampled[name], quantity.before[0]):
            yield 0
    both = quantity.there_before[1:] & quantity.there_after[:-1]
    for row in 1 + np.flatnonzero(both & (digests[1:, 0] != digests[:-1, 1])):
        if not _shown(quantity.after[row - 1], quantity.before[row]):
            yield int(row)


def moved_within(block: TensorBlock, quantity: Quantity) -> Iterator[int]:
    """Yield the rows at which nothing may move, and the digest of a quantity changed although no sampled element did."""
    digests = quantity.digests
    if digests is None:
        return
    idle = ~(np.array([step.applied for step in block.steps]) & block.has_grad)
    alike = np.all(block.held[1:] == block.held[:-1], axis=1) & quantity.there_before & quantity.there_after
    for row in np.flatnonzero(idle & alike & (digests[:, 0] != digests[:, 1])):
        if not _shown(quantity.before[row], quantity.after[row]):
            yield int(row)


def count_held(block: TensorBlock, row: int) -> int:
    """Return how many elements of a tensor are held before a row: those that are sampled, and those of the digest."""
    start, stop = map(int, block.held[row])
    outside = np.count_nonzero((block.coordinates < start) | (block.coordinates >= stop))
    return stop - start + int(outside)


def _shown(left: Values, found: Values) -> bool:
    """Return whether sampled elements show the change, which is then told with its elements."""
    return left.shape == found.shape and bool(differ(left, found).any())
