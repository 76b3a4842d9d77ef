"""Each schedule is its torch twin, as a pure function."""

import math
from collections.abc import Iterable
from itertools import product
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.optim import lr_scheduler as twin

from distrib.errors import BadInput
from distrib.optim.schedule import (
    Constant,
    Cosine,
    Exponential,
    MultiStep,
    OneCycle,
    RunLength,
    ScheduleConfig,
    Step,
    Unit,
)
from tests.torch_schedules import Scheduler, configs, torch_rates

LENGTHS = [(1, 2), (1, 3), (1, 17), (3, 1), (3, 7), (10, 40), (5, 391)]  # epochs, updates per epoch

each_length = pytest.mark.parametrize(("epochs", "per_epoch"), LENGTHS)
each_unit = pytest.mark.parametrize("unit", ["updates", "epochs"])


def assert_equal(
    config: ScheduleConfig,
    epochs: int,
    per_epoch: int,
    expected: list[float],
    *,
    rel: float = 1e-12,
    of_peak: float = 0,
) -> None:
    """To 1e-12 of each value; `of_peak` (which is 1.0) is for values near zero that come from a difference."""
    factor = config.factor(RunLength(total_updates=epochs * per_epoch, updates_per_epoch=per_epoch))
    found = [factor(applied) for applied in range(epochs * per_epoch)]
    assert found == pytest.approx(expected, rel=rel, abs=of_peak)


@each_length
def test_constant(epochs: int, per_epoch: int) -> None:
    assert_equal(Constant(), epochs, per_epoch, [1.0] * (epochs * per_epoch))


def within_the_run(sizes: Iterable[int]) -> list[tuple[int, int, Unit, int]]:
    """All lengths and units with each size, in units, that is shorter than the run."""
    units: tuple[Unit, ...] = ("updates", "epochs")
    return [
        (epochs, per_epoch, unit, size)
        for (epochs, per_epoch), unit, size in product(LENGTHS, units, sizes)
        if size * (per_epoch if unit == "epochs" else 1) < epochs * per_epoch
    ]


@pytest.mark.parametrize(("epochs", "per_epoch", "unit", "size"), within_the_run((1, 2, 3, 50)))
@pytest.mark.parametrize("gamma", [0.9, 0.1, 0.5, 0.25])
def test_step(epochs: int, per_epoch: int, unit: Unit, size: int, gamma: float) -> None:
    every = per_epoch if unit == "epochs" else 1
    expected = torch_rates(lambda o: twin.StepLR(o, size, gamma), epochs * per_epoch, every=every)
    assert_equal(Step(step_size=size, gamma=gamma, unit=unit), epochs, per_epoch, expected)


@pytest.mark.parametrize(("epochs", "per_epoch", "unit", "last"), within_the_run((1, 3, 9, 60)))
@pytest.mark.parametrize("others", [(), (1,), (2, 2), (1, 4)])
def test_multistep(epochs: int, per_epoch: int, unit: Unit, last: int, others: tuple[int, ...]) -> None:
    every = per_epoch if unit == "epochs" else 1
    milestones = (*(other for other in others if other < last), last)
    expected = torch_rates(lambda o: twin.MultiStepLR(o, list(milestones), 0.3), epochs * per_epoch, every=every)
    assert_equal(MultiStep(milestones=milestones, gamma=0.3, unit=unit), epochs, per_epoch, expected)


@each_length
@each_unit
@pytest.mark.parametrize("gamma", [0.75, 0.97, 1.0, 1.01])
def test_exponential(epochs: int, per_epoch: int, unit: Unit, gamma: float) -> None:
    every = per_epoch if unit == "epochs" else 1
    expected = torch_rates(lambda o: twin.ExponentialLR(o, gamma), epochs * per_epoch, every=every)
    assert_equal(Exponential(gamma=gamma, unit=unit), epochs, per_epoch, expected)


