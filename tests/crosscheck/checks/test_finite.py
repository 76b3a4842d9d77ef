"""Parameters that became NaN are a warning, from the step at which they did."""

from pathlib import Path

import pytest
import torch
from torch.optim import SGD, Adam

from crosscheck import Recorder, Verdict, replay
from tests.crosscheck.recording import feed, make_parameters, overflowing_steps, take_steps


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite(bad: float, tmp_path: Path) -> None:
    parameters = make_parameters((8,), (20, 30))
    optimizer = Adam([("first", parameters[0]), ("second", parameters[1])], lr=0.01)
    with Recorder(optimizer, tmp_path, coordinates=20):
        for step in range(1, 7):
            feed(parameters, step)
            if step == 3 and parameters[1].grad is not None:
                parameters[1].grad[4, 5] = bad
            optimizer.step()
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.warnings[:2] == (
        "the gradients of step 3 are not finite, and the step was applied all the same",
        "parameters are not finite from step 3 on: 1 of 2 tensors, first second[4, 5]; what steps make of them proves nothing",
    )


def test_overflows_that_were_skipped_are_no_reason_for_a_warning(tmp_path: Path) -> None:
    (weight,) = make_parameters((8,))
    optimizer = SGD([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Recorder(optimizer, tmp_path / "skipped", scaler=scaler) as recorder:
        overflowing_steps(optimizer, weight, recorder, scaler, steps=4, skip=[2])
    with Recorder(optimizer, tmp_path / "plain"):
        take_steps(optimizer, [weight], range(1, 4))
    for trace in ("skipped", "plain"):
        report = replay(tmp_path / trace)
        assert (report.verdict, report.warnings) == (Verdict.MATCH, ()), str(report)
