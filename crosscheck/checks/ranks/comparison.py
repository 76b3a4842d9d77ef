"""Compares what the ranks of a run recorded, while their traces are read. NumPy only."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from crosscheck.checks.ranks.differences import Attempt, Difference, Moment, common_steps, of_attempts, of_blocks
from crosscheck.report.finding import REPLICAS, Finding
from crosscheck.text import listed
from crosscheck.trace.format import PARAM, Option, Part
from crosscheck.trace.tensors import TensorBlock

Place = tuple[int, float]
"""The number of a segment, and a step in it."""


@dataclass(slots=True)
class _Spread:
    """All differences of one kind."""

    first: Difference
    place: Place
    rank: int  # of `first`, beside the lowest one
    ahead: int  # `Difference.ahead`, of any difference at that place
    ranks: set[int] = field(default_factory=set[int])
    steps: set[int] = field(default_factory=set[int])
    tensors: dict[str, None] = field(default_factory=dict[str, None])
    elements: int = 0


class Comparison:
    """Holds each rank against the lowest one, bit for bit.

    What was compared with all others is let go: of ranks that are read at the same pace, about a part each is in memory.
    """

    def __init__(self, starts: Mapping[int, Sequence[int]]) -> None:
        """`starts`: by rank, the first step of each of its segments."""
        self.ranks = tuple(sorted(starts))
        self.rows = 0
        """Rows of tensors that were compared."""
        self._fitting = _number_of_alike(list(starts.values()))
        self._more = any(len(its) > self._fitting for its in starts.values())
        self._read: dict[int, Place] = dict.fromkeys(self.ranks, (0, 0.0))  # up to where
        self._blocks: defaultdict[tuple[int, str, bool], list[tuple[int, TensorBlock]]] = defaultdict(list)
        self._attempts: dict[Place, dict[int, Attempt]] = {}
        self._tensors: defaultdict[int, set[str]] = defaultdict(set)  # by rank
        self._spreads: dict[tuple[Moment, str], _Spread] = {}
        self._counts = Counter[tuple[int, int]]()  # of steps, by rank and segment
        self._began: dict[int, int] = {}  # by segment: the first step that was compared

    def __bool__(self) -> bool:
        """Return whether ranks differ."""
        return bool(self._spreads)

    def add_steps(self, rank: int, segment: int, part: Part, options: Sequence[Sequence[Mapping[str, Option]]]) -> None:
        """Take in the steps of a part, before its tensors."""
        done = min(self._read.values())
        for key, waiting in self._blocks.items():
            waiting[:] = [(whose, block) for whose, block in waiting if (key[0], block.steps[-1].step) > done]
        self._attempts = {place: by_rank for place, by_rank in self._attempts.items() if place > done}
        self._read[rank] = segment, part.steps[-1].step
        self._counts[rank, segment] += len(part.steps)
        self._tensors[rank] |= {tensor.name for tensor in part.tensors}
        if segment >= self._fitting:
            return
        for step, groups in zip(part.steps, options, strict=True):
            by_rank = self._attempts.setdefault((segment, step.step), {})
            by_rank[rank] = Attempt(step.applied, groups)
            for first, other in self._pairs(rank, by_rank):
                self._add(segment, other, of_attempts(step.step, by_rank[first], by_rank[other]))

    def add_tensor(self, rank: int, segment: int, block: TensorBlock) -> None:
        """Take in the rows of a tensor."""
        if segment >= self._fitting:
            return
        waiting = self._blocks[segment, block.info.name, block.full]
        for whose, seen in waiting:
            for first, other in self._pairs(rank, [whose]):
                blocks = {rank: block, whose: seen}
                steps = common_steps(blocks[first], blocks[other])[0]
                if len(steps) and block.info.shape == seen.info.shape:
                    self.rows += len(steps)
                    self._began[segment] = min(int(steps[0]), self._began.get(segment, int(steps[0])))
                    self._add(segment, other, of_blocks(blocks[first], blocks[other]))
        waiting.append((rank, block))

    def end(self, rank: int, segment: int) -> None:
        """Take in that nothing more of the segment comes from this rank."""
        self._read[rank] = segment, np.inf

    def _pairs(self, rank: int, others: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Yield the pairs of this rank and others that are compared: the lowest rank, and one that is not."""
        lowest = self.ranks[0]
        for other in others:
            if other != rank and lowest in (rank, other):
                yield lowest, other if rank == lowest else rank

    def _add(self, segment: int, rank: int, differences: Iterable[Difference]) -> None:
        for found in differences:
            place = segment, found.step
            spread = self._spreads.setdefault((found.moment, found.slot), _Spread(found, place, rank, found.ahead))
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
        return Finding(
            step=first.step,
            tensor=first.tensor,
            slot=first.slot,
            index=first.index,
            recorded=theirs,
            expected=ours,
            cause=f"{self._who(spread)}: {self._what(spread)}",
            elements=spread.elements,
            steps=len(spread.steps),
            last_step=max(spread.steps),
            tensors=tuple(spread.tensors),
            check=REPLICAS,
        )

    def _who(self, spread: _Spread) -> str:
        ranks = [str(rank) for rank in sorted(spread.ranks)]
        who = f"ranks {listed(ranks)} differ" if len(ranks) > 1 else f"rank {ranks[0]} differs"
        return f"{who} from rank {self.ranks[0]}"

    def _what(self, spread: _Spread) -> str:
        first = spread.first
        if first.moment is Moment.GRADIENT:
            differ = "the gradients that the optimizers consumed are not the same, although the parameters were"
            return f"{differ}. {self._why_gradients_differ(spread)}"
        if first.moment is Moment.APPLIED:
            return "one skipped the step and the other did not"
        if first.moment is Moment.OPTIONS:
            return f"{first.slot} is not the same"
        unseen = "" if first.values else ", in elements that are not sampled: their digest is another"
        if first.moment is Moment.AFTER:
            return (
                f"{first.slot} is not the same after the step, although all that is on record of what it was computed from "
                f"is{unseen}"
            )
        if first.step == self._began.get(spread.place[0]):
            return f"{first.slot} was not the same before the first step on record{unseen}: they did not start alike"
        return f"{first.slot} was changed between two steps on some ranks and not on others{unseen}"

    def _why_gradients_differ(self, spread: _Spread) -> str:
        step, lowest, other = spread.first.step, self.ranks[0], spread.rank
        if spread.ahead:
            behind, ahead = (lowest, other) if spread.ahead > 0 else (other, lowest)
            return (
                f"That of step {step} on rank {ahead} is that of step {step + 1} on rank {behind}: rank {ahead} did not take a "
                f"step that rank {behind} took"
            )
        unequal = self._unequal_counts(spread.place[0])
        return (
            "Either they were not averaged over the ranks (a no_sync that never ends, parameters that DDP does not know, no "
            f"all-reduce), or they are of different iterations{unequal and f': {unequal}'}"
        )

    def _unequal_counts(self, segment: int) -> str:
        """Return how many steps of a segment each rank has; empty if all have the same, or if there may be more to come."""
        by_count: dict[int, list[str]] = {}
        for rank in self.ranks:
            if self._read[rank] < (segment, math.inf):
                return ""
            by_count.setdefault(self._counts[rank, segment], []).append(str(rank))
        each = [(f"rank{'s' * (len(its) > 1)} {listed(its)}", f"{number:,}") for number, its in by_count.items()]
        (first, steps), *others = each
        said = [f"{first} recorded {steps} steps", *(f"{who} {number}" for who, number in others)]
        return ", ".join(said) if others else ""

    def notes(self, world_size: int) -> Iterator[str]:
        """Say what could not be compared."""
        each = [self._tensors[rank] for rank in self.ranks]
        alone = sorted(set[str]().union(*each) - each[0].intersection(*each))
        if alone:
            yield f"{listed(alone)} {'is' if len(alone) == 1 else 'are'} not on every rank: nothing compares what ranks hold of that"
        for segment in range(self._fitting):
            if unequal := self._unequal_counts(segment):
                yield f"{unequal} in segment-{segment + 1:04}: nothing compares those that not all of them have"
        if self._more:
            yield f"from segment-{self._fitting + 1:04} on, the ranks' segments do not begin alike and were not compared"
        if len(self.ranks) < world_size:
            which = listed([str(rank) for rank in self.ranks])
            yield f"of {world_size} ranks {which} recorded: nothing is known of the others"


def _in_order(spread: _Spread) -> tuple[object, ...]:
    """Sort what leads to something before it: by step, moment and tensor, and a state before the parameter computed from it."""
    first = spread.first
    return spread.place, first.moment, first.number, first.slot == PARAM, first.slot


def _number_of_alike(starts: Sequence[Sequence[int]]) -> int:
    """Return how many segments, from the first on, begin with the same step on all ranks."""
    alike = 0
    for firsts in zip(*starts, strict=False):
        if len(set(firsts)) > 1:
            break
        alike += 1
    return alike
