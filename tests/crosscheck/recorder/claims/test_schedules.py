"""The claim of a schedule is read from torch's own schedulers, and the loop is held to it."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.optim import Adam, Optimizer
from torch.optim import lr_scheduler as made
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import SWALR

from crosscheck import Recorder, Report, TraceError, Verdict, replay
from crosscheck.trace.reader import open_trace
from crosscheck.trace.schedule_claims import RECORDED

Make = Callable[[Optimizer], LRScheduler]
UPDATES = 14


def groups(*, tensors: bool = False) -> Adam:
    """Return an optimizer with two groups of different rates."""
    generator = torch.Generator().manual_seed(0)
    first, second = (Parameter(torch.randn(4, generator=generator)) for _ in range(2))
    rates: list[Any] = [torch.tensor(0.02), torch.tensor(0.005)] if tensors else [0.02, 0.005]
    return Adam([{"params": [one], "lr": rate} for one, rate in zip((first, second), rates, strict=True)])


def rightly(scheduler: LRScheduler, update: int) -> None:
    del update
    scheduler.step()


def twice(scheduler: LRScheduler, update: int) -> None:
    rightly(scheduler, update)
    rightly(scheduler, update)


def once_too_few(scheduler: LRScheduler, update: int) -> None:
    if update > 1:
        scheduler.step()


def record(
    trace: Path,
    make: Make,
    stepping: Callable[[LRScheduler, int], None] = rightly,
    *,
    claimed: Make | None = None,
    updates: int = UPDATES,
    tensors: bool = False,
    **recording: Any,
) -> Report:
    """Train, and return what the replay says. `claimed` makes the scheduler that the recorder is given, if it is another."""
    optimizer = groups(tensors=tensors)
    told = None if claimed is None else claimed(optimizer)
    if told is not None:
        reset(optimizer)
    scheduler = make(optimizer)
    with Recorder(optimizer, trace, scheduler=told or scheduler, **recording):
        for update in range(1, updates + 1):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.full_like(parameter, 0.1 * update)
            optimizer.step()
            stepping(scheduler, update)
    return replay(trace)


def reset(optimizer: Optimizer) -> None:
    for group, rate in zip(optimizer.param_groups, (0.02, 0.005), strict=True):
        group["lr"] = rate
        group.pop("initial_lr")


def warm_up(step: int) -> float:
    return min(1.0, (step + 1) / 4) * 0.5 * (1 + math.cos(math.pi * step / 20))


class OwnScheduler(LRScheduler):
    """A class of the user's own."""

    def get_lr(self) -> Any:
        return [base / (1 + self.last_epoch) for base in self.base_lrs]


class OwnStep(made.StepLR):
    """One that looks like torch's and is not."""

    def get_lr(self) -> Any:
        return [base * 0.9**self.last_epoch for base in self.base_lrs]


def sequential(optimizer: Optimizer, *, length: int = 14) -> LRScheduler:
    warm = made.LinearLR(optimizer, start_factor=0.1, total_iters=3)
    return made.SequentialLR(optimizer, [warm, made.CosineAnnealingLR(optimizer, length)], milestones=[3])


def sequential_of_functions(optimizer: Optimizer) -> LRScheduler:
    warm = made.LinearLR(optimizer, start_factor=0.1, total_iters=3)
    return made.SequentialLR(optimizer, [warm, made.LambdaLR(optimizer, warm_up)], milestones=[3])


def chained(optimizer: Optimizer) -> LRScheduler:
    return made.ChainedScheduler([made.ExponentialLR(optimizer, 0.9), made.ConstantLR(optimizer, 0.5, 5)])


def chained_with_cosine(optimizer: Optimizer) -> LRScheduler:
    return made.ChainedScheduler([made.ConstantLR(optimizer, 0.5, 5), made.CosineAnnealingLR(optimizer, 20)])


