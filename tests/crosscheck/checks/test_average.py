"""Tests a moving average that is updated otherwise than once after each applied step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch.nn import Module
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from crosscheck import Claims, Recorder, Report, TraceError, Verdict, replay

Update = Callable[[AveragedModel, Module, int], object]


def run(trace: Path, update: Update, *, counted: bool = True, skip: int = 0, **claims: Any) -> Report:
    """Record an average with the decay 0.9. `counted`: the recorder is given the model that counts its updates."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    averaged = AveragedModel(model, multi_avg_fn=cast(Any, get_ema_multi_avg_fn(0.9)))
    averaged.n_averaged += claims.get("averaged", 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    pairs = zip(model.parameters(), averaged.module.parameters(), strict=True)
    how: dict[str, Any] = (
        {"average": averaged} if counted else {"average": pairs, "claims": Claims(average=0.9, **claims)}
    )
    with Recorder(optimizer, trace, model=model, scaler=scaler, **how):
        for step in range(1, 9):
            optimizer.zero_grad()
            loss = model(torch.full((1, 4), float(step))).sum() * (torch.inf if step == skip else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            update(averaged, model, step)
    return replay(trace)


def once(averaged: AveragedModel, model: Module, step: int) -> None:
    del step
    averaged.update_parameters(model)


def twice(averaged: AveragedModel, model: Module, step: int) -> None:
    once(averaged, model, step)
    once(averaged, model, step)


def twice_but_first(averaged: AveragedModel, model: Module, step: int) -> None:
    (once if step == 1 else twice)(averaged, model, step)


SEVERAL = "average = 0.9: it was updated several times a step, of which one result is on record"


@pytest.mark.parametrize(
    ("update", "came_to", "note"),
    [
        (twice, "not tested", "the average was updated 2 times at 8 steps from 1 to 8, of which"),
        (twice_but_first, "match", "the average was updated 2 times at 7 steps from 2 to 8, of which"),
    ],
)
def test_several_updates_a_step_are_not_checked(update: Update, came_to: str, note: str, tmp_path: Path) -> None:
    report = run(tmp_path, update)
    assert report.checks["average"] == came_to
    assert SEVERAL in report.claims_not_tested
    assert [line.startswith(note) for line in report.notes if "average" in line] == [True]


def test_several_updates_a_step_do_not_do_where_the_average_is_required(tmp_path: Path) -> None:
    run(tmp_path, twice)
    with pytest.raises(TraceError, match="average was not tested"):
        replay(tmp_path, require=["average"])


def test_an_update_after_a_skipped_step_is_judged_if_it_is_counted(tmp_path: Path) -> None:
    def wrong(averaged: AveragedModel, model: Module, step: int) -> None:
        once(averaged, model, step)
        if step == 4:
            for mean in averaged.module.parameters():
                mean.data *= 1.5

    assert run(tmp_path / "right", once, skip=4).checks["average"] == "match"
    report = run(tmp_path / "wrong", wrong, skip=4)
    assert [(found.check, found.step) for found in report.findings] == [("average", 4)], str(report)
    report = run(tmp_path / "not counted", once, counted=False, skip=4)
    assert [found.cause for found in report.findings] == ["average changed on a skipped step"]


def test_an_average_that_averages_from_the_first_update_on(tmp_path: Path) -> None:
    def ours(averaged: AveragedModel, model: Module, step: int) -> None:
        del step
        for mean, new in zip(averaged.module.parameters(), model.parameters(), strict=True):
            mean.data.lerp_(new, 0.1)

    report = run(tmp_path / "copies", ours, counted=False)
    assert "claim Claims(averaged=1)" in report.findings[0].cause
    assert run(tmp_path / "averages", ours, counted=False, averaged=1).verdict is Verdict.MATCH
