"""Finds changes in elements that are not sampled, by their digests: where a digest changed, some of them did."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosscheck.checks.judging.bits import Values, differ
from crosscheck.report import check_names
from crosscheck.report.finding import Finding
from crosscheck.trace.tensors import Quantity, TensorBlock


@dataclass(frozen=True, slots=True)
class Held:
    """What a row left of the elements that are held by digests."""

    # By quantity: from which element up to which there is a digest, and the digest. Absent quantities are left out.
    digests: dict[str, tuple[tuple[int, int], int]]
    coordinates: NDArray[np.int64]
    sampled: dict[str, Values]

    def of_same(self, name: str, quantity: Quantity) -> int | None:
        """Return the digest of a quantity, if the first row of a block has one of the same elements."""
        held, found = self.digests.get(name, ((0, 0), 0))
        return None if quantity.held is None or held != tuple(map(int, quantity.held[0])) else found


def held_after(block: TensorBlock, quantities: dict[str, Quantity]) -> Held:
    """Return what the last row of a block left."""
    there = {name: q for name, q in quantities.items() if q.there_after[-1]}
    return Held(
        digests={
            name: (tuple(map(int, q.held[-1])), int(q.digests[-1, 1]))  # pyright: ignore[reportArgumentType]
            for name, q in there.items()
            if q.digests is not None and q.held is not None
        },
        coordinates=block.coordinates,
        sampled={name: q.after[-1] for name, q in there.items()},
    )


def moved_between(block: TensorBlock, name: str, quantity: Quantity, left: Held | None) -> Iterator[int]:
    """Yield the rows before which the digest of a quantity changed although no sampled element did.

    `left`: what the row before the block left.
    """
    digests = quantity.digests
    if digests is None:
        return
    if left is not None and quantity.there_before[0]:
        known = left.of_same(name, quantity)
        _, ours, theirs = np.intersect1d(left.coordinates, block.coordinates, return_indices=True)
        changed = known is not None and known != digests[0, 0]
        if changed and not _shown(left.sampled[name][ours], quantity.before[0][theirs]):
            yield 0
    both = quantity.there_before[1:] & quantity.there_after[:-1]
    for row in 1 + np.flatnonzero(both & (digests[1:, 0] != digests[:-1, 1])):
        if not _shown(quantity.after[row - 1], quantity.before[row]):
            yield int(row)


def moved_within(block: TensorBlock, quantity: Quantity) -> Iterator[int]:
    """Yield the rows at which nothing may move, and the digest of a quantity changed although no sampled element did."""
    digests = quantity.digests
    if digests is None or quantity.held is None:
        return
    idle = ~(block.applied & block.has_grad)
    alike = np.all(quantity.held[1:] == quantity.held[:-1], axis=1) & quantity.there_before & quantity.there_after
    for row in np.flatnonzero(idle & alike & (digests[:, 0] != digests[:, 1])):
        if not _shown(quantity.before[row], quantity.after[row]):
            yield int(row)


def unseen(block: TensorBlock, row: int, name: str, what: str) -> Finding:
    """Return a finding about elements of which only the digest is on record. `what`: a sentence that begins after the name."""
    return Finding(
        step=block.steps[row].step,
        tensor=block.info.name,
        slot=name,
        cause=f"{name} {what}, in elements that are not sampled: their digest is another",
        check=check_names.CONTINUITY,
    )


def _shown(left: Values, found: Values) -> bool:
    """Return whether sampled elements show the change, which is then told with its elements."""
    return left.shape == found.shape and bool(differ(left, found).any())
