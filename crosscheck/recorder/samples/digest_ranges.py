"""Chooses which of the elements that are not recorded are covered by digests, and at which steps these are taken."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from crosscheck.recorder.samples.columns import level
from crosscheck.trace.format import PARAM

Range = tuple[int, int]
"""The first of some elements of a tensor, in the order in which they lie in memory, and the one after the last."""
Quantity = tuple[int, str]
"""A tensor's number, and `param` or a slot of the state."""

# The share of the bytes that parameters get, at most: weights are changed between steps more often than state is.
_FOR_PARAMETERS = 3 / 4
_ALIGNED = 1024  # elements; ranges begin and end at multiples
_EACH_STEP = 96 * 1024  # bytes that may be read at every step; more is read at one step of RHYTHM
RHYTHM = 8
"""Steps after which digests are taken again, where they are not taken at every step."""


class DigestRanges:
    """The elements of each quantity that digests cover while one part of the trace is recorded."""

    def __init__(self, digest_bytes: int, turn: int) -> None:
        """`digest_bytes`: to be read for the digests of one snapshot. With each turn the ranges move on."""
        self._budget = self._left = digest_bytes
        self._turn = turn
        self.ranges: dict[Quantity, Range] = {}

    def is_due(self, step: int, *, before: bool, on_host: bool) -> bool:
        """Return whether to take digests before or after a step.

        They compare what a step left with what the next one finds, so they are taken on both sides of that boundary or on
        neither. Where it is too much for every step, they are taken at every eighth one, and at the boundary before it and the
        one after it. On a device it is always too much: not the bytes, but the host's time to launch a handful of operations.
        """
        if on_host and self._budget - self._left <= _EACH_STEP:
            return True
        distance = step % RHYTHM - RHYTHM // 2
        return distance == 0 or distance == (1 if before else -1)

    def include(self, tensors: Sequence[tuple[Quantity, Tensor]]) -> None:
        """Choose a range of each quantity that has none yet; later ones share what bytes are left."""
        parameters = [(quantity, tensor) for quantity, tensor in tensors if quantity[1] == PARAM]
        slots = [(quantity, tensor) for quantity, tensor in tensors if quantity[1] != PARAM]
        self._choose(parameters, int(self._left * _FOR_PARAMETERS))
        self._choose(slots, self._left)

    def cover(self, quantity: Quantity) -> bool:
        """Return whether any element of a quantity is covered."""
        start, stop = self.ranges.get(quantity, (0, 0))
        return stop > start

    def _choose(self, tensors: Iterable[tuple[Quantity, Tensor]], digest_bytes: int) -> None:
        new = [(quantity, tensor) for quantity, tensor in tensors if quantity not in self.ranges]
        height = level([tensor.nbytes for _, tensor in new], digest_bytes)
        for quantity, tensor in new:
            numel, count = tensor.numel(), height // tensor.element_size()
            if count < numel:
                count = count // _ALIGNED * _ALIGNED
                start = self._turn % -(-numel // count) * count if count else 0
                self.ranges[quantity] = start, min(start + count, numel)
            else:
                self.ranges[quantity] = 0, numel
            self._left -= min(count, numel) * tensor.element_size()  # however short the last block of a tensor is
        self._left = max(self._left, 0)
