"""Makes series of values: one quantity of one tensor, in those rows of a block that have it."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import NamedTuple, cast

import torch
from torch import Tensor

from crosscheck.recorder.samples.columns import Columns
from crosscheck.recorder.samples.host_memory import INTEGERS
from crosscheck.recorder.samples.snapshot import Values


class ChangedFormat(Exception):
    """The values of a tensor have another dtype from a row on."""

    def __init__(self, number: int, row: int, old: torch.dtype, new: torch.dtype) -> None:
        self.number, self.row = number, row
        self.slot, self.step = "", 0  # for whoever knows them
        self.formats = " to ".join(str(dtype).removeprefix("torch.") for dtype in (old, new))
        super().__init__(f"tensor {number} changed its format at row {row}, from {self.formats}")


class Series(NamedTuple):
    rows: list[int]
    values: Tensor  # (len(rows), columns)

    def at(self, positions: Sequence[int]) -> "Series":
        """Return the series of those of its rows that are at these positions."""
        if not positions:
            return EMPTY
        return Series([self.rows[k] for k in positions], self.values[list(positions)].contiguous())


EMPTY = Series([], torch.zeros(0, 0, device="cpu"))


def by_tensor(
    columns: Mapping[int, Columns] | None, values: Sequence[Values | None], *, widen: bool = False
) -> dict[int, Series]:
    """Return the values of all rows, tensor by tensor. Without columns each tensor has one number, which becomes a float64.

    If the values of a tensor change their dtype, they are all put into the widest, which is exact, if told to `widen`; otherwise
    it raises ChangedFormat.
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
    return {number: _joined(number, each, widen=widen) for number, each in pieces.items()}


def _joined(number: int, pieces: Sequence[Series], *, widen: bool) -> Series:
    """Return one series of all rows of a tensor in ascending order."""
    dtypes = [piece.values.dtype for piece in pieces]
    if len(set(dtypes)) > 1:
        if not widen:
            first = min(pieces, key=lambda piece: piece.rows[0]).values.dtype
            other = min((piece for piece in pieces if piece.values.dtype != first), key=lambda piece: piece.rows[0])
            raise ChangedFormat(number, other.rows[0], first, other.values.dtype)
        widest = reduce(torch.promote_types, dtypes)
        pieces = [piece._replace(values=piece.values.to(widest)) for piece in pieces]
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
    integers = INTEGERS[a.element_size()]
    same = (a.contiguous().view(integers) == b.contiguous().view(integers)).all(dim=1)
    return cast(list[bool], same.tolist())
