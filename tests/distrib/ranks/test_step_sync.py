"""Tests the small sum of each step, on one process."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distrib.errors import RunFault
from distrib.ranks.step_sync import StepResult, StepSync


def alone() -> StepSync:
    return StepSync(torch.device("cpu"), world_size=1)


def take(
    step_sync: StepSync, *losses: float, stop: bool = False, checkpoint: bool = False, step: int = 1
) -> StepResult:
    for loss in losses:
        step_sync.add(torch.tensor(loss, requires_grad=True))
    step_sync.start(stop=stop, checkpoint=checkpoint)
    return step_sync.finish(step)


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=4), min_size=1, max_size=4))
def test_loss_is_the_sum_of_the_parts_of_this_step_alone(steps: list[list[float]]) -> None:
    step_sync = alone()
    for parts in steps:
        assert take(step_sync, *parts).loss == pytest.approx(math.fsum(parts), rel=1e-12)


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_wishes_come_back_and_last_one_step(stop: bool, checkpoint: bool) -> None:
    step_sync = alone()
    assert take(step_sync, 1.5, stop=stop, checkpoint=checkpoint) == StepResult(1.5, stop, checkpoint)
    assert take(step_sync, 0.5) == StepResult(0.5, stop=False, checkpoint=False)


def test_half_precision_losses_are_summed_in_float64() -> None:
    step_sync = alone()
    for _ in range(3000):
        step_sync.add(torch.tensor(1.0, dtype=torch.float16))
    step_sync.start(stop=False, checkpoint=False)
    assert step_sync.finish(1).loss == 3000.0  # float16 would stay at 2048


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("others", [(), (1.0, 2.0)], ids=["alone", "among others"])
def test_loss_that_is_not_finite_is_a_fault_of_that_step(loss: float, others: tuple[float, ...]) -> None:
    step_sync = alone()
    with pytest.raises(RunFault) as caught:
        take(step_sync, *others, loss, step=17)
    for word in ("step 17", str(loss), "before this update", "optimizer.lr", "precision.mode", "training.clip_norm"):
        assert word in str(caught.value)


def test_fault_leaves_nothing_for_the_next_step() -> None:
    step_sync = alone()
    with pytest.raises(RunFault):
        take(step_sync, math.nan, stop=True, checkpoint=True)
    assert take(step_sync, 2.0) == StepResult(2.0, stop=False, checkpoint=False)