FORMULAS: dict[str, Make] = {
    "StepLR": lambda o: made.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: made.MultiStepLR(o, [2, 5, 5, 9], 0.5),
    "ConstantLR": lambda o: made.ConstantLR(o, 0.25, 4),
    "LinearLR": lambda o: made.LinearLR(o, 0.1, 0.7, 8),
    "ExponentialLR": lambda o: made.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: made.PolynomialLR(o, 30, 2.0),
    "CosineAnnealingLR": lambda o: made.CosineAnnealingLR(o, 5, eta_min=1e-3),
    "CosineAnnealingWarmRestarts": lambda o: made.CosineAnnealingWarmRestarts(o, 3, 2, eta_min=1e-3),
    "the same, all as long": lambda o: made.CosineAnnealingWarmRestarts(o, 4),
    "OneCycleLR": lambda o: made.OneCycleLR(o, [0.1, 0.02], total_steps=40, cycle_momentum=False),
    "OneCycleLR in lines": lambda o: made.OneCycleLR(
        o, 0.1, total_steps=40, anneal_strategy="linear", three_phase=True, pct_start=0.2, cycle_momentum=False
    ),
    "CyclicLR": lambda o: made.CyclicLR(o, [0.01, 0.002], 0.05, 3, 2, cycle_momentum=False),
    "CyclicLR, halved": lambda o: made.CyclicLR(o, 0.01, 0.05, 3, mode="triangular2", cycle_momentum=False),
    "CyclicLR, shrinking": lambda o: made.CyclicLR(o, 0.01, 0.05, 3, mode="exp_range", gamma=0.9, cycle_momentum=False),
    "SequentialLR": sequential,
    "ChainedScheduler": chained,
}
FUNCTIONS: dict[str, Make] = {
    "LambdaLR": lambda o: made.LambdaLR(o, [warm_up, lambda step: 0.9**step]),
    "MultiplicativeLR": lambda o: made.MultiplicativeLR(o, lambda step: 1 - 0.1 / step),
    "SequentialLR of functions": sequential_of_functions,
    "ChainedScheduler with a cosine": chained_with_cosine,
    "CyclicLR by a function": lambda o: made.CyclicLR(
        o, 0.01, 0.05, 3, scale_fn=lambda cycle: 1 / cycle, cycle_momentum=False
    ),
    "CyclicLR from zero": lambda o: made.CyclicLR(o, 0.0, 0.05, 3, cycle_momentum=False),
    "SWALR": lambda o: SWALR(o, 0.001, anneal_epochs=8),
    "a class of one's own": OwnScheduler,
    "a subclass": lambda o: OwnStep(o, 3, 0.5),
}
SCHEDULERS = FORMULAS | FUNCTIONS
each_scheduler = pytest.mark.parametrize("name", SCHEDULERS)


@pytest.fixture(autouse=True)
def quiet_schedulers(recwarn: Any) -> Iterator[None]:
    yield
    del recwarn


@each_scheduler
def test_a_correct_loop_matches(name: str, tmp_path: Path) -> None:
    report = record(tmp_path, SCHEDULERS[name])
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.checks["learning rate"] == "match"
    assert not report.claims_not_tested
    (segment,) = open_trace(tmp_path)
    assert segment.header.claims is not None
    assert segment.header.claims.schedule is not None
    assert (segment.header.claims.schedule["name"] == RECORDED) == (name in FUNCTIONS)


@each_scheduler
def test_a_wrong_loop_does_not(name: str, tmp_path: Path) -> None:
    """Every other one is stepped twice an update, and the others once too few."""
    stepping, cause = FAULTS[[*SCHEDULERS].index(name) % 2]
    assert cause in of_the_rate(record(tmp_path, SCHEDULERS[name], stepping))


FAULTS = (twice, "steps 2 times an update"), (once_too_few, "one update behind")


