"""Rows of the same chosen elements, gathered step by step and laid out tensor by tensor as the trace wants them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from torch import Tensor

from crosscheck.errors import UnsupportedOptimizer
from crosscheck.recorder.columns import Columns
from crosscheck.recorder.digests import Named, Sight
from crosscheck.recorder.view import Chosen, Moment, Picked
from crosscheck.trace.format import DIGEST, PARAM, Block, SlotRows, TensorRows, key


@dataclass(frozen=True, slots=True)
class Row:
    """What was seen of one step."""

    step: int
    grad: Picked  # as consumed
    backward: Picked | None  # as backward left it, where that was seen
    before: Moment
    after: Moment
    sights: tuple[Sight | None, Sight | None] = (None, None)  # before and after the step

    @property
    def nbytes(self) -> int:
        gradients = sum(picked.nbytes for picked in (self.grad, self.backward) if picked is not None)
        return gradients + self.before.nbytes + self.after.nbytes


class _Series(NamedTuple):
    """One quantity of one tensor, in the rows where it is there."""

    rows: list[int]
    values: Tensor  # (rows, columns)


_NEVER = _Series([], torch.zeros(0, 0, device="cpu"))


@dataclass(slots=True)
class RowBlock:
    """A block in the making."""

    chosen: Chosen
    rows: list[Row] = field(default_factory=list[Row])

    def lay_out(self, number: int, arrays: dict[str, Tensor]) -> Block:
        """Put the block's arrays into `arrays` and return its description; `number` is its position in the part.

        Raises UnsupportedOptimizer for a quantity that changes its format.
        """
        columns = self.chosen.columns
        grads = _by_tensor(columns, [row.grad for row in self.rows])
        backwards = _by_tensor(columns, [row.backward for row in self.rows])
        befores, afters = [row.before.apart() for row in self.rows], [row.after.apart() for row in self.rows]
        of_shape, scalars = (dict.fromkeys(n for m in (*befores, *afters) for n in m[kind]) for kind in (0, 1))
        before, after = (
            {name: _by_tensor(columns, [slots.get(name) for slots, _ in moments]) for name in of_shape}
            for moments in (befores, afters)
        )
        one_before, one_after = (
            {name: _by_tensor(None, [ones.get(name) for _, ones in moments]) for name in scalars}
            for moments in (befores, afters)
        )
        boundaries = self._boundaries()
        digests = self._digests(boundaries)
        ranges = {} if self.chosen.windows is None else self.chosen.windows.ranges
        tensors: list[TensorRows] = []
        for tensor, its in columns.items():

            def put(quantity: str, values: Tensor, tensor: int = tensor) -> None:
                arrays[key(number, tensor, quantity)] = values

            def store(
                prefix: str, old: Mapping[int, _Series], new: Mapping[int, _Series], tensor: int = tensor
            ) -> SlotRows:
                name = prefix.rstrip(".") or PARAM
                its_before, its_after = old.get(tensor, _NEVER), new.get(tensor, _NEVER)
                stored = _unlike(its_before, its_after)
                if stored:
                    arrays[key(number, tensor, f"{prefix}before")] = its_before.values[stored].contiguous()
                if its_after.rows:
                    arrays[key(number, tensor, f"{prefix}after")] = its_after.values
                if (tensor, name) in digests:
                    arrays[key(number, tensor, f"{prefix}{DIGEST}")] = digests[tensor, name]
                return SlotRows(
                    before=tuple(its_before.rows[k] for k in stored),
                    absent_before=self._others(its_before.rows),
                    absent_after=self._others(its_after.rows),
                    held=(ranges[tensor, name],) if (tensor, name) in digests else (),
                )

            grad = grads.get(tensor, _NEVER)
            if grad.rows:
                put("grad", grad.values)
            backward = _different(backwards.get(tensor, _NEVER), grad)
            if backward.rows:
                put("backward", backward.values)
            if not (its.whole or self.chosen.full):
                put("coordinates", its.ascending.reshape(1, -1))
            parameter = store("", before[PARAM], after[PARAM])
            slots = {
                name: store(f"{name}.", before[name], after[name])
                for name in of_shape
                if name != PARAM and (tensor in before[name] or tensor in after[name])
            }
            slots |= {
                name: store(f"{name}.", one_before[name], one_after[name]).model_copy(update={"scalar": True})
                for name in scalars
                if tensor in one_before[name] or tensor in one_after[name]
            }
            tensors.append(
                TensorRows(
                    tensor=tensor,
                    range=None if its.whole or not self.chosen.full else its.bounds,
                    no_grad=self._others(grad.rows),
                    backward=tuple(backward.rows),
                    before=parameter.before,
                    slots=slots,
                    held=parameter.held or (),
                )
            )
        return Block(
            full=self.chosen.full,
            steps=tuple(row.step for row in self.rows),
            tensors=tuple(tensors),
            held_at=None if len(boundaries) in (0, len(self.rows) + 1) else boundaries,
        )

    def _others(self, rows: Iterable[int]) -> tuple[int, ...]:
        """Return the rows that are not among these."""
        there = set(rows)
        return tuple(row for row in range(len(self.rows)) if row not in there)

    def _boundaries(self) -> tuple[int, ...]:
        """Return between which rows digests were taken, on both sides where there is a row on both."""
        rows = len(self.rows)
        left = [True, *(row.sights[1] is not None for row in self.rows)]
        found = [*(row.sights[0] is not None for row in self.rows), True]
        return tuple(k for k in range(rows + 1) if left[k] and found[k])

    def _digests(self, boundaries: Sequence[int]) -> dict[Named, Tensor]:
        """Return the digests before and after each row by what they are of; they are fetched from the device at once."""
        groups: dict[int, list[tuple[int, int, Sight]]] = {}  # of sights of the same quantities
        for k in boundaries:
            for row, moment in ((k - 1, 1), (k, 0)):
                sight = self.rows[row].sights[moment] if 0 <= row < len(self.rows) else None
                if sight is not None:
                    groups.setdefault(id(sight.names), []).append((row, moment, sight))
        tables: dict[Named, Tensor] = {}
        for members in groups.values():
            fetched = torch.stack([sight.digests for *_, sight in members]).cpu()
            places = torch.tensor([(row, moment) for row, moment, _ in members], device="cpu").unbind(1)
            for name, column in zip(members[0][2].names, fetched.unbind(1), strict=True):
                table = tables.setdefault(name, torch.zeros(len(self.rows), 2, dtype=torch.int64, device="cpu"))
                table[places] = column
        return tables


def _by_tensor(columns: Mapping[int, Columns] | None, picked: Sequence[Picked | None]) -> dict[int, _Series]:
    """Return what was picked in each row, tensor by tensor. Without columns each tensor has one number, as a float64."""
    chunks: dict[tuple[tuple[int, ...], torch.dtype], tuple[list[int], list[Tensor]]] = {}
    for row, each in enumerate(picked):
        for numbers, vector in each.chunks if each is not None else ():
            rows, vectors = chunks.setdefault((numbers, vector.dtype), ([], []))
            rows.append(row)
            vectors.append(vector)
    pieces: dict[int, list[_Series]] = {}
    for (numbers, _), (rows, vectors) in chunks.items():
        table = torch.stack(vectors).cpu()
        table = table.to(torch.float64) if columns is None else table
        widths = [1 if columns is None else columns[number].count for number in numbers]
        for number, values in zip(numbers, torch.split(table, widths, dim=1), strict=True):
            ordered = values if columns is None else columns[number].sort(values)
            pieces.setdefault(number, []).append(_Series(rows, ordered))
    return {number: _joined(each) for number, each in pieces.items()}


def _joined(pieces: Sequence[_Series]) -> _Series:
    formats = sorted({str(piece.values.dtype).removeprefix("torch.") for piece in pieces})
    if len(formats) > 1:
        raise UnsupportedOptimizer(f"a tensor of the state changed its format, from {' to '.join(formats)} or back")
    if len(pieces) == 1:
        return _Series(pieces[0].rows, pieces[0].values.contiguous())
    rows = [row for piece in pieces for row in piece.rows]
    order = sorted(range(len(rows)), key=lambda k: rows[k])
    return _Series([rows[k] for k in order], torch.cat([piece.values for piece in pieces])[order].contiguous())


def _unlike(before: _Series, after: _Series) -> list[int]:
    """Return which of the values before a step are not, bit for bit, what the row before left."""
    position = {row: k for k, row in enumerate(after.rows)}
    carried = [k for k, row in enumerate(before.rows) if row - 1 in position]
    changed = set(range(len(before.rows))) - set(carried)
    if carried:
        left = after.values[[position[before.rows[k] - 1] for k in carried]]
        same = _bitwise_equal(before.values[carried], left)
        changed |= {k for k, alike in zip(carried, same, strict=True) if not alike}
    return sorted(changed)


def _different(backward: _Series, grad: _Series) -> _Series:
    """Return the rows of gradients as backward left them that are not, bit for bit, the ones consumed."""
    position = {row: k for k, row in enumerate(grad.rows)}
    both = [k for k, row in enumerate(backward.rows) if row in position]
    unlike = set(range(len(backward.rows))) - set(both)
    if both:
        same = _bitwise_equal(backward.values[both], grad.values[[position[backward.rows[k]] for k in both]])
        unlike |= {k for k, alike in zip(both, same, strict=True) if not alike}
    kept = sorted(unlike)
    return _Series([backward.rows[k] for k in kept], backward.values[kept].contiguous()) if kept else _NEVER


def _bitwise_equal(a: Tensor, b: Tensor) -> list[bool]:
    """Compare row by row and bit for bit: NaN equals itself, and 0 differs from -0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return [False] * len(a)
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    same = (a.contiguous().view(integers) == b.contiguous().view(integers)).all(dim=1)
    return cast(list[bool], same.tolist())
