"""What a part holds when the numbers of a tensor change their format from one of its steps to another."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam

from crosscheck import Recorder, UnsupportedOptimizer, Verdict, replay
from tests.crosscheck.recording import feed, make_parameters, take_steps


@pytest.mark.parametrize("every", [2, 3])
def test_halves_that_are_unscaled_now_and_then(every: int, tmp_path: Path) -> None:
    """As to log the norm of the gradients: the fused kernel then gets halves that it need not divide by the loss scale."""
    parameters = make_parameters((20, 30), (5,), dtype=torch.bfloat16)
    optimizer = Adam(parameters, lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with Recorder(optimizer, tmp_path, scaler=scaler) as recorder:
        for step in range(1, 8):
            feed(parameters, step, size=float(scaler.scale(torch.ones(()))))
            recorder.after_backward()
            if step % every == 0:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    report = replay(tmp_path)
    assert (report.verdict, report.steps, report.checks["clipping"]) == (Verdict.MATCH, 7, "match"), str(report)
    assert not report.warnings


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("strict", [False, True])
def test_state_in_another_format_ends_the_record_before_it(strict: bool, tmp_path: Path) -> None:
    """The second buffer changes first, and the first one is seen first."""
    parameters = make_parameters((8,), (3, 4))
    optimizer = SGD([("first", parameters[0]), ("second", parameters[1])], lr=0.1, momentum=0.9)
    average: Any = [(parameter, parameter.detach().clone()) for parameter in parameters]
    says = "momentum_buffer of second changed its format, from float32 to float64, by step 4"

    def train() -> None:
        with Recorder(optimizer, tmp_path, average=average, strict=strict):
            for step in range(1, 8):
                if step in (4, 6):
                    state = optimizer.state[parameters[step == 4]]
                    state["momentum_buffer"] = state["momentum_buffer"].double()
                take_steps(optimizer, parameters, [step])

    if strict:
        with pytest.raises(UnsupportedOptimizer, match=says):
            train()
    else:
        with pytest.warns(UserWarning, match=f"the record ends with step 3: {says}; training goes on"):
            train()
    report = replay(tmp_path)
    assert (report.verdict, report.steps) == (Verdict.MATCH, 3), str(report)
