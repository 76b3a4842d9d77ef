"""Digests of the elements that are not recorded: whatever changes them between two steps changes a digest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from crosscheck.recorder.columns import level
from crosscheck.trace.digest import ROW, WORD, odd_numbers, row_sums
from crosscheck.trace.format import PARAM

Range = tuple[int, int]
"""From the first element of a tensor, as it lies in memory, up to the one that is not held any more."""
Named = tuple[int, str]
"""A tensor's number, and `param` or a slot of the state."""

_FOR_PARAMETERS = (
    3 / 4
)  # of the bytes, at most; what changes weights between steps is more common than what changes state
_ALIGNED = 1024  # elements; ranges begin and end at multiples


class Windows:
    """The elements of each quantity that are held while one part of the trace is recorded."""

    def __init__(self, held_bytes: int, turn: int) -> None:
        """`held_bytes`: to be read at each look. With each turn the windows move on."""
        self._left, self._turn = held_bytes, turn
        self.ranges: dict[Named, Range] = {}

    def include(self, quantities: Sequence[tuple[Named, Tensor]]) -> None:
        """Choose a range of each quantity that has none yet; later ones share what bytes are left."""
        parameters = [(name, tensor) for name, tensor in quantities if name[1] == PARAM]
        slots = [(name, tensor) for name, tensor in quantities if name[1] != PARAM]
        self._choose(parameters, int(self._left * _FOR_PARAMETERS))
        self._choose(slots, self._left)

    def _choose(self, quantities: Iterable[tuple[Named, Tensor]], held_bytes: int) -> None:
        new = [(name, tensor) for name, tensor in quantities if name not in self.ranges]
        height = level([tensor.nbytes for _, tensor in new], held_bytes)
        for name, tensor in new:
            numel, count = tensor.numel(), height // tensor.element_size()
            if count < numel:
                count = count // _ALIGNED * _ALIGNED
                start = self._turn % -(-numel // count) * count if count else 0
                self.ranges[name] = start, min(start + count, numel)
            else:
                self.ranges[name] = 0, numel
            self._left -= min(count, numel) * tensor.element_size()  # however short the last block of a tensor is
        self._left = max(self._left, 0)


@dataclass(frozen=True, slots=True)
class Sight:
    """The digests of one moment; they may still be on the device."""

    names: Sequence[Named]
    digests: Tensor  # (len(names),) int64


class Digester:
    """Takes the digests of the same memory again and again."""

    def __init__(self, pieces: Sequence[tuple[Named, Tensor]]) -> None:
        """`pieces`: elements as vectors of integers that have their bits (see `words`); none of them is empty."""
        groups: dict[tuple[torch.dtype, torch.device], list[tuple[Named, Tensor]]] = {}
        for name, piece in pieces:
            groups.setdefault((piece.dtype, piece.device), []).append((name, piece))
        self._groups = [_Group.of([piece for _, piece in members]) for members in groups.values()]
        self._names = [name for members in groups.values() for name, _ in members]

    def look(self) -> Sight:
        """Return the digests of what the memory holds now."""
        found = [group.digests() for group in self._groups]
        return Sight(self._names, found[0] if len(found) == 1 else torch.cat([each.cpu() for each in found or [_NONE]]))


def words(tensor: Tensor, held: Range) -> tuple[Tensor, bool]:
    """Return the held elements as a vector of integers, and whether it is a view of them: of a tensor with gaps it is a copy."""
    start, stop = held
    dense = tensor.numel() == 0 or tensor.numel() == 1 + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    kept = tensor if dense else tensor.contiguous()
    flat = torch.as_strided(kept, (stop - start,), (1,), kept.storage_offset() + start)
    return flat.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]), dense


_NONE = torch.zeros(0, dtype=torch.int64)


class _Group(NamedTuple):
    """Pieces of one format on one device, which are read with a few operations for all of them."""

    padded: list[Tensor]  # each followed by zeros up to a whole row of words
    buffer: Tensor
    within: Tensor
    across: Tensor  # by row of all pieces
    starts: Tensor  # the first row of each piece

    @classmethod
    def of(cls, pieces: Sequence[Tensor]) -> "_Group":
        device, size = pieces[0].device, pieces[0].element_size()
        in_row = ROW // 2 if size == WORD else ROW * WORD // size  # elements
        rows = [-(-len(piece) // in_row) for piece in pieces]
        numbers = [odd_numbers(count) for count in rows]
        zeros = [piece.new_zeros(count * in_row - len(piece)) for piece, count in zip(pieces, rows, strict=True)]
        return cls(
            padded=[part for piece, rest in zip(pieces, zeros, strict=True) for part in (piece, rest)],
            buffer=pieces[0].new_empty(sum(rows) * in_row),
            within=torch.from_numpy(numbers[0][0].copy()).to(device),
            across=torch.from_numpy(np.concatenate([across for _, across in numbers])).to(device),
            starts=torch.tensor([0, *rows[:-1]]).cumsum(0).to(device),
        )

    def digests(self) -> Tensor:
        torch.cat(self.padded, out=self.buffer)
        halves = self.buffer.dtype == torch.int64  # float64 is read as two words
        words = self.buffer.view(torch.int32).to(torch.int64) if halves else self.buffer.view(torch.int64)
        table = words.view(-1, ROW)
        if self.buffer.device.type == "cpu":  # NumPy reads each word once and writes nothing: torch takes longer
            sums = row_sums(table.numpy(), self.within.numpy()) * self.across.numpy()
            return torch.from_numpy(np.add.reduceat(sums, self.starts.numpy()))
        sums = ((table * self.within).sum(1) * self.across).cumsum(0)
        ends = torch.cat([sums[self.starts[1:] - 1], sums[-1:]])  # nothing here makes the host wait
        return torch.cat([ends[:1], ends[1:] - ends[:-1]])


def holdable(ranges: Mapping[Named, Range], name: Named) -> bool:
    """Return whether there is anything of a quantity to hold."""
    start, stop = ranges.get(name, (0, 0))
    return stop > start
