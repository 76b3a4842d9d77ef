"""Keeps the largest eta of each slot and tensor over the steps, in a table whose size does not grow with the record."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crosscheck.criterion.batches import Batch
from crosscheck.criterion.elementwise import Judged
from crosscheck.criterion.octaves import NUM_OCTAVES
from crosscheck.report.survey import COLUMNS, TENSORS_DRAWN, TENSORS_LISTED, Survey

_CELLS = 2**21  # 16 MiB; with more than 10,000 tensors the columns become fewer
_NOTHING = -1.0  # a cell in which nothing was judged
Line = tuple[Literal["slot", "tensor"], str]


class EtaMap:
    """A line for each slot and each tensor, a column for each span of steps; and the distribution of eta by slot.

    When there are more steps than fit, two columns become one, so that a span is a power of two. Spans begin at its multiples,
    whatever was recorded first, so that the maps of two records can be joined.
    """

    def __init__(self) -> None:
        self._lines: dict[Line, int] = {}
        self._cells: NDArray[np.float64] = np.full((64, COLUMNS), _NOTHING)
        self._width = 1  # steps of a column
        self._low: int = -1  # number of the first column in use; none yet
        self._high: int = -1  # of the last one
        self._octaves: dict[str, NDArray[np.int64]] = {}
        self._largest: dict[str, dict[str, float]] = {}  # by tensor and slot

    def add(self, batch: Batch, judged: Judged) -> None:
        """Take in what became of a batch."""
        count = len(batch.origins)  # the other rows are padding
        etas = judged.eta[:count]
        etas = np.where((judged.checked[:count] > 0) | (etas > 0), etas, _NOTHING)
        names = [origin.block.info.name for origin in batch.origins]
        steps = np.fromiter((origin.step for origin in batch.origins), np.int64, count)
        starts = [row for row in range(count) if not row or names[row] != names[row - 1]]  # of the rows of each tensor
        tensors = [self._line("tensor", names[row]) for row in starts]
        slots = [self._line("slot", slot) for slot in batch.outputs]
        columns = self._columns_of(steps)
        np.maximum.at(self._cells, (np.repeat(tensors, np.diff([*starts, count])), columns), etas.max(axis=1))
        for output, (slot, line) in enumerate(zip(batch.outputs, slots, strict=True)):
            np.maximum.at(self._cells[line], columns, etas[:, output])
            self._octaves.setdefault(slot, np.zeros(NUM_OCTAVES, np.int64))[:] += judged.octaves[output]
        for row, largest in zip(starts, np.maximum.reduceat(etas, starts, axis=0).tolist(), strict=True):
            self._note_largest(names[row], batch.outputs, largest)

    def survey(self) -> Survey:
        """Return the map as a report has it."""
        used = slice(0, self._high - self._low + 1 if self._lines else 0)
        worst = sorted(self._largest, key=lambda name: -max(self._largest[name].values()))

        def line(key: Line) -> tuple[float | None, ...]:
            return tuple(None if eta < 0 else _short(eta) for eta in self._cells[self._lines[key], used].tolist())

        return Survey(
            first=self._low * self._width + 1 if self._lines else 1,
            width=self._width,
            slots={name: line((kind, name)) for kind, name in self._lines if kind == "slot"},
            tensors={name: line(("tensor", name)) for name in worst[:TENSORS_DRAWN]},
            octaves={slot: tuple(counts.tolist()) for slot, counts in self._octaves.items()},
            largest={
                name: {slot: _short(eta) for slot, eta in self._largest[name].items()}
                for name in worst[:TENSORS_LISTED]
            },
            num_tensors=len(worst),
        )

    def _line(self, kind: Literal["slot", "tensor"], name: str) -> int:
        """Return the number of a line, which may be new."""
        return self._lines.setdefault((kind, name), len(self._lines))

    def _note_largest(self, tensor: str, slots: Sequence[str], etas: Sequence[float]) -> None:
        for slot, eta in zip(slots, etas, strict=True):
            if eta >= 0:
                known = self._largest.setdefault(tensor, {})
                known[slot] = max(eta, known.get(slot, 0.0))

    def _columns_of(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the columns of these steps, and make room for them and for all lines."""
        first, last, width = int(steps.min()) - 1, int(steps.max()) - 1, self._width
        if self._high >= 0:
            first, last = min(first, self._low * width), max(last, (self._high + 1) * width - 1)
        most = max(1, min(COLUMNS, _CELLS // len(self._lines)))
        while last // width - first // width >= most:
            width *= 2
        rows = len(self._cells)
        while rows < len(self._lines):
            rows *= 2
        low, high = first // width, last // width
        if (rows, width) != (len(self._cells), self._width) or (low != self._low and self._high >= 0):
            self._move(rows, most, low, width)
        self._low, self._high, self._width = low, high, width
        return (steps - 1) // width - low

    def _move(self, rows: int, most: int, low: int, width: int) -> None:
        """Bring what is there into a table of so many rows and columns, whose first column has the number `low`."""
        old, self._cells = self._cells, np.full((rows, most), _NOTHING)
        if self._high < 0:
            return
        for number in range(self._low, self._high + 1):
            into = self._cells[: len(old), number * self._width // width - low]
            np.maximum(into, old[:, number - self._low], out=into)


def _short(eta: float) -> float:
    return float(f"{eta:.4g}")
