"""Steps that were recorded and wait to be committed, as one part."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from crosscheck.recorder.row_blocks import RowBlock
from crosscheck.trace.format import Option, Part, Step, TensorInfo

_PART_STEPS = 128  # a part is committed after so many steps,
_PART_BYTES = 32 * 2**20  # or when so much waits in memory,
_PART_SECONDS = 60.0  # or so long after the one before: what a killed run loses at most


@dataclass(slots=True)
class Attempt:
    """One attempt to step; its numbers may still be on the device."""

    step: int
    norm: Tensor
    backward_norm: Tensor | None
    scale: Tensor | None
    options: tuple[dict[str, Option], ...]
    overflow_elsewhere: bool = False
    applied: bool = True  # this and the next are known when the step is over
    loaded: bool = False


class Pending:
    """Attempts, and the rows that belong to them."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self._sampled, self._full = RowBlock(full=False), list[RowBlock]()
        self._committed_at = time.monotonic()

    def block(self, step: int, *, full: bool) -> RowBlock:
        """Return the block that the rows of a step go to."""
        block = RowBlock(full=True) if full else self._sampled
        if full:
            self._full.append(block)
        block.steps.append(step)
        return block

    @property
    def due(self) -> bool:
        """Return whether it is time to commit."""
        return (
            len(self.attempts) >= _PART_STEPS
            or self._sampled.num_bytes + sum(block.num_bytes for block in self._full) >= _PART_BYTES
            or time.monotonic() - self._committed_at >= _PART_SECONDS
        )

    def take(
        self, tensors: tuple[TensorInfo, ...], coordinates: Sequence[Tensor | None]
    ) -> tuple[Part, dict[str, Tensor]] | None:
        """Return the part that waits with its arrays, and start anew; None if nothing waits."""
        self._committed_at = time.monotonic()
        if not self.attempts:
            return None
        arrays: dict[str, Tensor] = {}
        waiting = enumerate([self._sampled, *self._full])
        blocks = tuple(block.lay_out(number, coordinates, arrays) for number, block in waiting)
        part = Part(tensors=tensors, steps=_described(self.attempts), blocks=blocks)
        self.attempts, self._sampled, self._full = [], RowBlock(full=False), []
        return part, arrays


def _described(attempts: list[Attempt]) -> tuple[Step, ...]:
    """Describe the attempts; options that did not change since the step before are left out."""
    described: list[Step] = []
    last: tuple[dict[str, Option], ...] = ()
    for attempt in attempts:
        changed: list[dict[str, Option]] = []
        for number, group in enumerate(attempt.options):
            known = last[number] if number < len(last) else {}
            changed.append({name: value for name, value in group.items() if known.get(name, ...) != value})
        last = attempt.options
        described.append(
            Step(
                step=attempt.step,
                applied=attempt.applied,
                loss_scale=None if attempt.scale is None else float(attempt.scale),
                grad_norm=float(attempt.norm),
                backward_norm=None if attempt.backward_norm is None else float(attempt.backward_norm),
                options=tuple(changed),
                state_loaded=attempt.loaded,
                overflow_elsewhere=attempt.overflow_elsewhere,
            )
        )
    return tuple(described)
