"""Holds what is recorded of a step besides tensors, and describes the steps of a part for the trace."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosscheck.trace.format import Option, Step


@dataclass(slots=True)
class StepRecord:
    """What is recorded of one attempt to step besides tensors; its numbers may still be on the device."""

    step: int
    norm: Tensor | None
    backward_norm: Tensor | None
    loss_scale: Tensor | None
    options: tuple[dict[str, Option], ...]
    overflow_elsewhere: bool = False
    scaler_updates: tuple[bool, ...] | None = None
    applied: bool = True  # this and the next are known when the step is over
    state_loaded: bool = False


def steps_of(records: Sequence[StepRecord]) -> tuple[Step, ...]:
    """Return the steps as the trace describes them; options that did not change since the step before are left out."""
    steps: list[Step] = []
    last: tuple[dict[str, Option], ...] = ()
    norms = _fetched([record.norm for record in records])
    backward_norms = _fetched([record.backward_norm for record in records])
    scales = _fetched([record.loss_scale for record in records])
    for record, norm, backward_norm, scale in zip(records, norms, backward_norms, scales, strict=True):
        changed: list[dict[str, Option]] = []
        for number, group in enumerate(record.options):
            known = last[number] if number < len(last) else {}
            if group is known:  # as it is until an option changes
                changed.append({})
                continue
            changed.append({name: value for name, value in group.items() if known.get(name, ...) != value})
        last = record.options
        steps.append(
            Step(
                step=record.step,
                applied=record.applied,
                loss_scale=scale,
                grad_norm=norm,
                backward_norm=backward_norm,
                options=tuple(changed),
                state_loaded=record.state_loaded,
                overflow_elsewhere=record.overflow_elsewhere,
                scaler_updates=record.scaler_updates,
            )
        )
    return tuple(steps)


def _fetched(numbers: Sequence[Tensor | None]) -> list[float | None]:
    """Return the numbers, fetched from each device at once: each transfer waits for all that the device has to do."""
    fetched: list[float | None] = [None] * len(numbers)
    alike: dict[tuple[torch.dtype, torch.device], list[tuple[int, Tensor]]] = {}
    for k, number in enumerate(numbers):
        if number is not None:
            alike.setdefault((number.dtype, number.device), []).append((k, number.reshape(())))
    for members in alike.values():
        vector = torch.stack([number for _, number in members]).cpu()
        for (k, _), value in zip(members, vector, strict=True):
            fetched[k] = float(value)
    return fetched
