"""Chooses the tensors and elements that are recorded of each step: as many as the budget allows, others with each turn."""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from crosscheck.recorder.optimizer.rule import CLAIMABLE, slot_names
from crosscheck.recorder.optimizer.tracked_parameters import TrackedParameters
from crosscheck.recorder.samples import columns
from crosscheck.recorder.samples.budget import Budget
from crosscheck.recorder.samples.columns import Columns
from crosscheck.recorder.samples.digest_ranges import DigestRanges
from crosscheck.recorder.samples.reader import SampleReader
from crosscheck.recorder.samples.snapshot import Sample

TURN_STEPS = 128
"""Steps after which other tensors and elements are sampled, and a part of the trace is committed."""
_FULL_EVERY = 100  # steps
_THIN_AFTER = 2**27  # bytes of a trace; after as many again each step is recorded with half as much


class Sampler:
    """Chooses the samples of an optimizer's steps, and makes their readers."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        tracked: TrackedParameters,
        slots: Mapping[str, str],
        rule: str,
        budget: Budget,
        *,
        steps: Literal["sampled", "all"] | Iterable[int],
        coordinates: int | None,
    ) -> None:
        """`slots`: the rule's names of state -> this optimizer's. `steps`: those that are recorded in full. `coordinates`: of
        each tensor, instead of what the budget has for all. Raises ValueError.
        """
        if isinstance(steps, str) and steps not in ("sampled", "all"):
            raise ValueError(f"steps={steps!r}: accepted are 'sampled', 'all' and step numbers")
        if coordinates is not None and coordinates < 1:
            raise ValueError(f"coordinates={coordinates}: at least 1 element of each tensor is needed")
        self._optimizer, self._tracked = optimizer, tracked
        self._slot_names = slot_names(rule, slots)
        self._budget, self._coordinates = budget, coordinates
        self._steps = steps if isinstance(steps, str) else frozenset(steps)
        self.everything = budget.whole or steps == "all"
        """Whether every step is recorded in full."""
        # Of an element, in a row: its gradient; parameter and state, twice.
        self._copies = 1 + 2 * (1 + len(CLAIMABLE[rule].slots))
        self._sampled_all = False
        self.nbytes = 0
        """Bytes that were written so far."""

    @property
    def budget(self) -> Budget:
        """Return the budget of the next part: a long run is thinned out."""
        return self._budget if self._budget.whole else self._budget.thinned(self.nbytes // _THIN_AFTER)

    def turn(self, step: int) -> int:
        """Return the number of the turn that a step belongs to; with each one other tensors and elements are sampled."""
        return (step - 1) // TURN_STEPS

    def reader(self, step: int) -> SampleReader:
        """Return a reader of what is recorded at every step of the turn to which `step` belongs."""
        numbers, budget, turn = self._trainable(), self.budget, self.turn(step)
        tensors = self._tracked.tensors
        if self._coordinates is not None:
            chosen = {n: columns.spread(tensors[n], self._coordinates, None) for n in numbers}
        else:
            turns = -(-len(numbers) // budget.tensors)
            numbers = numbers[turn % turns :: turns] if turns else []
            height = columns.level([tensors[n].numel() for n in numbers], budget.columns)
            chosen = {n: columns.spread(tensors[n], height, turn) for n in numbers}
        return self._reader(chosen, DigestRanges(budget.digest_bytes, turn))

    def is_full(self, step: int, *, after_skip: bool) -> bool:
        """Return whether a step is to be recorded in full."""
        if isinstance(self._steps, frozenset):
            return step in self._steps
        return self.everything or step <= 3 or step % _FULL_EVERY == 0 or after_skip

    def full_reader(self, step: int) -> SampleReader:
        """Return a reader of a step that is recorded in full: of everything, or of as much as the budget allows."""
        numbers, tensors = self._trainable(), self._tracked.tensors
        if self.everything or isinstance(self._steps, frozenset):
            return self._reader({n: columns.whole(tensors[n]) for n in numbers}, full=True)
        # Each array of a trace costs something as well, so only the first time every tensor is recorded.
        if self._sampled_all:
            turns = -(-len(numbers) // (2 * self.budget.tensors))
            numbers = numbers[step // _FULL_EVERY % turns :: turns] if turns else []
        self._sampled_all = True
        sizes = [tensors[n].nbytes * self._copies for n in numbers]
        height = columns.level(sizes, self.budget.wide_bytes) // self._copies
        return self._reader({n: _block(tensors[n], height, step // _FULL_EVERY) for n in numbers}, full=True)

    def norm_is_due(self, step: int) -> bool:
        """Return whether the norm of all gradients is to be taken at a step: of a large model it takes longer than all else."""
        return self.everything or step % -(-self._tracked.elements // self._budget.grad_elements or 1) == 0

    def nbytes_of_a_step(self, sample: Sample) -> tuple[int, int, int]:
        """Return the bytes that a sample takes of a step, those of a step that is recorded in full, and one in how many is."""
        tensors = self._tracked.tensors
        sampled = sum(columns.count * tensors[n].element_size() for n, columns in sample.columns.items())
        all_of_it = sum(tensors[n].nbytes for n in self._trainable()) * self._copies
        if self.everything:
            return sampled * self._copies, all_of_it, 1
        if isinstance(self._steps, frozenset):
            return sampled * self._copies, 0, _FULL_EVERY
        return sampled * self._copies, min(self.budget.wide_bytes, all_of_it), _FULL_EVERY

    def _trainable(self) -> list[int]:
        """Return the tensors that a step can move: a frozen one costs nothing."""
        tensors = ((number, self._tracked.tensors[number]) for number in self._tracked.active)
        return [number for number, tensor in tensors if tensor.requires_grad or tensor.grad is not None]

    def _reader(
        self, chosen: Mapping[int, Columns], digest_ranges: DigestRanges | None = None, *, full: bool = False
    ) -> SampleReader:
        tracked = self._tracked
        parameters = {number: (tracked.tensors[number], tracked.infos[number].group) for number in chosen}
        return SampleReader(self._optimizer, parameters, Sample(chosen, digest_ranges, full), self._slot_names)


def _block(tensor: Tensor, nbytes: int, turn: int) -> Columns:
    return columns.block(tensor, max(nbytes // tensor.element_size(), 8), turn)
