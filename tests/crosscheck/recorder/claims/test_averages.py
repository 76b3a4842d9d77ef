"""Averages are read from torch's AveragedModel: which kind it is, of which parameters, and when it is updated."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import (
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
)

from crosscheck import Claims, Recorder, Report, TraceError, Verdict, replay
from crosscheck.trace.reader import open_trace

Make = Callable[[torch.nn.Module], AveragedModel]
Update = Callable[[AveragedModel, torch.nn.Module, int], None]

_multi_avg_fn = cast(Any, get_ema_multi_avg_fn(0.9))
_avg_fn = cast(Any, get_ema_avg_fn(0.95))
KINDS: dict[str, tuple[Make, Any]] = {
    "EMA": (lambda model: AveragedModel(model, multi_avg_fn=_multi_avg_fn), 0.9),
    "EMA, one by one": (lambda model: AveragedModel(model, avg_fn=_avg_fn), 0.95),
    "equal": (AveragedModel, "equal"),
    "equal, all at once": (lambda model: AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn()), "equal"),
    "equal, one by one": (lambda model: AveragedModel(model, avg_fn=get_swa_avg_fn()), "equal"),
}


def always(averaged: AveragedModel, model: torch.nn.Module, step: int) -> None:
    del step
    averaged.update_parameters(model)


def now_and_then(averaged: AveragedModel, model: torch.nn.Module, step: int) -> None:
    if step >= 4 and step % 2 == 0:
        averaged.update_parameters(model)


def small(dtype: torch.dtype = torch.float32) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(6, 3, dtype=dtype)


def record(
    trace: Path, make: Make, update: Update = always, *, dtype: torch.dtype = torch.float32, **more: Any
) -> Report:
    model = small(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    averaged = make(model)
    with Recorder(optimizer, trace, model=model, average=averaged, **more):
        for step in range(1, 11):
            optimizer.zero_grad()
            model(torch.randn(8, 6, dtype=dtype)).square().mean().backward()
            optimizer.step()
            update(averaged, model, step)
    return replay(trace)


@pytest.mark.parametrize(
    ("name", "update", "dtype"),
    [
        ("EMA", always, torch.float32),
        ("EMA, one by one", now_and_then, torch.float32),
        ("equal, one by one", always, torch.float32),
        ("equal", now_and_then, torch.float32),
        ("equal, all at once", always, torch.float64),
    ],
)
def test_a_correct_average_matches(name: str, update: Update, dtype: torch.dtype, tmp_path: Path) -> None:
    make, kind = KINDS[name]
    report = record(tmp_path, make, update, dtype=dtype)
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.checks["average"] == "match"
    assert not report.claims_not_tested
    (segment,) = open_trace(tmp_path)
    assert segment.header.claims is not None
    assert (segment.header.claims.average, segment.header.claims.averaged) == (kind, 0)


def test_the_average_of_a_parameter_without_a_gradient_moves_too(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averaged = KINDS["EMA"][0](model)
    with Recorder(optimizer, tmp_path, model=model, average=averaged):
        for step in range(1, 7):
            model(torch.randn(8, 6)).square().mean().backward()
            model.bias.grad = model.bias.grad if step < 4 else None
            optimizer.step()
            averaged.update_parameters(model)
    report = replay(tmp_path)
    assert (report.verdict, report.checks["average"]) == ("match", "match"), str(report)


def of_the_average(report: Report) -> str:
    assert report.verdict is Verdict.MISMATCH, str(report)
    assert {finding.check for finding in report.findings} == {"average"}, str(report)
    return " | ".join(finding.cause for finding in report.findings)


def moved_by_hand(averaged: AveragedModel, model: torch.nn.Module, step: int) -> None:
    if step == 5:
        with torch.no_grad():
            next(averaged.module.parameters()).mul_(2)
    else:
        averaged.update_parameters(model)


def only_one(averaged: AveragedModel, model: torch.nn.Module, step: int) -> None:
    """Count an update of all and take in the weight alone."""
    *_, bias = averaged.module.parameters()
    kept = bias.detach().clone()
    averaged.update_parameters(model)
    if step > 3:
        bias.data.copy_(kept)


def never(averaged: AveragedModel, model: torch.nn.Module, step: int) -> None:
    del averaged, model, step


@pytest.mark.parametrize(
    ("name", "update", "cause"),
    [
        ("EMA", moved_by_hand, "the average changed at a step at which nothing updated it"),
        ("equal", only_one, "it was not updated"),
    ],
)
def test_a_wrong_average(name: str, update: Update, cause: str, tmp_path: Path) -> None:
    assert cause in of_the_average(record(tmp_path, KINDS[name][0], update))


def test_equal_where_decay_is_claimed(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"claims.average = 'equal', but the AveragedModel says 0.9"):
        record(tmp_path, KINDS["EMA"][0], claims=Claims(average="equal"))


def test_never_updated_is_not_tested(tmp_path: Path) -> None:
    report = record(tmp_path, KINDS["EMA"][0], never)
    assert any("average = 0.9: it was never updated" in claim for claim in report.claims_not_tested), str(report)


def own(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    del count
    return 0.9 * averaged + 0.1 * current


def test_a_function_of_ones_own_is_asked_for_its_decay(tmp_path: Path) -> None:
    def make(model: torch.nn.Module) -> AveragedModel:
        return AveragedModel(model, avg_fn=own)

    with pytest.raises(TraceError, match=r"a function of your own \(own\).*claims=Claims\(average=0.99\)"):
        record(tmp_path / "asked", make)
    assert "decay acts as" in of_the_average(record(tmp_path / "lied", make, claims=Claims(average=0.8)))


def test_an_average_needs_its_model(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TraceError, match=r"give model= as well"):
        Recorder(optimizer, tmp_path, average=AveragedModel(model))
    with pytest.raises(TraceError, match=r"has 2 parameters and model= has 4, or their shapes differ"):
        Recorder(optimizer, tmp_path, average=AveragedModel(model), model=torch.nn.Sequential(small(), small()))


def test_an_average_that_goes_on(tmp_path: Path) -> None:
    """What it has seen before is read from it."""

    def make(model: torch.nn.Module) -> AveragedModel:
        averaged = AveragedModel(model)
        for _ in range(5):
            averaged.update_parameters(model)
        return averaged

    assert record(tmp_path, make).checks["average"] == "match"
    (segment,) = open_trace(tmp_path)
    assert segment.header.claims is not None
    assert segment.header.claims.averaged == 5
