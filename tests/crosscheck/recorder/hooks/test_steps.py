"""Tests where a step begins and ends: what raises in it, and steps within steps."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD

from crosscheck import Recorder, Verdict, replay
from tests.crosscheck.recording import make_parameters, take_steps


class Batch:
    """What a closure refers to."""


def step_without_memory(optimizer: SGD) -> weakref.ref[Batch]:
    """Take a step whose closure raises, and return the batch of the closure."""
    batch = Batch()

    def closure() -> float:
        assert batch
        return no_memory()

    with pytest.raises(torch.OutOfMemoryError):
        optimizer.step(closure)
    return weakref.ref(batch)


def test_a_step_that_raised_keeps_nothing_alive(tmp_path: Path) -> None:
    """A loop that tries again with a smaller batch needs the memory of the larger one."""
    parameters = make_parameters((8,))
    optimizer = SGD(parameters, lr=0.1)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters, [1])
        batch = step_without_memory(optimizer)
        gc.collect()
        assert batch() is None
        take_steps(optimizer, parameters, [2])
    report = replay(tmp_path)
    assert (report.verdict, report.steps) == (Verdict.MATCH, 2)


class TriesAgain(SGD):
    """An SGD whose step catches what torch's step raises, and calls it a second time."""

    def step(self, closure: Any = None) -> Any:
        try:
            super().step(no_memory)
        except torch.OutOfMemoryError:
            super().step(closure)


def no_memory() -> float:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("sgd_seen_before", [False, True])
def test_a_step_within_a_step_that_raises_and_is_tried_again(
    sgd_seen_before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch wraps it with hooks when the first SGD is made: then hooks are called twice a step.
    step: Any = vars(SGD)["step"]
    monkeypatch.setattr(SGD, "step", getattr(step, "__wrapped__", step))
    if sgd_seen_before:
        SGD(make_parameters((1,)))
    parameters = make_parameters((8,))
    optimizer = TriesAgain(parameters, lr=0.1)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters, range(1, 4))
    report = replay(tmp_path)
    assert (report.verdict, report.steps) == (Verdict.MATCH, 3), str(report)