@pytest.mark.parametrize(("epochs", "per_epoch", "unit", "warmup"), within_the_run((0, 1, 2, 30)))
@pytest.mark.parametrize(("start", "end"), [(0.01, 0.0), (1 / 3, 0.1), (1.0, 1.0)])
@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")  # SequentialLR's own
def test_cosine(epochs: int, per_epoch: int, unit: Unit, warmup: int, start: float, end: float) -> None:
    total, warm_updates = epochs * per_epoch, warmup * (per_epoch if unit == "epochs" else 1)

    def make(optimizer: torch.optim.Optimizer) -> Scheduler:
        cosine = twin.CosineAnnealingLR(optimizer, total - warm_updates, eta_min=end)
        if not warm_updates:
            return cosine
        linear = twin.LinearLR(optimizer, start_factor=start, end_factor=1.0, total_iters=warm_updates)
        return twin.SequentialLR(optimizer, [linear, cosine], milestones=[warm_updates])

    config = Cosine(warmup=warmup, start_factor=start, end_factor=end, unit=unit)
    # torch sums up rounding errors.
    assert_equal(config, epochs, per_epoch, torch_rates(make, total), rel=0, of_peak=1e-12)

    def closed(applied: int) -> float:
        if applied < warm_updates:
            return start + (1 - start) * applied / warm_updates
        angle = math.pi * (applied - warm_updates) / (total - warm_updates)
        return end + (1 - end) * math.cos(angle / 2) ** 2

    assert_equal(config, epochs, per_epoch, [closed(applied) for applied in range(total)], of_peak=1e-15)


@pytest.mark.parametrize(("epochs", "per_epoch"), [*LENGTHS, (1, 1), (1, 5)])
@pytest.mark.parametrize("pct_start", [0.3, 0.05, 0.6, 0.9])
@pytest.mark.parametrize(("div", "final_div"), [(25.0, 1e4), (1.0, 1.0), (10.0, 3.0)])
@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_onecycle(
    epochs: int, per_epoch: int, pct_start: float, div: float, final_div: float, anneal: Literal["cos", "linear"]
) -> None:
    total = epochs * per_epoch
    expected = torch_rates(
        lambda o: twin.OneCycleLR(
            o,
            max_lr=1.0,
            total_steps=total,
            pct_start=pct_start,
            div_factor=div,
            final_div_factor=final_div,
            anneal_strategy=anneal,
            cycle_momentum=False,
        ),
        total,
    )
    config = OneCycle(pct_start=pct_start, div_factor=div, final_div_factor=final_div, anneal_strategy=anneal)
    assert_equal(config, epochs, per_epoch, expected)


@pytest.mark.parametrize(("total", "pct_start"), [(2, 0.5), (4, 0.25), (10, 0.1)])
def test_onecycle_whose_rise_takes_no_update_starts_at_the_peak(total: int, pct_start: float) -> None:
    """There torch divides zero by zero."""
    factor = OneCycle(pct_start=pct_start).factor(RunLength(total_updates=total, updates_per_epoch=1))
    found = [factor(applied) for applied in range(total)]
    assert found[0] == 1.0
    assert found[-1] == pytest.approx(1 / (25.0 * 1e4), rel=1e-12)
    assert found == sorted(found, reverse=True)


def test_cosine_reaches_its_end_when_the_run_is_complete() -> None:
    factor = Cosine(warmup=2, end_factor=0.25, unit="updates").factor(RunLength(total_updates=12, updates_per_epoch=4))
    assert factor(0) == 0.01
    assert factor(2) == 1.0
    assert factor(7) == pytest.approx(0.625, rel=1e-12)
    assert factor(12) == 0.25


@pytest.mark.parametrize(("warmup", "unit", "updates"), [(3, "epochs", 12), (4, "epochs", 16), (12, "updates", 12)])
def test_warmup_as_long_as_the_run_is_bad_input(warmup: int, unit: Unit, updates: int) -> None:
    with pytest.raises(BadInput) as caught:
        Cosine(warmup=warmup, unit=unit).factor(RunLength(total_updates=12, updates_per_epoch=4))
    for word in (f"schedule.warmup = {warmup} {unit}", f"{updates} updates", "12", "shorten", "training.epochs"):
        assert word in str(caught.value)


