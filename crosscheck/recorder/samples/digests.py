"""Takes digests of elements that are not recorded: whatever changes these between two steps changes a digest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crosscheck.recorder.samples.digest_ranges import Quantity, Range
from crosscheck.recorder.samples.host_memory import INTEGERS, piece_of
from crosscheck.trace.digest import ROW, WORD, odd_numbers


@dataclass(frozen=True, slots=True)
class Digests:
    """The digests of one moment; they may still be on the device."""

    quantities: Sequence[Quantity]
    values: Tensor  # (len(quantities),) int64


class Digester:
    """Takes the digests of the same memory again and again."""

    def __init__(self, pieces: Sequence[tuple[Quantity, Tensor]]) -> None:
        """`pieces`: elements as vectors of integers that have their bits (see `as_integers`); there is one, and none is empty."""
        groups: dict[tuple[torch.dtype, torch.device], list[tuple[Quantity, Tensor]]] = {}
        for quantity, piece in pieces:
            groups.setdefault((piece.dtype, piece.device), []).append((quantity, piece))
        self._groups = [_group([piece for _, piece in members]) for members in groups.values()]
        self._quantities = [quantity for members in groups.values() for quantity, _ in members]
        self.on_host = all(device.type == "cpu" for _, device in groups)
        """Whether all of it is in the host's memory."""

    def compute(self) -> Digests:
        """Return the digests of what the memory holds now."""
        found = [group.digests() for group in self._groups]
        return Digests(self._quantities, found[0] if len(found) == 1 else torch.cat([each.cpu() for each in found]))


def as_integers(tensor: Tensor, covered: Range) -> tuple[Tensor, bool]:
    """Return the covered elements as a vector of integers, and whether it is a view; of a tensor with gaps it is a copy."""
    start, stop = covered
    dense = tensor.numel() == 0 or tensor.numel() == 1 + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    kept = tensor if dense else tensor.contiguous()
    flat = torch.as_strided(kept, (stop - start,), (1,), kept.storage_offset() + start)
    return flat.view(INTEGERS[flat.element_size()]), dense


class _OnHost:
    """Pieces in the host's memory, which are read where they are. Only the end of each, which is no whole row, is copied."""

    def __init__(self, pieces: Sequence[Tensor]) -> None:
        self._whole: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []  # rows of words, and where their sums go
        self._ends: list[tuple[NDArray[Any], NDArray[Any]]] = []  # elements, and where they are copied to
        arrays = [piece_of(piece) for piece in pieces]
        whole = [array.nbytes // (ROW * WORD) for array in arrays]
        self._rest = np.zeros((len(pieces), ROW), np.int64)
        # The first row of each piece; its last one is its end.
        self._starts = np.cumsum([0, *(count + 1 for count in whole)])
        self._sums = np.zeros(self._starts[-1], np.int64)
        numbers = [odd_numbers(count + 1) for count in whole]
        self._within, self._across = numbers[0][0], np.concatenate([across for _, across in numbers])
        for number, (array, count, start) in enumerate(zip(arrays, whole, self._starts, strict=False)):
            elements = count * ROW * WORD // array.itemsize
            if count:
                rows = array[:elements].view(np.int64).reshape(count, ROW)
                self._whole.append((rows, self._sums[start : start + count]))
            rest = array[elements:]
            self._ends.append((rest, self._rest[number].view(array.dtype)[: len(rest)]))

    def digests(self) -> Tensor:
        for rows, sums in self._whole:
            np.einsum("ij,j->i", rows, self._within, out=sums)
        for rest, copy in self._ends:
            copy[:] = rest
        self._sums[self._starts[1:] - 1] = np.einsum("ij,j->i", self._rest, self._within)
        return torch.from_numpy(np.add.reduceat(self._sums * self._across, self._starts[:-1]))


class _OnDevice:
    """Pieces of one format on one device, which are read with a few operations for all of them."""

    def __init__(self, pieces: Sequence[Tensor]) -> None:
        device, size = pieces[0].device, pieces[0].element_size()
        in_row = ROW // 2 if size == WORD else ROW * WORD // size  # elements
        rows = [-(-len(piece) // in_row) for piece in pieces]
        numbers = [odd_numbers(count) for count in rows]
        zeros = [piece.new_zeros(count * in_row - len(piece)) for piece, count in zip(pieces, rows, strict=True)]
        self._padded = [part for piece, rest in zip(pieces, zeros, strict=True) for part in (piece, rest)]
        self._buffer = pieces[0].new_empty(sum(rows) * in_row)
        self._within = torch.from_numpy(numbers[0][0].copy()).to(device)
        self._across = torch.from_numpy(np.concatenate([across for _, across in numbers])).to(device)
        self._last = torch.tensor(rows, device="cpu").cumsum(0).to(device) - 1  # row of each piece

    def digests(self) -> Tensor:
        torch.cat(self._padded, out=self._buffer)
        halves = self._buffer.dtype == torch.int64  # float64 is read as two words
        words = self._buffer.view(torch.int32).to(torch.int64) if halves else self._buffer.view(torch.int64)
        sums = ((words.view(-1, ROW) * self._within).sum(1) * self._across).cumsum(0)
        ends = sums[self._last]  # nothing here makes the host wait
        return torch.cat([ends[:1], ends[1:] - ends[:-1]])


def _group(pieces: Sequence[Tensor]) -> _OnHost | _OnDevice:
    on_host = pieces[0].device.type == "cpu" and pieces[0].element_size() < WORD
    return _OnHost(pieces) if on_host else _OnDevice(pieces)
