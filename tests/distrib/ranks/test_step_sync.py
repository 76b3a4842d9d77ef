"""The small sum of each step, on one process."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distrib.errors import RunFault
from distrib.ranks.step_sync import Agreed, Agreement


def alone() -> Agreement:
    return Agreement(torch.device("cpu"), world_size=1)


def take(agreement: Agreement, *losses: float, stop: bool = False, checkpoint: bool = False, step: int = 1) -> Agreed:
    for loss in losses:
        agreement.add(torch.tensor(loss, requires_grad=True))
    agreement.start(stop=stop, checkpoint=checkpoint)
    return agreement.finish(step)


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=4), min_size=1, max_size=4))
def test_loss_is_the_sum_of_the_parts_of_this_step_alone(steps: list[list[float]]) -> None:
    agreement = alone()
    for parts in steps:
        assert take(agreement, *parts).loss == pytest.approx(math.fsum(parts), rel=1e-12)


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_wishes_come_back_and_last_one_step(stop: bool, checkpoint: bool) -> None:
    agreement = alone()
    assert take(agreement, 1.5, stop=stop, checkpoint=checkpoint) == Agreed(1.5, stop, checkpoint)
    assert take(agreement, 0.5) == Agreed(0.5, stop=False, checkpoint=False)


def test_half_precision_losses_are_summed_in_float64() -> None:
    agreement = alone()
    for _ in range(3000):
        agreement.add(torch.tensor(1.0, dtype=torch.float16))
    agreement.start(stop=False, checkpoint=False)
    assert agreement.finish(1).loss == 3000.0  # float16 would stay at 2048


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("others", [(), (1.0, 2.0)], ids=["alone", "among others"])
def test_loss_that_is_not_finite_is_a_fault_of_that_step(loss: float, others: tuple[float, ...]) -> None:
    agreement = alone()
    with pytest.raises(RunFault) as caught:
        take(agreement, *others, loss, step=17)
    for word in ("step 17", str(loss), "before this update", "optimizer.lr", "precision.mode", "training.clip_norm"):
        assert word in str(caught.value)


def test_fault_leaves_nothing_for_the_next_step() -> None:
    agreement = alone()
    with pytest.raises(RunFault):
        take(agreement, math.nan, stop=True, checkpoint=True)
    assert take(agreement, 2.0) == Agreed(2.0, stop=False, checkpoint=False)
