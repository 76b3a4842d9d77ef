"""Where a trace is to be continued: what a resumed run tells, and what the trace holds."""

from pathlib import Path
from typing import Any, cast

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from crosscheck.errors import TraceError
from crosscheck.trace.format import METADATA_KEY, Part


def next_step(trace: Path, optimizer: torch.optim.Optimizer) -> int:
    """Return the number of the coming step: 1 for a new trace, and otherwise the one after the last that the optimizer's state
    has in it.

    Raises TraceError if the folder holds a trace and the state, as that of SGD, does not tell how many steps it took.
    """
    if not holds_trace(trace):
        return 1
    taken = _steps_taken(optimizer)
    if taken is None:
        raise TraceError(
            f"{trace} holds a trace, and the state of {type(optimizer).__name__} does not tell at which step this run continues "
            "it: say first_step=, or choose another folder"
        )
    if not taken:
        raise TraceError(
            f"{trace} holds a trace, and this optimizer has taken no step: load the run's state before the recorder is "
            "attached, or choose another folder"
        )
    return _after(trace, taken)


def holds_trace(trace: Path) -> bool:
    """Return whether the folder holds a segment of a trace."""
    return trace.is_dir() and any(trace.glob("segment-*"))


def _steps_taken(optimizer: torch.optim.Optimizer) -> int | None:
    states: list[Any] = list(optimizer.state.values())
    counts = [int(holder["step"]) for holder in (*states, *optimizer.param_groups) if "step" in holder]
    if counts:
        return max(counts)
    return 0 if not any(states) and any({"betas", "beta1"} & set(group) for group in optimizer.param_groups) else None


def _after(trace: Path, applied: int) -> int:
    """Return the number of the step after so many applied ones. Steps that were skipped are on record and do not count."""
    files = sorted(trace.glob("segment-*/part-*.safetensors"))
    steps = {step.step: step.applied for file in files for step in _described(file).steps}
    counted = 0
    for number in sorted(steps):
        if steps[number] and counted == applied:
            return number
        counted += steps[number]
    return max(steps, default=0) + 1 + applied - counted


def _described(file: Path) -> Part:
    """Return what a part says of itself. Its arrays are left to the replay, and so are libraries that a trainer need not have.

    Raises TraceError if the file cannot be read.
    """
    try:
        with cast(Any, safe_open)(file, "pt") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
        return Part.model_validate_json(metadata[METADATA_KEY])
    except (OSError, SafetensorError, KeyError, ValidationError) as error:
        raise TraceError(f"{file} cannot be read ({type(error).__name__}): choose another folder") from error
