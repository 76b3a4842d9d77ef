"""Describes a sample, and holds the copies of its elements that are taken at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from crosscheck.recorder.samples.columns import Columns
from crosscheck.recorder.samples.digest_ranges import DigestRanges
from crosscheck.recorder.samples.digests import Digests
from crosscheck.recorder.samples.host_memory import Piece, is_readable, join, piece_of

Numbers = tuple[int, ...]
"""Numbers of tensors, which are their positions in the trace's list."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The elements that are recorded of some steps. It holds none of the tensors."""

    columns: Mapping[int, Columns]
    """The elements of each tensor, by the tensor's number."""
    digest_ranges: DigestRanges | None
    """Which other elements are covered by digests; None: no digests are taken."""
    full: bool
    """It is of a single step that is recorded in full: whole tensors, or blocks of those that are too large."""


@dataclass(slots=True)
class Values:
    """Copies of a sample's elements, one vector for each dtype and device, with the numbers of the tensors that it joins."""

    chunks: list[tuple[Numbers, Tensor]] = field(default_factory=list[tuple[Numbers, Tensor]])

    @property
    def nbytes(self) -> int:
        return sum(vector.nbytes for _, vector in self.chunks)


class BucketEntry(NamedTuple):
    """What one piece of a bucket's vector holds."""

    slot: str
    scalar: bool  # one number a tensor, such as Adam's step
    numbers: Numbers


@dataclass(slots=True)
class Bucket:
    """Views of all parameters and state of one dtype on one device, which are copied together."""

    views: list[Tensor] = field(default_factory=list[Tensor])
    pieces: list[Piece] = field(default_factory=list[Piece])  # the same, of those that can be read where they are
    entries: list[BucketEntry] = field(default_factory=list[BucketEntry])
    sizes: list[int] = field(default_factory=list[int])  # of the entries

    def add(self, entry: BucketEntry, views: list[Tensor]) -> None:
        self.views += views
        self.pieces += [piece_of(view) for view in views if is_readable(view)]
        self.entries.append(entry)
        self.sizes.append(sum(view.numel() for view in views))

    def copy(self) -> Tensor:
        """Return what the views show now, as one vector."""
        if len(self.pieces) == len(self.views):
            return join(self.pieces, self.views[0].dtype)
        return torch.cat(self.views)


@dataclass(slots=True)
class Snapshot:
    """A sample's elements of parameters and state, before or after a step. State that does not exist then is left out."""

    vectors: list[tuple[Bucket, Tensor]]
    counts: dict[str, Values] = field(default_factory=dict[str, Values])  # by slot: state that is a plain number
    digests: Digests | None = None

    @property
    def nbytes(self) -> int:
        return sum(vector.nbytes for _, vector in self.vectors)

    def by_slot(self) -> tuple[dict[str, Values], dict[str, Values]]:
        """Return the parameters and the state of their shape; and separately state of one number a tensor."""
        elementwise: dict[str, Values] = {}
        scalars: dict[str, Values] = {}
        for bucket, vector in self.vectors:
            for entry, piece in zip(bucket.entries, torch.split(vector, bucket.sizes), strict=True):
                values = (scalars if entry.scalar else elementwise).setdefault(entry.slot, Values())
                values.chunks.append((entry.numbers, piece))
        for slot, values in self.counts.items():
            scalars.setdefault(slot, Values()).chunks.extend(values.chunks)
        return elementwise, scalars
