"""Compares what the ranks of a run recorded, while their traces are read. NumPy only."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from crosscheck.checks.ranks.causes import Place, Spread, cause
from crosscheck.checks.ranks.differences import Attempt, Difference, Moment, Pair, of_attempts
from crosscheck.checks.ranks.starts import RunStarts, Start
from crosscheck.report import check_names
from crosscheck.report.finding import Finding
from crosscheck.text import listed
from crosscheck.trace.format import PARAM, Option, Part
from crosscheck.trace.tensors import TensorBlock


class Comparison:
    """Holds each rank that recorded a start of the run against the lowest one that did, bit for bit.

    What was compared with all others is let go: of ranks that are read at the same pace, about a part each is in memory.
    """

    def __init__(self, segments: Mapping[int, Sequence[Start]]) -> None:
        """`segments`: by rank."""
        self.ranks = tuple(sorted(segments))
        self.starts = RunStarts(segments)
        self._read: dict[int, tuple[int, float]] = dict.fromkeys(self.ranks, (0, 0.0))  # up to which segment and step
        self._blocks: defaultdict[tuple[int, str], list[tuple[int, TensorBlock]]] = defaultdict(list)
        self._attempts: dict[Place, dict[int, Attempt]] = {}
        self._tensors: defaultdict[int, set[str]] = defaultdict(set)  # by rank
        self._spreads: dict[tuple[Moment, str, int], Spread] = {}  # also by the lowest rank
        self._counts = Counter[tuple[int, int]]()  # of steps, by rank and start
        self._began: dict[int, int] = {}  # by start: the first step that was compared
        self._compared: set[tuple[int, str]] = set()  # tensors of ranks, each by rank and name
        self._not_compared: set[tuple[int, str]] = set()  # of some steps, although the lowest rank has these as well

    def __bool__(self) -> bool:
        """Return whether ranks differ."""
        return bool(self._spreads)

    @property
    def is_answer(self) -> bool:
        """Return whether the ranks recorded anything in common that could have shown a difference."""
        return bool(self._compared or self._spreads)

    def add_steps(self, rank: int, segment: int, part: Part, options: Sequence[Sequence[Mapping[str, Option]]]) -> None:
        """Take in the steps of a part, before its tensors."""
        start = self.starts.number(rank, segment)
        done = [min(self._read_of(number, each) for each in its) for number, its in enumerate(self.starts.members)]
        for key, waiting in self._blocks.items():
            waiting[:] = [(whose, block) for whose, block in waiting if block.steps[-1].step > done[key[0]]]
        self._attempts = {place: by_rank for place, by_rank in self._attempts.items() if place[1] > done[place[0]]}
        self._read[rank] = segment, part.steps[-1].step
        self._counts[rank, start] += len(part.steps)
        self._tensors[rank] |= {tensor.name for tensor in part.tensors}
        if len(self.starts.members[start]) == 1:
            return
        groups = {tensor.name: tensor.group for tensor in part.tensors if tensor.stepped}
        for step, its_options in zip(part.steps, options, strict=True):
            by_rank = self._attempts.setdefault((start, step.step), {})
            by_rank[rank] = Attempt(step.applied, its_options, groups)
            for first, other in self._pairs(start, rank, by_rank):
                self._add(start, other, of_attempts(step.step, by_rank[first], by_rank[other]))

    def add_tensor(self, rank: int, segment: int, block: TensorBlock) -> None:
        """Take in the rows of a tensor."""
        start = self.starts.number(rank, segment)
        if len(self.starts.members[start]) == 1:
            return
        waiting = self._blocks[start, block.info.name]
        for whose, seen in waiting:
            blocks = {rank: block, whose: seen}
            for first, other in self._pairs(start, rank, [whose]):
                self._compare(start, other, blocks[first], blocks[other])
        waiting.append((rank, block))

    def end(self, rank: int, segment: int) -> None:
        """Take in that nothing more of the segment comes from this rank."""
        self._read[rank] = segment, np.inf

    def _read_of(self, start: int, rank: int) -> float:
        """Return up to which step the rank's segment of a start was read; infinity if all of it was."""
        segment, step = self._read[rank]
        wanted = self.starts.members[start][rank]
        return step if segment == wanted else math.inf if segment > wanted else 0.0

    def _pairs(self, start: int, rank: int, others: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Yield the pairs of this rank and others that are compared: the lowest rank of the start, and one that is not."""
        lowest = self.starts.lowest(start)
        for other in others:
            if other != rank and lowest in (rank, other):
                yield lowest, other if rank == lowest else rank

    def _compare(self, start: int, other: int, ours: TensorBlock, theirs: TensorBlock) -> None:
        """Compare a tensor of the lowest rank with that of another one."""
        tensor = other, ours.info.name
        if ours.full != theirs.full and tensor not in self._not_compared:
            return  # the sampled elements of both have shown as much
        pair = Pair(ours, theirs)
        if not len(pair.steps):
            return
        alike = ours.info.shape == theirs.info.shape
        if alike and pair.has_evidence:
            self._compared.add(tensor)
        elif ours.info.numel or theirs.info.numel:
            self._not_compared.add(tensor)
        if alike:
            self._began[start] = min(int(pair.steps[0]), self._began.get(start, int(pair.steps[0])))
            self._add(start, other, pair.differences())

    def _add(self, start: int, rank: int, differences: Iterable[Difference]) -> None:
        for found in differences:
            place, lowest = (start, found.step), self.starts.lowest(start)
            spread = self._spreads.setdefault(
                (found.moment, found.slot, lowest), Spread(found, place, lowest, rank, found.ahead)
            )
            if place <= spread.place:
                spread.ahead = found.ahead or (spread.ahead if place == spread.place else 0)
            if (place, found.number) < (spread.place, spread.first.number):
                spread.first, spread.place, spread.rank = found, place, rank
            spread.ranks.add(rank)
            spread.steps |= found.elements.keys()
            spread.tensors.setdefault(found.tensor)
            spread.elements += sum(found.elements.values())

    def finding(self) -> Finding | None:
        """Return in what the ranks differ first, which leads to all other differences; None if they do not differ."""
        if not self._spreads:
            return None
        spread = min(self._spreads.values(), key=_in_order)
        first = spread.first
        ours, theirs = first.values or (None, None)
        start = spread.place[0]
        return Finding(
            step=first.step,
            tensor=first.tensor,
            slot=first.slot,
            index=first.index,
            recorded=theirs,
            expected=ours,
            cause=cause(
                spread,
                self.starts,
                at_start=first.step == self._began.get(start),
                counts=self._unequal_counts(start),
            ),
            elements=spread.elements,
            steps=len(spread.steps),
            last_step=max(spread.steps),
            tensors=tuple(spread.tensors),
            check=check_names.REPLICAS,
        )

    def _unequal_counts(self, start: int) -> str:
        """Return how many steps of a start each rank has; empty if all have the same, or if there may be more to come."""
        by_count: dict[int, list[str]] = {}
        for rank in self.starts.members[start]:
            if self._read_of(start, rank) < math.inf:
                return ""
            by_count.setdefault(self._counts[rank, start], []).append(str(rank))
        each = [(f"rank{'s' * (len(its) > 1)} {listed(its)}", f"{number:,}") for number, its in by_count.items()]
        (first, steps), *others = each
        said = [f"{first} recorded {steps} steps", *(f"{who} {number}" for who, number in others)]
        return ", ".join(said) if others else ""

    def notes(self, world_size: int) -> Iterator[str]:
        """Say what could not be compared."""
        each = [self._tensors[rank] for rank in self.ranks]
        alone = sorted(set[str]().union(*each) - each[0].intersection(*each))
        if alone:
            yield (
                f"{listed(alone)} {'is' if len(alone) == 1 else 'are'} not on every rank: nothing compares what ranks hold of "
                "that"
            )
        without = sorted({tensor for _, tensor in self._not_compared - self._compared})
        if without:
            yield (
                f"of {listed(without)} the ranks recorded no element in common, and no digest of the same elements: nothing "
                "compares what they hold of that"
            )
        for start, members in enumerate(self.starts.members):
            ranks = [str(rank) for rank in members]
            if len(ranks) == 1:
                yield f"{self.starts.described(start)} of rank {ranks[0]} has no counterpart on other ranks: nothing compares it"
                continue
            if len(ranks) < len(self.ranks):
                yield f"{self.starts.described(start)} was compared between ranks {listed(ranks)} only"
            if unequal := self._unequal_counts(start):
                yield f"{unequal} in {self.starts.name(start)}: nothing compares those that not all of them have"
        if len(self.ranks) < world_size:
            which = listed([str(rank) for rank in self.ranks])
            yield f"of {world_size} ranks {which} recorded: nothing is known of the others"


def _in_order(spread: Spread) -> tuple[object, ...]:
    """Sort what leads to something before it: by step, moment and tensor, and a state before the parameter computed from it."""
    first = spread.first
    return spread.place, first.moment, first.number, first.slot == PARAM, first.slot
