"""Makes series of values: one quantity of one tensor, in those rows of a block that have it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from crosscheck.errors import UnsupportedOptimizer
from crosscheck.recorder.samples.columns import Columns
from crosscheck.recorder.samples.snapshot import Values


class Series(NamedTuple):
    rows: list[int]
    values: Tensor  # (len(rows), columns)

    def at(self, positions: Sequence[int]) -> "Series":
        """Return the series of those of its rows that are at these positions."""
        if not positions:
            return EMPTY
        return Series([self.rows[k] for k in positions], self.values[list(positions)].contiguous())


EMPTY = Series([], torch.zeros(0, 0, device="cpu"))


def by_tensor(columns: Mapping[int, Columns] | None, values: Sequence[Values | None]) -> dict[int, Series]:
    """Return the values of all rows, tensor by tensor. Without columns each tensor has one number, which becomes a float64.

    Raises UnsupportedOptimizer for values that change their dtype.
    """
    chunks: dict[tuple[tuple[int, ...], torch.dtype], tuple[list[int], list[Tensor]]] = {}
    for row, each in enumerate(values):
        for numbers, vector in each.chunks if each is not None else ():
            rows, vectors = chunks.setdefault((numbers, vector.dtype), ([], []))
            rows.append(row)
            vectors.append(vector)
    pieces: dict[int, list[Series]] = {}
    for (numbers, _), (rows, vectors) in chunks.items():
        table = torch.stack(vectors).cpu()
        table = table.to(torch.float64) if columns is None else table
        widths = [1 if columns is None else columns[number].count for number in numbers]
        for number, found in zip(numbers, torch.split(table, widths, dim=1), strict=True):
            ordered = found if columns is None else columns[number].sort(found)
            pieces.setdefault(number, []).append(Series(rows, ordered))
    return {number: _joined(each) for number, each in pieces.items()}


def _joined(pieces: Sequence[Series]) -> Series:
    """Return one series of all rows in ascending order."""
    dtypes = sorted({str(piece.values.dtype).removeprefix("torch.") for piece in pieces})
    if len(dtypes) > 1:
        raise UnsupportedOptimizer(f"a tensor of the state changed its format, from {' to '.join(dtypes)} or back")
    if len(pieces) == 1:
        return Series(pieces[0].rows, pieces[0].values.contiguous())
    together = Series([row for piece in pieces for row in piece.rows], torch.cat([piece.values for piece in pieces]))
    return together.at(sorted(range(len(together.rows)), key=lambda k: together.rows[k]))


def unequal(series: Series, other: Series, *, shift: int = 0) -> list[int]:
    """Return the positions in `series` whose values are not, bit for bit, those of another series `shift` rows on.

    A position is returned as well if the other series lacks that row.
    """
    position = {row: k for k, row in enumerate(other.rows)}
    shared = [k for k, row in enumerate(series.rows) if row + shift in position]
    found = set(range(len(series.rows))).difference(shared)
    if shared:
        others = other.values[[position[series.rows[k] + shift] for k in shared]]
        same = _bitwise_equal(series.values[shared], others)
        found |= {k for k, alike in zip(shared, same, strict=True) if not alike}
    return sorted(found)


def _bitwise_equal(a: Tensor, b: Tensor) -> list[bool]:
    """Compare row by row and bit for bit: NaN equals itself, and 0 differs from -0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return [False] * len(a)
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    same = (a.contiguous().view(integers) == b.contiguous().view(integers)).all(dim=1)
    return cast(list[bool], same.tolist())