def test_warmup_one_update_shorter_than_the_run_is_fine() -> None:
    factor = Cosine(warmup=11, unit="updates").factor(RunLength(total_updates=12, updates_per_epoch=4))
    assert factor(11) == 1.0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Step(step_size=3), ("schedule.step_size = 3 epochs", "update 12")),
        (Step(step_size=50), ("schedule.step_size = 50 epochs", "update 200")),
        (Step(step_size=12, unit="updates"), ("schedule.step_size = 12 updates", "update 12")),
        (MultiStep(milestones=(3,)), ("schedule.milestones = [3] epochs", "update 12")),
        (MultiStep(milestones=(1, 50)), ("schedule.milestones = [1, 50] epochs", "update 200")),
        (MultiStep(milestones=(50, 1)), ("schedule.milestones = [50, 1] epochs", "update 200")),
        (MultiStep(milestones=(12,), unit="updates"), ("schedule.milestones = [12] updates", "update 12")),
    ],
    ids=str,
)
def test_a_drop_that_the_run_never_reaches_is_bad_input(config: ScheduleConfig, words: tuple[str, ...]) -> None:
    with pytest.raises(BadInput) as caught:
        config.factor(RunLength(total_updates=12, updates_per_epoch=4))
    for word in (*words, "the whole run has 12", "choose less", "training.epochs"):
        assert word in str(caught.value)


@pytest.mark.parametrize("config", [Step(step_size=11, unit="updates"), MultiStep(milestones=(11,), unit="updates")])
def test_a_drop_in_the_last_update_is_fine(config: ScheduleConfig) -> None:
    factor = config.factor(RunLength(total_updates=12, updates_per_epoch=4))
    assert (factor(10), factor(11)) == (1.0, 0.1)


@settings(max_examples=40, deadline=None)
@given(
    config=configs,
    total=st.integers(1, 500),
    per_epoch=st.integers(1, 100),
    asked=st.lists(st.integers(0, 5000), min_size=1),
)
def test_factor_is_pure_finite_and_never_above_the_peak_even_after_the_end(
    config: ScheduleConfig, total: int, per_epoch: int, asked: list[int]
) -> None:
    try:
        factor = config.factor(RunLength(total_updates=total, updates_per_epoch=per_epoch))
    except BadInput:
        assert isinstance(config, Step | MultiStep | Cosine)
        return
    answers = {applied: factor(applied) for applied in asked}
    assert all(0.0 <= value <= 1.0 + 1e-12 for value in answers.values())
    # A resumed run asks in another order.
    again = config.factor(RunLength(total_updates=total, updates_per_epoch=per_epoch))
    assert {applied: again(applied) for applied in reversed(asked)} == answers


@pytest.mark.parametrize("config", [Cosine(end_factor=0.1), Cosine(warmup=1), OneCycle()], ids=str)
def test_after_the_end_the_last_value_stays(config: ScheduleConfig) -> None:
    factor = config.factor(RunLength(total_updates=40, updates_per_epoch=10))
    assert factor(40) == pytest.approx(factor(10_000), abs=1e-12)
    assert factor(41) == factor(10_000)


@each_unit
@pytest.mark.parametrize(("kind", "options"), [(Step, {"step_size": 3}), (MultiStep, {"milestones": (2, 5)})])
def test_epochs_are_so_many_updates(unit: Unit, kind: type[Step] | type[MultiStep], options: dict[str, object]) -> None:
    factor = kind.model_validate(options | {"unit": unit}).factor(RunLength(total_updates=80, updates_per_epoch=10))
    drops = [applied for applied in range(1, 80) if factor(applied) < factor(applied - 1)]
    expected = [3, 6] if kind is Step else [2, 5]
    assert drops[:2] == [edge * (10 if unit == "epochs" else 1) for edge in expected]


REFUSED: list[tuple[type[ScheduleConfig], dict[str, object]]] = [
    (Step, {}),
    (Step, {"step_size": 0}),
    (MultiStep, {"milestones": ()}),
    (MultiStep, {"milestones": (0, 3)}),
    (Exponential, {"gamma": 0.0}),
    (Cosine, {"warmup": -1}),
    (Cosine, {"start_factor": 0.0}),
    (Cosine, {"end_factor": 1.5}),
    (OneCycle, {"pct_start": 1.0}),
    (OneCycle, {"div_factor": 0.5}),
]


@pytest.mark.parametrize(("kind", "options"), REFUSED)
def test_senseless_values_are_refused(kind: type[ScheduleConfig], options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(options)