LENGTHS: dict[str, tuple[Make, Make]] = {
    "CosineAnnealingLR": (lambda o: made.CosineAnnealingLR(o, 20), lambda o: made.CosineAnnealingLR(o, 17)),
    "PolynomialLR": (lambda o: made.PolynomialLR(o, 20), lambda o: made.PolynomialLR(o, 17)),
    "SequentialLR": (sequential, lambda o: sequential(o, length=13)),
    "LambdaLR": (lambda o: made.LambdaLR(o, warm_up), lambda o: made.LambdaLR(o, lambda step: warm_up(step + 1))),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_another_length_than_the_recorder_was_given(name: str, tmp_path: Path) -> None:
    claimed, used = LENGTHS[name]
    of_the_rate(record(tmp_path, used, claimed=claimed))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["ExponentialLR", "CosineAnnealingLR", "SequentialLR", "ChainedScheduler"])
def test_rates_in_float32_tensors_drift_from_the_formula(name: str, tmp_path: Path) -> None:
    """A scheduler that computes each rate from the one before rounds it each time."""
    report = record(tmp_path / "right", FORMULAS[name], updates=100, tensors=True)
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.checks["learning rate"] == "match"
    of_the_rate(record(tmp_path / "wrong", FORMULAS[name], once_too_few, updates=100, tensors=True))


def plain_loop(trace: Path, optimizer: Optimizer, scheduler: Any, each: Callable[[int], None], updates: int) -> Report:
    with Recorder(optimizer, trace, scheduler=scheduler):
        for update in range(updates):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            each(update)
    return replay(trace)


def test_a_group_that_joins_is_held_to_no_scheduler_that_was_made_before(tmp_path: Path) -> None:
    optimizer = Adam([Parameter(torch.ones(4))], lr=0.02)
    scheduler = made.StepLR(optimizer, 5, 0.5)

    def each(update: int) -> None:
        scheduler.step()
        if update == 3:
            optimizer.add_param_group({"params": [Parameter(torch.ones(3))], "lr": 0.001})
        if update == 7:
            optimizer.param_groups[1]["lr"] = 0.003

    report = plain_loop(tmp_path, optimizer, scheduler, each, 12)
    assert report.verdict is Verdict.MATCH, str(report)
    assert any(note.startswith("group 1 joined after the scheduler was made") for note in report.notes)


def test_a_group_that_joined_before_the_recorder_is_followed_by_a_copy(tmp_path: Path) -> None:
    optimizer = Adam([Parameter(torch.ones(4))], lr=0.02)
    scheduler = made.StepLR(optimizer, 5, 0.5)
    optimizer.add_param_group({"params": [Parameter(torch.ones(3))], "lr": 0.001})
    report = plain_loop(tmp_path, optimizer, scheduler, lambda _: scheduler.step(), 12)
    assert report.verdict is Verdict.MATCH, str(report)
    (segment,) = open_trace(tmp_path)
    assert segment.header.claims is not None
    assert segment.header.claims.schedule == {"name": RECORDED, "stepped": 0, "every": 1}


def test_warm_restarts_that_are_given_fractions_of_an_epoch_are_not_accused(tmp_path: Path) -> None:
    """This is the example in the documentation of torch."""
    optimizer = Adam([Parameter(torch.ones(4))], lr=0.02)
    scheduler: Any = made.CosineAnnealingWarmRestarts(optimizer, 2)

    def of_an_epoch(update: int) -> None:
        scheduler.step(update // 5 + update % 5 / 5)

    report = plain_loop(tmp_path / "first", optimizer, scheduler, of_an_epoch, 24)
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.checks["learning rate"] == "not tested"
    (untested,) = report.claims_not_tested
    assert "step(epoch + i / 5)" in untested
    with pytest.raises(TraceError, match="was stepped to a fraction of an epoch"):
        Recorder(optimizer, tmp_path / "second", scheduler=scheduler, first_step=25)


def of_the_rate(report: Report) -> str:
    """Return the causes of the findings, which are all of the learning rate."""
    assert report.verdict is Verdict.MISMATCH, str(report)
    assert {finding.check for finding in report.findings} == {"learning rate"}, str(report)
    return " | ".join(finding.cause for finding in report.findings)
