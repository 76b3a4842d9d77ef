"""Every way to step a schedule wrongly is planted in a real loop with torch's own schedulers."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as twin

from crosscheck import Finding
from crosscheck.checks.learning_rate.claimed_rates import Formula
from crosscheck.checks.learning_rate.fractional_epochs import updates_of_an_epoch
from crosscheck.checks.learning_rate.rates import RateUsed, check_learning_rates
from crosscheck.errors import TraceError
from distrib.optim.schedule import Cosine, Exponential, MultiStep, OneCycle, RunLength, ScheduleConfig, Step

Stepping = Callable[[twin.LRScheduler, int, bool], None]
"""A function that steps the scheduler after an attempt, given the scheduler, the number of the attempt, and whether it was
applied."""

PEAKS = (0.1, 3e-4)
TOTAL, PER_EPOCH = 40, 10
SKIP = (1, 9, 10, 23)
RANKS = 3

CONFIGS: dict[str, ScheduleConfig] = {
    "step": Step(step_size=7, gamma=0.5, unit="updates"),
    "multistep": MultiStep(milestones=(2, 3), gamma=0.1),
    "exponential": Exponential(gamma=0.9, unit="updates"),
    "cosine": Cosine(),
    "warm cosine": Cosine(warmup=5, unit="updates", end_factor=0.05),
    "onecycle": OneCycle(),
}
each_schedule = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def rightly(scheduler: twin.LRScheduler, step: int, applied: bool) -> None:
    del step
    if applied:
        scheduler.step()


def always(scheduler: twin.LRScheduler, step: int, applied: bool) -> None:
    del applied
    rightly(scheduler, step, applied=True)


def never(scheduler: twin.LRScheduler, step: int, applied: bool) -> None:
    del scheduler, step, applied


def once_per_rank(scheduler: twin.LRScheduler, step: int, applied: bool) -> None:
    for _ in range(RANKS):
        rightly(scheduler, step, applied)


def once_per_rank_always(scheduler: twin.LRScheduler, step: int, applied: bool) -> None:
    del applied
    once_per_rank(scheduler, step, applied=True)


def loop(
    make: Callable[[torch.optim.Optimizer], twin.LRScheduler],
    stepping: Stepping = rightly,
    *,
    attempts: int = TOTAL,
    skip: Sequence[int] = SKIP,
    peaks: Sequence[float] = PEAKS,
) -> list[RateUsed]:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(()))], "lr": peak} for peak in peaks]
    optimizer = torch.optim.SGD(groups)
    scheduler = make(optimizer)
    record: list[RateUsed] = []
    for step in range(1, attempts + 1):
        applied = step not in skip
        record.append(RateUsed(step, applied, tuple(float(group["lr"]) for group in optimizer.param_groups)))
        optimizer.step()
        stepping(scheduler, step, applied)
    return record


def train(config: ScheduleConfig, stepping: Stepping = rightly, **how: Any) -> list[RateUsed]:
    factor = config.factor(RunLength(total_updates=TOTAL, updates_per_epoch=PER_EPOCH))
    return loop(lambda optimizer: twin.LambdaLR(optimizer, factor), stepping, **how)


def stated(config: ScheduleConfig) -> dict[str, Any]:
    return config.claim(RunLength(total_updates=TOTAL, updates_per_epoch=PER_EPOCH))


def findings(
    config: ScheduleConfig, record: Sequence[RateUsed], initial: Sequence[float] = PEAKS, **run: Any
) -> list[Finding]:
    return check_learning_rates(stated(config), initial, record, **run)


def assert_named(config: ScheduleConfig, record: Sequence[RateUsed], cause: str, **run: Any) -> list[Finding]:
    """Check that each group has a finding with this cause at exactly the steps with a wrong rate. Return the findings."""
    factor = config.factor(RunLength(total_updates=TOTAL, updates_per_epoch=PER_EPOCH))
    count, wrong = run.get("applied_before", 0), list[int]()
    for used in record:
        if used.lr[0] != pytest.approx(PEAKS[0] * factor(count), rel=1e-9, abs=1e-15):
            wrong.append(used.step)
        count += used.applied
    found = findings(config, record, **run)
    assert [finding.tensor for finding in found] == ["group 0", "group 1"]
    for finding in found:
        assert (finding.step, finding.last_step, finding.steps) == (wrong[0], wrong[-1], len(wrong))
        assert finding.cause == f"lr is not what the {stated(config)['name']} schedule gives: {cause}"
    return found


@each_schedule
@pytest.mark.parametrize("skip", [(), (1,), SKIP, tuple(range(2, 30))], ids=str)
def test_a_right_loop_is_right(config: ScheduleConfig, skip: Sequence[int]) -> None:
    record = train(config, skip=skip)
    assert findings(config, record, world_size=RANKS) == []
    resumed_at = 25
    before = sum(used.applied for used in record[:resumed_at])
    assert findings(config, record[resumed_at:], applied_before=before, world_size=RANKS) == []


@each_schedule
def test_beyond_the_end_of_the_run_too(config: ScheduleConfig) -> None:
    assert findings(config, train(config, attempts=3 * TOTAL)) == []


CHAINABLE: list[tuple[Any, Callable[[torch.optim.Optimizer], twin.LRScheduler]]] = [
    ({"name": "constant"}, lambda o: twin.ConstantLR(o, factor=1.0)),
    ({"name": "step", "size": 70, "gamma": 0.3}, lambda o: twin.StepLR(o, 70, 0.3)),
    ({"name": "exponential", "size": 1, "gamma": 0.997}, lambda o: twin.ExponentialLR(o, 0.997)),
    (
        {"name": "cosine", "warmup": 0, "total": 5000, "start_factor": 1.0, "end_factor": 0.0},
        lambda o: twin.CosineAnnealingLR(o, 5000),
    ),
    (
        {"name": "onecycle", "total": 5000, "pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4},
        lambda o: twin.OneCycleLR(o, max_lr=0.1, total_steps=5000, cycle_momentum=False),
    ),
]


@pytest.mark.parametrize(("schedule", "make"), CHAINABLE, ids=[str(stated) for stated, _ in CHAINABLE])
def test_torchs_own_rounding_is_no_error_and_a_millionth_is(schedule: Any, make: Any) -> None:
    record = loop(make, attempts=4990, peaks=(0.1,))
    assert check_learning_rates(schedule, (0.1,), record) == []
    for at in (0, 1, 2500, 4500):
        wrong = record.copy()
        wrong[at] = wrong[at]._replace(lr=(wrong[at].lr[0] * (1 + 1e-6),))
        (found,) = check_learning_rates(schedule, (0.1,), wrong)
        assert (found.step, found.last_step, found.steps, found.elements) == (at + 1, at + 1, 1, 1)
        assert found.eta == pytest.approx(1e-6 * 2**53, rel=0.01)
        assert found.cause.endswith("no mistake of the catalogue explains it")


@each_schedule
def test_counting_skipped_steps(config: ScheduleConfig) -> None:
    record = train(config, always)
    assert_named(config, record, "the schedule counts skipped steps", world_size=RANKS)
    first = next(step for step, used in enumerate(record) if used.step > 3)
    before = sum(used.applied for used in record[:first])
    assert_named(config, record[first:], "the schedule counts skipped steps", applied_before=before)


@each_schedule
def test_counting_skipped_steps_since_a_resume_only(config: ScheduleConfig) -> None:
    whole = train(config)
    before = sum(used.applied for used in whole[:12])
    factor = config.factor(RunLength(total_updates=TOTAL, updates_per_epoch=PER_EPOCH))
    record = [
        used._replace(lr=tuple(peak * factor(before + row) for peak in PEAKS)) for row, used in enumerate(whole[12:])
    ]
    assert_named(config, record, "the schedule counts skipped steps", applied_before=before)


@each_schedule
@pytest.mark.parametrize("skip", [(), SKIP])
def test_stepping_once_per_rank(config: ScheduleConfig, skip: Sequence[int]) -> None:
    record = train(config, once_per_rank, skip=skip)
    assert_named(config, record, "the schedule steps once per rank, 3 times an update", world_size=RANKS)


@each_schedule
def test_stepping_once_per_rank_on_skipped_steps_too(config: ScheduleConfig) -> None:
    record = train(config, once_per_rank_always)
    cause = "the schedule steps once per rank, 3 times an update, and counts skipped steps"
    assert_named(config, record, cause, world_size=RANKS)


def test_torchs_cosine_stepped_once_per_rank_rises_again_and_is_named_all_the_same() -> None:
    record = loop(lambda optimizer: twin.CosineAnnealingLR(optimizer, TOTAL), once_per_rank)
    assert record[28].lr[0] > 2 * record[14].lr[0]
    (one, _) = findings(Cosine(), record, world_size=RANKS)
    assert one.step == 3  # the first attempt was skipped
    assert one.cause.endswith("the schedule steps once per rank, 3 times an update")


@each_schedule
def test_one_update_ahead(config: ScheduleConfig) -> None:
    factor = config.factor(RunLength(total_updates=TOTAL, updates_per_epoch=PER_EPOCH))
    record = loop(lambda optimizer: twin.LambdaLR(optimizer, lambda count: factor(count + 1)))
    assert_named(config, record, "the schedule is one update ahead")


@each_schedule
def test_one_update_behind(config: ScheduleConfig) -> None:
    factor = config.factor(RunLength(total_updates=TOTAL, updates_per_epoch=PER_EPOCH))
    record = loop(lambda optimizer: twin.LambdaLR(optimizer, lambda count: factor(max(count - 1, 0))))
    assert_named(config, record, "the schedule is one update behind")


EVERY = 10
ONCE_AN_EPOCH: dict[str, Any] = {
    "name": "every",
    "updates": EVERY,
    "schedule": {"name": "step", "size": 3, "gamma": 0.5},
}


def stepped(times: Callable[[int], int]) -> list[RateUsed]:
    """Return the rates of a StepLR that was stepped so many times before each of 60 updates."""
    return used(*(0.1 * 0.5 ** (times(update) // 3) for update in range(60)))


STEPPED_OTHERWISE: list[tuple[Callable[[int], int], str]] = [
    (lambda update: update, "the schedule steps once an update, not once in 10; if that is meant, give .*_every=1"),
    (lambda update: update // 7, "the schedule steps once in 7 updates, not once in 10; .*, give .*_every=7"),
    (lambda update: update // EVERY * 2, "the schedule steps 2 times in 10 updates"),
    (lambda update: update // EVERY + 1, "the schedule is one of its steps ahead"),
]


@pytest.mark.parametrize(("times", "cause"), STEPPED_OTHERWISE)
def test_a_schedule_of_epochs_that_is_stepped_at_other_times(times: Callable[[int], int], cause: str) -> None:
    assert check_learning_rates(ONCE_AN_EPOCH, (0.1,), stepped(lambda update: update // EVERY)) == []
    (found,) = check_learning_rates(ONCE_AN_EPOCH, (0.1,), stepped(times))
    assert found.cause is not None
    assert re.fullmatch(f"lr is not what the step schedule, stepped once in 10 updates, gives: {cause}", found.cause)


@pytest.mark.parametrize("skip", [(2,), (15, 33), (10, 20)], ids=str)
def test_a_schedule_of_epochs_may_count_their_batches(skip: Sequence[int]) -> None:
    """A loop that steps its scheduler after each epoch of batches counts those whose steps were skipped as well."""
    batches = [used._replace(applied=used.step not in skip) for used in stepped(lambda attempt: attempt // EVERY)]
    assert check_learning_rates(ONCE_AN_EPOCH, (0.1,), batches) == []
    before = sum(used.applied for used in batches[:35])
    assert check_learning_rates(ONCE_AN_EPOCH, (0.1,), batches[35:], applied_before=before) == []
    updates = loop(
        lambda optimizer: twin.LambdaLR(optimizer, lambda count: 0.5 ** (count // EVERY // 3)), attempts=60, skip=skip
    )
    assert check_learning_rates(ONCE_AN_EPOCH, PEAKS, updates) == []


def test_a_schedule_of_epochs_does_not_count_now_batches_and_now_updates() -> None:
    claim = {"name": "every", "updates": 2, "schedule": {"name": "exponential", "size": 1, "gamma": 0.5}}
    batches, updates = (0, 0, 1, 1, 2, 2, 3, 3), (0, 0, 0, 1, 1, 2, 2, 3)
    for counted, right in ((batches, True), (updates, True), ((*batches[:4], *updates[4:]), False)):
        record = [RateUsed(step, step != 2, (0.1 * 0.5**epoch,)) for step, epoch in enumerate(counted, 1)]
        assert (check_learning_rates(claim, (0.1,), record) == []) == right


def test_an_epoch_is_estimated_by_the_steps_that_a_change_takes() -> None:
    claim = ONCE_AN_EPOCH["schedule"]
    (found,) = check_learning_rates(claim, (0.1,), stepped(lambda update: update // 7))
    assert found.cause is not None
    assert "the schedule steps once in 7 updates; if that is meant, as once an epoch" in found.cause


@pytest.mark.parametrize(("batches", "rest"), [(48, ""), (45, " (1 in the last update of an epoch)")])
def test_stepping_after_each_micro_batch(batches: int, rest: str) -> None:
    """Of the second epoch the first update has four micro-batches again."""
    ends = [batch for batch in range(batches) if batch % 4 == 3 or batch == batches - 1]
    claim = {"name": "exponential", "size": 1, "gamma": 0.99}
    record = used(*(0.1 * 0.99 ** (epoch * batches + batch) for epoch in range(2) for batch in ends))
    (found,) = check_learning_rates(claim, (0.1,), record)
    assert found.cause == (
        f"lr is not what the exponential schedule gives: the schedule steps after each of 4 micro-batches{rest}"
    )


def test_a_claim_that_starts_elsewhere_than_the_record_is_named_where_rates_are_wrong() -> None:
    claim = {"name": "step", "size": 3, "gamma": 0.5}
    going_on = used(*(0.1 * 0.5 ** (6 + row // 3) for row in range(9)))  # from the rate that the optimizer restored
    (found,) = check_learning_rates(claim, (0.1,), going_on, applied_before=20, claimed_before=0)
    assert found.cause is not None
    assert "the claim goes on from 0 applied updates, and the record from 20" in found.cause
    right = used(*(0.1 * 0.5 ** ((20 + row) // 3) for row in range(9)))
    assert check_learning_rates(claim, (0.1,), right, applied_before=20, claimed_before=0) == []


def test_eta_of_rates_in_float32_counts_roundoffs_of_float32() -> None:
    (found,) = check_learning_rates({"name": "constant"}, (0.25,), used(0.25, 0.25 * (1 + 2**-20)))
    assert found.eta == 2.0**4


RESTARTS: dict[str, Any] = {"name": "warm restarts", "period": 3, "multiplier": 2, "end_factor": 0.01}


@pytest.mark.parametrize("shift", [0, 1])
def test_fractions_of_an_epoch_are_told_apart_from_counts(shift: int) -> None:
    counts = np.maximum(np.arange(80) - shift, 0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.1)
    scheduler: Any = twin.CosineAnnealingWarmRestarts(optimizer, 3, 2, eta_min=0.001)
    rates: list[float] = []
    for count in counts:
        scheduler.step(int(count) // 7 + int(count) % 7 / 7)
        rates.append(optimizer.param_groups[0]["lr"])
    assert updates_of_an_epoch(Formula(RESTARTS), 0.1, np.array(rates), counts) == 7
    assert updates_of_an_epoch(Formula(RESTARTS), 0.1, np.array(rates) * 0.9, counts) is None
    assert updates_of_an_epoch(Formula(RESTARTS), 0.1, np.full(80, 0.1), counts) is None
    (found,) = check_learning_rates(RESTARTS, (0.1,), used(*rates))
    assert found.cause is not None
    assert ("its periods are 7 times as long" in found.cause) == (shift == 0)


@each_schedule
def test_never_stepped(config: ScheduleConfig) -> None:
    found = findings(config, train(config, never))
    first = config.factor(RunLength(total_updates=TOTAL, updates_per_epoch=PER_EPOCH))(0)
    for peak, finding in zip(PEAKS, found, strict=True):
        assert finding.cause.endswith(f": it stays at {peak * first:.6g}, as if the schedule never stepped")
        assert finding.recorded == pytest.approx(peak * first)


@each_schedule
def test_no_schedule_at_all(config: ScheduleConfig) -> None:
    record = loop(lambda optimizer: twin.LambdaLR(optimizer, lambda _: 1.0))
    assert [finding.cause.partition(": ")[2] for finding in findings(config, record)] == [
        "it stays at 0.1, as if the schedule never stepped",
        "it stays at 0.0003, as if the schedule never stepped",
    ]


@each_schedule
def test_a_schedule_that_starts_over_at_a_resume(config: ScheduleConfig) -> None:
    whole = train(config, skip=(), attempts=2 * TOTAL)
    rest = [used._replace(lr=again.lr) for used, again in zip(whole[25:], whole, strict=False)]
    assert_named(config, rest, "the schedule started over at step 26", applied_before=25)


@each_schedule
def test_another_initial_lr_in_one_group(config: ScheduleConfig) -> None:
    record = train(config, peaks=(0.1, 4e-4))
    (found,) = findings(config, record)
    assert (found.tensor, found.step, found.steps, found.last_step) == ("group 1", 1, TOTAL, TOTAL)
    assert found.cause.endswith("the initial lr acts as 0.0004 where the claim says 0.0003 (1.33333 times)")


def test_another_constant() -> None:
    record = loop(lambda optimizer: twin.ConstantLR(optimizer, factor=1.0), peaks=(0.4,))
    (found,) = check_learning_rates({"name": "constant"}, (0.1,), record)
    assert (found.step, found.recorded, found.expected, found.steps) == (1, 0.4, 0.1, TOTAL)
    assert found.eta == pytest.approx(3 * 2**53)
    assert found.cause == (
        "lr is not what the constant schedule gives: the initial lr acts as 0.4 where the claim says 0.1 (4 times)"
    )


def test_a_mistake_from_the_middle_on_is_located() -> None:
    config = CONFIGS["cosine"]
    record = train(config, lambda scheduler, step, applied: rightly(scheduler, step, applied or step == 23))
    for found in findings(config, record):
        assert (found.step, found.last_step, found.steps) == (24, 40, 17)
        assert found.cause.endswith("no mistake of the catalogue explains it")


def test_a_group_that_joins_later_is_judged_from_then_on() -> None:
    record = train(CONFIGS["cosine"], skip=())
    grown = [used._replace(lr=used.lr[:1]) if used.step <= 10 else used for used in record]
    assert findings(CONFIGS["cosine"], grown) == []
    (found,) = findings(CONFIGS["cosine"], grown, (0.1, 3e-3))
    assert (found.tensor, found.step, found.steps) == ("group 1", 11, 30)


def used(*rates: float) -> list[RateUsed]:
    return [RateUsed(step, True, (rate,)) for step, rate in enumerate(rates, 1)]


GROWING = {"name": "exponential", "size": 1, "gamma": 1e200}


@pytest.mark.parametrize(
    ("schedule", "initial", "rates"),
    [
        ({"name": "constant"}, 0.0, (0.0, 0.0, 0.0)),
        ({"name": "constant"}, math.inf, (math.inf, math.inf)),
        ({"name": "constant"}, math.nan, (math.nan, math.nan)),
        (GROWING, 0.1, (0.1, 1e199, math.inf, math.inf)),
        (GROWING, 0.0, (0.0, 0.0, math.nan)),
        ({**GROWING, "gamma": 1e-155}, 0.1, (0.1, 1e-156, 1e-311, 0.0)),
        ({**GROWING, "gamma": 1e-155}, 1e100, (1e100, 1e-55, 1e-210, 0.0)),
    ],
)
def test_unusual_numbers_that_are_right(schedule: Any, initial: float, rates: Sequence[float]) -> None:
    assert check_learning_rates(schedule, (initial,), used(*rates)) == []


@pytest.mark.parametrize(
    ("schedule", "initial", "rates", "step", "eta"),
    [
        ({"name": "constant"}, 0.1, (0.1, math.nan), 2, math.inf),
        ({"name": "constant"}, 0.1, (0.1, math.inf), 2, math.inf),
        ({"name": "constant"}, 0.1, (0.1, -math.inf), 2, math.inf),
        ({"name": "constant"}, 0.1, (0.1, -0.1), 2, 2.0**54),
        ({"name": "constant"}, 0.1, (0.1, 0.0), 2, 2.0**53),
        ({"name": "constant"}, 0.0, (0.0, 1e-300), 2, math.inf),
        ({"name": "constant"}, math.inf, (math.inf, 1.0), 2, math.inf),
        ({"name": "constant"}, math.inf, (math.inf, -math.inf), 2, math.inf),
        ({"name": "constant"}, math.nan, (math.nan, 1.0), 2, math.inf),
        (GROWING, 0.1, (0.1, 1e199, 1e300), 3, math.inf),
        (GROWING, 0.1, (0.1, 1e199, math.nan), 3, math.inf),
        ({**GROWING, "gamma": 0.1}, 0.1, (0.1, 0.01, 0.0), 3, 2.0**53),
        ({**GROWING, "gamma": 1e-30}, 0.1, (0.1, 1e-31, 2e-61), 3, 2.0**53),
    ],
)
def test_unusual_numbers_that_are_wrong(
    schedule: Any, initial: float, rates: Sequence[float], step: int, eta: float
) -> None:
    (found,) = check_learning_rates(schedule, (initial,), used(*rates))
    assert (found.step, found.steps) == (step, 1)
    assert found.eta == pytest.approx(eta)


def test_one_attempt_is_no_ground_for_another_initial_lr() -> None:
    (found,) = check_learning_rates({"name": "constant"}, (0.1,), used(0.2))
    assert found.cause.endswith("no mistake of the catalogue explains it")


def test_no_attempts_no_findings_but_the_claim_is_read() -> None:
    assert check_learning_rates({"name": "constant"}, (0.1,), []) == []
    with pytest.raises(TraceError, match="the schedule has no gamma"):
        check_learning_rates({"name": "exponential", "size": 1}, (0.1,), [])


def test_numbers_of_steps_may_be_any_size() -> None:
    late = [RateUsed(10**15 + row, True, (0.1 * 0.5 ** ((10**15 + row) // 10**14),)) for row in range(3)]
    schedule = {"name": "step", "size": 10**14, "gamma": 0.5}
    assert check_learning_rates(schedule, (0.1,), late, applied_before=10**15) == []
    assert np.isfinite([used.lr[0] for used in late]).all()
