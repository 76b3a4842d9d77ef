"""Gathers the steps that wait to be committed as one part."""

import time
from collections.abc import Iterable

from torch import Tensor

from crosscheck.errors import UnsupportedOptimizer
from crosscheck.recorder.parts.row_blocks import Row, RowBlock
from crosscheck.recorder.parts.series import ChangedFormat
from crosscheck.recorder.parts.step_records import StepRecord, steps_of
from crosscheck.recorder.samples import sampler
from crosscheck.trace.format import Part, TensorInfo

PART_BYTES = 32 * 2**20
"""Bytes in memory that have a part committed earlier."""
_PART_SECONDS = 60.0  # after which a part is committed in any case: what a killed run loses at most
_HELD_TWICE = PART_BYTES // 2  # what may wait in memory while as much is written beside the training


class Pending:
    """Step records, and the rows that belong to them."""

    def __init__(self) -> None:
        self.records: list[StepRecord] = []
        self._blocks: list[RowBlock] = []
        self._nbytes = 0
        self._committed_at = time.monotonic()

    def add(self, record: StepRecord, rows: Iterable[Row]) -> None:
        """Take in a step's record and its rows; rows of the same sample go to one block."""
        for row in rows:
            block = next((block for block in self._blocks if block.sample is row.sample), None)
            if block is None:
                block = RowBlock(row.sample)
                self._blocks.append(block)
            block.rows.append(row)
            self._nbytes += row.nbytes
        self.records.append(record)  # last: rows without a record are left out, a record needs its rows

    def drop_last(self) -> None:
        """Forget the last step."""
        self.records.pop()

    @property
    def due(self) -> bool:
        """Return whether it is time to commit."""
        return (
            len(self.records) >= sampler.TURN_STEPS
            or self._nbytes >= PART_BYTES
            or time.monotonic() - self._committed_at >= _PART_SECONDS
        )

    @property
    def is_small(self) -> bool:
        """Return whether there is room for as much again while this is written."""
        return self._nbytes <= _HELD_TWICE

    def take(self, tensors: tuple[TensorInfo, ...]) -> tuple[Part, dict[str, Tensor]] | None:
        """Return the part that waits with its arrays, and start anew; None if nothing waits.

        Raises UnsupportedOptimizer for state that changes its dtype; the steps before that go on waiting.
        """
        records, blocks = self.records, self._blocks
        self.records, self._blocks, self._nbytes, self._committed_at = [], [], 0, time.monotonic()
        if not records:
            return None
        problem = ""
        while True:
            blocks, arrays = _with_records(blocks, records), dict[str, Tensor]()
            try:
                laid_out = tuple(block.lay_out(number, arrays) for number, block in enumerate(blocks))
                break
            except ChangedFormat as changed:
                name = tensors[changed.number].name
                problem = f"{changed.slot} of {name} changed its format, from {changed.formats}, by step {changed.step}"
                records = [record for record in records if record.step < changed.step]
        if problem:
            self.records, self._blocks = records, blocks
            raise UnsupportedOptimizer(problem)
        return Part(tensors=tensors, steps=steps_of(records), blocks=laid_out), arrays


def _with_records(blocks: Iterable[RowBlock], records: Iterable[StepRecord]) -> list[RowBlock]:
    """Return the blocks that have rows of these records, without all others:
    Ctrl-C can come between a step's rows and its record.
    """
    listed = {record.step for record in records}
    for block in blocks:
        block.rows = [row for row in block.rows if row.step in listed]
    return [block for block in blocks if block.rows]
