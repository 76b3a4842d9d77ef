"""The rows that disagree: a bounded sample of all of them, and where they are."""

from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import jax
import numpy as np
from numpy.typing import NDArray

from crosscheck.criterion.batches import ROWS, Batch
from crosscheck.criterion.elementwise import Judged
from crosscheck.rules.inputs import Inputs
from crosscheck.tolerance import FAIL

T = TypeVar("T")
_KINDS = 1024  # kinds of rows of which some are kept, 8 KiB a row


@dataclass(slots=True)
class Extent:
    """How far the disagreement of one output of one tensor spreads over the steps."""

    first: int
    last: int
    steps: set[int] = field(default_factory=set[int])


@dataclass(frozen=True, slots=True)
class First:
    """The element that shows the disagreement of one output first; of several in that step, the worst."""

    step: int
    eta: float
    tensor: str
    index: tuple[int, ...]
    element: int  # of its row
    row: Inputs  # a batch of one


class Failing:
    """Gathers the rows of one formula that disagree.

    Rows are of one kind if they are of the same tensor and the same outputs disagree. Of each kind the first and the last
    row are kept, and as many between them as there is room for, so that all tensors, outputs, parameter groups and times
    are in the sample.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, None] = {}
        """All tensors that were judged, whether they agree or not."""
        self.spread: dict[tuple[str, str], Extent] = {}
        """By output and tensor: where it disagrees."""
        self.first: dict[str, First] = {}
        """By output."""
        self._rows: dict[tuple[str, tuple[bool, ...]], list[tuple[int, Inputs]]] = {}

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, batch: Batch, judged: Judged) -> None:
        """Take in what became of a batch."""
        self.tensors |= dict.fromkeys(origin.block.info.name for origin in batch.origins)
        over = ~(judged.eta[: len(batch.origins)] <= FAIL)
        for output, name in enumerate(batch.outputs):
            self._note_first(batch, judged, output, name, np.flatnonzero(over[:, output]))
        rows_of: dict[tuple[str, tuple[bool, ...]], list[int]] = {}
        for row in np.flatnonzero(over.any(axis=1)):
            tensor, step = batch.origins[row].block.info.name, batch.origins[row].step
            rows_of.setdefault((tensor, tuple(map(bool, over[row]))), []).append(int(row))
            for output in np.flatnonzero(over[row]):
                place = self.spread.setdefault((batch.outputs[output], tensor), Extent(step, step))
                place.first, place.last = min(place.first, step), max(place.last, step)
                place.steps.add(step)
        for kind, rows in rows_of.items():
            if kind in self._rows or len(self._rows) < _KINDS:
                kept = self._rows.setdefault(kind, [])
                for row in _evenly(rows, self._room):
                    kept.append((batch.origins[row].step, _alone(batch.inputs, row)))
                if len(kept) > 2 * self._room:
                    kept[:] = _evenly(kept, self._room)

    def _note_first(self, batch: Batch, judged: Judged, output: int, name: str, rows: NDArray[np.int64]) -> None:
        """Keep the first element of an output, if it is in one of these rows of the batch."""
        if not len(rows):
            return
        row = min(map(int, rows), key=lambda row: (batch.origins[row].step, -judged.eta[row, output]))
        origin, eta, element = batch.origins[row], float(judged.eta[row, output]), int(judged.element[row, output])
        known = self.first.get(name)
        if known is None or (origin.step, -eta) < (known.step, -known.eta):
            index = origin.block.position(origin.column + element)
            tensor = origin.block.info.name
            self.first[name] = First(origin.step, eta, tensor, index, element, _alone(batch.inputs, row))

    @property
    def _room(self) -> int:
        """Return how many rows of each kind are kept."""
        return max(2, ROWS // max(1, len(self._rows)))

    def sample(self) -> Inputs:
        """Return a batch: some of the rows, filled up with rows of width zero, so that compiled code serves again.

        Among those of width zero, of which nothing is judged, are the rows of `first`: from the row `place_of_first` on.
        """
        rows = [row for _, row in self._chosen()]
        others = [replace(first.row, width=np.zeros(1, np.int32)) for first in self.first.values()]
        others += [replace(rows[0], width=np.zeros(1, np.int32))] * (ROWS - len(rows) - len(others))
        return jax.tree.map(_joined, *rows, *others)

    @property
    def place_of_first(self) -> int:
        """Return at which row of `sample` those of `first` begin, in their order."""
        return len(self._chosen())

    def steps(self) -> NDArray[np.int64]:
        """Return the steps of the rows of `sample`."""
        return np.resize(np.array([step for step, _ in self._chosen()], np.int64), ROWS)

    def _chosen(self) -> list[tuple[int, Inputs]]:
        return _evenly(
            [row for kept in self._rows.values() for row in _evenly(kept, self._room)], ROWS - len(self.first)
        )


def _joined(*arrays: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate(arrays)


def _evenly(items: list[T], count: int) -> list[T]:
    """Return at most `count` of the items, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[int(k)] for k in np.unique(np.linspace(0, len(items) - 1, count).round().astype(int))]


def _alone(inputs: Inputs, row: int) -> Inputs:
    """Return a copy of one row, as a batch of one."""

    def copied(array: NDArray[Any]) -> NDArray[Any]:
        return array[row : row + 1].copy()

    return jax.tree.map(copied, inputs)
