"""What the types of a trace cannot say: every number of a step, row, tensor or group is one that exists, and there are not more
of them than the size of the file allows.
"""

import itertools
from collections import defaultdict
from pathlib import Path

from crosscheck.errors import TraceError
from crosscheck.trace.format import RESERVED_SLOTS, Block, Part, Ranges, TensorInfo, TensorRows

_BYTES_A_ROW = 4
"""Bytes of a part for each row of a tensor, at least: an element of half precision and its gradient have as many."""
_LISTED, _LISTED_A_BYTE = 2**22, 4
"""Steps times tensors of a part, in a file of any size, and how many more there may be for each byte of it."""
_OPTIONS = 2**22
"""Options of all steps and groups of a part, each step's complete where it changed any."""


def check_part(path: Path, part: Part, size: int) -> None:
    """Raises TraceError for a part of `size` bytes that contradicts itself, or describes much more than it holds."""
    _check_amount(path, part, size)
    for number, tensor in enumerate(part.tensors):
        if tensor.numel >= 2**63:
            raise TraceError(f"{path}: tensor {number} has a shape of {tensor.numel} elements")
        if tensor.replaces is not None and tensor.replaces >= number:
            raise TraceError(
                f"{path}: tensor {number} replaces tensor {tensor.replaces}, which does not come before it"
            )
    groups = max((tensor.group for tensor in part.tensors), default=-1) + 1
    for step in part.steps:
        if len(step.options) < groups:
            raise TraceError(
                f"{path}: step {step.step} has options of {len(step.options)} groups, tensors are in {groups}"
            )
    steps = tuple(step.step for step in part.steps)
    _check_ascent(f"{path}: its", steps)
    for number, block in enumerate(part.blocks):
        _check_block(f"{path}: block {number}", block, frozenset(steps), part.tensors)
    left_out = set(steps).difference(*(block.steps for block in part.blocks))
    if left_out:
        raise TraceError(f"{path}: no block holds step {min(left_out)}")


def _check_amount(path: Path, part: Part, size: int) -> None:
    """Raises TraceError for a part that takes much more time or memory than its bytes account for."""
    rows = sum(len(block.steps) * len(block.tensors) for block in part.blocks)
    if _BYTES_A_ROW * rows > size:
        raise TraceError(f"{path}: {rows} rows of tensors are described, and it has only {size} bytes")
    listed = len(part.steps) * len(part.tensors)
    if listed > _LISTED + _LISTED_A_BYTE * size:
        raise TraceError(
            f"{path}: {len(part.steps)} steps of {len(part.tensors)} tensors are too many for a part of {size} bytes"
        )
    options, names = sum(len(step.options) for step in part.steps), defaultdict[int, set[str]](set)
    for step in part.steps:
        for group, changed in enumerate(step.options):
            if changed:
                names[group].update(changed)
                options += len(names[group])
    if options > _OPTIONS:
        raise TraceError(f"{path}: its steps have {options} options in all; at most {_OPTIONS} are read")


def _check_block(where: str, block: Block, steps: frozenset[int], tensors: tuple[TensorInfo, ...]) -> None:
    _check_ascent(f"{where}: its", block.steps)
    strange = set(block.steps) - steps
    if strange:
        raise TraceError(f"{where} has step {min(strange)}, which the part does not list")
    if block.full and len(block.steps) != 1:
        raise TraceError(f"{where} is full and has {len(block.steps)} steps; a full block has one")
    if any(boundary > len(block.steps) for boundary in block.held_at or ()):
        raise TraceError(
            f"{where}: held_at is {list(block.held_at or ())}; a block of {len(block.steps)} rows ends there"
        )
    if not block.tensors:
        raise TraceError(f"{where} has no tensors")
    seen: set[int] = set()
    for entry in block.tensors:
        _check_rows(f"{where}, tensor {entry.tensor}", entry, len(block.steps))
        if entry.tensor >= len(tensors) or entry.tensor in seen:
            why = "it is there twice" if entry.tensor in seen else "a tensor that does not exist"
            raise TraceError(f"{where}, tensor {entry.tensor}: {why}")
        seen.add(entry.tensor)
        its, numel = f"{where}, tensor {entry.tensor}", tensors[entry.tensor].numel
        for ranges in (entry.held, *(slot.held or () for slot in entry.slots.values())):
            _check_held(its, ranges, len(block.steps), numel)
        if entry.range is not None and not (block.full and entry.range[0] <= entry.range[1] <= numel):
            raise TraceError(f"{its}: range is {list(entry.range)}; in a full block it can be elements 0 up to {numel}")


def _check_rows(where: str, entry: TensorRows, rows: int) -> None:
    listed = [*entry.no_grad, *entry.backward, *entry.before]
    for name, slot in entry.slots.items():
        if name in RESERVED_SLOTS or "/" in name:
            raise TraceError(f"{where}: no slot can be called {name!r}")
        listed += [*slot.before, *slot.absent_before, *slot.absent_after]
        if len(set(slot.absent_after)) >= rows and not slot.before:
            raise TraceError(f"{where}: the slot {name!r} is there in no row; what does not exist is left out")
    if any(row >= rows for row in listed):
        raise TraceError(f"{where}: row {max(listed)} of {rows}: a row that does not exist")
    if 0 not in entry.before:
        raise TraceError(f"{where}: the parameter before the first row is neither stored nor left by a row before")


def _check_held(where: str, held: Ranges, rows: int, numel: int) -> None:
    if len(held) not in (0, 1, rows + 1):
        raise TraceError(f"{where}: held has {len(held)} ranges; accepted are none, 1, or {rows + 1} for {rows} rows")
    for start, stop in held:
        if not start <= stop <= numel:
            raise TraceError(f"{where}: held says elements {start} up to {stop} of {numel}")


def _check_ascent(whose: str, steps: tuple[int, ...]) -> None:
    for earlier, later in itertools.pairwise(steps):
        if later <= earlier:
            raise TraceError(f"{whose} steps do not ascend: {later} comes after {earlier}")


def check_tensors(path: Path, before: tuple[TensorInfo, ...], now: tuple[TensorInfo, ...]) -> None:
    """Raises TraceError for a tensor of the part before that is gone, or has another name, shape or dtype by now."""
    for number, earlier in enumerate(before):
        old = _identity(earlier)
        new = _identity(now[number]) if number < len(now) else None
        if old != new:
            raise TraceError(f"{path}: tensor {number} was {old} in the part before and is {new} here")


def _identity(tensor: TensorInfo) -> tuple[str, tuple[int, ...], str]:
    return tensor.name, tensor.shape, tensor.dtype
