"""Without a claim a rate that goes on after a skipped step is wrong only where it changes with nearly every update."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest
import torch
from torch.nn import Parameter
from torch.optim.lr_scheduler import StepLR

from crosscheck import Recorder, Verdict, replay
from crosscheck.checks.learning_rate.rates import RateUsed
from crosscheck.checks.learning_rate.unclaimed import moved_on


def attempts(rate: Callable[[int], float], skipped: Collection[int], steps: int = 24) -> list[RateUsed]:
    """Return attempts whose rate is a function of the attempts before."""
    return [RateUsed(step, step not in skipped, (rate(step - 1), 0.5)) for step in range(1, steps + 1)]


def lowered_now_and_then(attempt: int) -> float:
    return 0.1 if attempt < 6 else 0.02 if attempt < 7 else 0.01


@pytest.mark.parametrize("skipped", [[6], [3, 6, 9, 12], [1, 2, 3], [5, 6, 7], range(2, 24)], ids=str)
@pytest.mark.parametrize("batches", [2, 3, 6])
def test_a_scheduler_of_epochs_is_right(batches: int, skipped: Sequence[int]) -> None:
    assert list(moved_on(attempts(lambda attempt: 0.5 ** (attempt // batches), skipped))) == []


def test_a_rate_that_is_changed_by_hand_is_right() -> None:
    assert list(moved_on(attempts(lowered_now_and_then, [6, 7]))) == []
    assert list(moved_on([])) == []


@pytest.mark.parametrize("skipped", [[1], [1, 2, 3], [9], [22]], ids=str)
def test_a_schedule_of_updates_that_goes_on_is_wrong(skipped: Sequence[int]) -> None:
    found = list(moved_on(attempts(lambda attempt: 0.9**attempt, skipped)))
    assert [finding.step for finding in found] == [step + 1 for step in skipped]
    assert {finding.tensor for finding in found} == {"group 0"}


def test_a_warm_up_that_goes_on_is_wrong_however_long_the_rate_is_the_same_afterwards() -> None:
    (found,) = moved_on(attempts(lambda attempt: min(1.0, (attempt + 1) / 10), [2], steps=200))
    assert (found.step, found.cause) == (
        3,
        "the schedule advanced on a skipped step: step 2 was skipped, yet lr went on",
    )


def test_a_plain_loop_whose_epoch_ends_with_an_overflow_matches(tmp_path: Path) -> None:
    weight = Parameter(torch.ones(8))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduler, scaler = StepLR(optimizer, 1, 0.5), torch.amp.GradScaler("cpu", init_scale=8.0)
    with Recorder(optimizer, tmp_path):
        for epoch in range(4):
            for batch in range(3):
                optimizer.zero_grad()
                slope = torch.inf if (epoch, batch) == (1, 2) else 0.5
                scaler.scale((weight * slope).sum()).backward()
                scaler.step(optimizer)
                scaler.update()
            scheduler.step()
    report = replay(tmp_path)
    assert (report.verdict, report.skipped) == (Verdict.MATCH, 1), str(report)
