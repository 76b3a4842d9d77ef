"""Each claimed schedule in Optax equals the trainer's own and torch's, over the whole run and after its end."""

import json
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.optim import lr_scheduler as twin

from crosscheck.checks.learning_rate.schedules import factors
from crosscheck.errors import TraceError
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
)
from tests.torch_schedules import configs, torch_rates

Floats = NDArray[np.float64]
_COUNTS = np.arange(5120)  # beyond the end of every run here
_NEAR_ZERO = 2.0**-50  # as a part of the peak: a cosine near zero is a difference of two numbers near one


def assert_close(found: Floats, expected: Any) -> None:
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=_NEAR_ZERO)


def assert_the_trainers(config: ScheduleConfig, total: int, per_epoch: int, applied: NDArray[np.int64]) -> None:
    factor = config.factor(RunLength(total_updates=total, updates_per_epoch=per_epoch))
    stated = json.loads(json.dumps(config.claim(RunLength(total_updates=total, updates_per_epoch=per_epoch))))
    assert_close(factors(stated, applied), [factor(int(count)) for count in applied])


CONFIGS: list[ScheduleConfig] = [
    Constant(),
    Step(step_size=1, gamma=0.9),
    Step(step_size=3, gamma=0.1, unit="updates"),
    Step(step_size=2, gamma=1.5, unit="updates"),
    MultiStep(milestones=(1, 4, 9), gamma=0.3),
    MultiStep(milestones=(5, 2, 2), gamma=0.3, unit="updates"),
    Exponential(gamma=0.75),
    Exponential(gamma=0.997, unit="updates"),
    Exponential(gamma=1.0),
    Cosine(),
    Cosine(warmup=1, unit="updates"),
    Cosine(warmup=2, start_factor=1 / 3, end_factor=0.1, unit="updates"),
    Cosine(warmup=2, end_factor=1.0),
    OneCycle(),
    OneCycle(pct_start=0.05),
    OneCycle(pct_start=0.6, div_factor=1.0, final_div_factor=1.0),
    OneCycle(pct_start=0.9, div_factor=10.0, final_div_factor=3.0),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_is_the_trainers(config: ScheduleConfig) -> None:
    tried = 0
    for epochs, per_epoch in [(1, 1), (1, 10), (3, 7), (12, 391)]:
        total = epochs * per_epoch
        try:
            assert_the_trainers(config, total, per_epoch, _COUNTS)
            tried += 1
        except BadInput:
            assert isinstance(config, Cosine | Step | MultiStep)  # which this run is too short for
    assert tried >= 1


@settings(max_examples=30, deadline=None)
@given(
    config=configs,
    total=st.integers(1, 500),
    per_epoch=st.integers(1, 100),
    asked=st.lists(st.integers(0, 5000), min_size=1, max_size=30),
)
def test_is_the_trainers_whatever_its_numbers(
    config: ScheduleConfig, total: int, per_epoch: int, asked: list[int]
) -> None:
    try:
        assert_the_trainers(config, total, per_epoch, np.resize([0, total - 1, total, *asked], 32))
    except BadInput:
        assert isinstance(config, Cosine | Step | MultiStep)  # which this run is too short for


Make = Callable[[torch.optim.Optimizer], twin.LRScheduler]


def warm_cosine(optimizer: torch.optim.Optimizer, warmup: int, total: int, start: float, end: float) -> Any:
    linear = twin.LinearLR(optimizer, start_factor=start, end_factor=1.0, total_iters=warmup)
    cosine = twin.CosineAnnealingLR(optimizer, total - warmup, eta_min=end)
    return twin.SequentialLR(optimizer, [linear, cosine], milestones=[warmup])


def onecycle(
    total: int, pct_start: float = 0.3, div: float = 25.0, final_div: float = 1e4, *, linear: bool = False
) -> tuple[Any, Make, int]:
    stated = {"total": total, "pct_start": pct_start, "div_factor": div, "final_div_factor": final_div}

    def make(optimizer: torch.optim.Optimizer) -> twin.LRScheduler:
        return twin.OneCycleLR(
            optimizer,
            max_lr=1.0,
            total_steps=total,
            pct_start=pct_start,
            div_factor=div,
            final_div_factor=final_div,
            anneal_strategy="linear" if linear else "cos",
            cycle_momentum=False,
        )

    return {"name": "linear onecycle" if linear else "onecycle", **stated}, make, total


def cosine(warmup: int, total: int, start: float = 0.01, end: float = 0.0) -> tuple[Any, Make, int]:
    stated = {"warmup": warmup, "total": total, "start_factor": start, "end_factor": end}
    return (
        {"name": "cosine", **stated},
        lambda optimizer: (
            warm_cosine(optimizer, warmup, total, start, end)
            if warmup
            else twin.CosineAnnealingLR(optimizer, total, eta_min=end)
        ),
        total + 1,
    )


def polynomial(total: int, power: float) -> tuple[Any, Make, int]:
    stated = {"name": "polynomial", "total": total, "power": power}
    return stated, lambda optimizer: twin.PolynomialLR(optimizer, total, power), total + 10


TORCH: list[tuple[Any, Make, int]] = [
    ({"name": "constant"}, lambda o: twin.ConstantLR(o, factor=1.0), 10),
    ({"name": "step", "size": 390, "gamma": 0.1}, lambda o: twin.StepLR(o, 390, 0.1), 1170),
    ({"name": "step", "size": 1, "gamma": 0.5}, lambda o: twin.StepLR(o, 1, 0.5), 200),
    (
        {"name": "multistep", "milestones": [780, 1000, 1000], "gamma": 0.1},
        lambda o: twin.MultiStepLR(o, [780, 1000, 1000], 0.1),
        1170,
    ),
    ({"name": "exponential", "size": 1, "gamma": 0.999}, lambda o: twin.ExponentialLR(o, 0.999), 3000),
    ({"name": "exponential", "size": 1, "gamma": 1.01}, lambda o: twin.ExponentialLR(o, 1.01), 1000),
    cosine(0, 5000),
    cosine(100, 1170),
    cosine(3, 4, 1.0, 0.25),
    cosine(1, 1000, 1e-6, 1.0),
    onecycle(1170),
    onecycle(1000, 0.25, 10.0, 3.0),
    onecycle(1, 0.5),
    onecycle(2),
    onecycle(3),
    onecycle(7, 0.5),
    onecycle(10, 0.95),
    onecycle(11, 0.2, 1.0, 1e10),
    *(onecycle(total, 0.23, 5.0, linear=True) for total in (1000, 1, 2, 3, 7)),
    *(polynomial(total, power) for total, power in ((49, 0.25), (49, 1.0), (1170, 0.5), (1170, 2.0), (7, 0.0))),
]


@pytest.mark.parametrize(("stated", "make", "updates"), TORCH, ids=[str(stated) for stated, _, _ in TORCH])
@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")  # SequentialLR's own
def test_is_torchs(stated: Any, make: Make, updates: int) -> None:
    assert_close(factors(stated, _COUNTS)[:updates], torch_rates(make, updates))


def test_the_last_update_of_one_cycle_is_exact_to_rounding() -> None:
    """`optax.cosine_onecycle_schedule` is off by a factor of 31 there."""
    found = factors(onecycle(1170)[0], np.array([0, 350, 1169, 9999]))
    np.testing.assert_allclose(found, [1 / 25, 1.0, 1 / 25e4, 1 / 25e4], rtol=1e-12)


def test_counts_are_in_updates_whatever_the_configuration_counts_in() -> None:
    def stated(config: ScheduleConfig) -> dict[str, Any]:
        return config.claim(RunLength(total_updates=1170, updates_per_epoch=390))

    assert stated(Constant()) == {"name": "constant"}
    assert stated(Step(step_size=2)) == {"name": "step", "size": 780, "gamma": 0.1}
    assert stated(Step(step_size=2, unit="updates")) == {"name": "step", "size": 2, "gamma": 0.1}
    assert stated(MultiStep(milestones=(2, 3))) == {"name": "multistep", "milestones": [780, 1170], "gamma": 0.1}
    assert stated(Exponential(gamma=0.9)) == {"name": "exponential", "size": 390, "gamma": 0.9}
    warm = {"warmup": 390, "total": 1170, "start_factor": 0.01, "end_factor": 0.0}
    assert stated(Cosine(warmup=1)) == {"name": "cosine", **warm}
    assert stated(OneCycle()) == onecycle(1170)[0]


@pytest.mark.parametrize("size", [1, 3, 49, 98, 103, 391])
def test_a_plateau_ends_with_its_last_update(size: int) -> None:
    """Optax's own `exponential_decay`, compiled, ends 37 of these 60 plateaus late if their size is 49."""
    found = factors({"name": "step", "size": size, "gamma": 0.5}, np.arange(60 * size))
    assert found.tolist() == [0.5 ** (count // size) for count in range(60 * size)]


@pytest.mark.parametrize("power", [0.1, 0.5, 1.0])
def test_a_polynomial_is_zero_from_its_end_on(power: float) -> None:
    """Of Optax's own `polynomial_schedule`, compiled, the root of what is left after 49 of 49 updates is NaN."""
    assert factors({"name": "polynomial", "total": 49, "power": power}, np.arange(49, 60)).tolist() == [0.0] * 11


def test_many_milestones() -> None:
    found = factors({"name": "multistep", "milestones": list(range(1, 100_001)), "gamma": 0.5}, np.arange(1000))
    np.testing.assert_allclose(found, [0.5**count for count in range(1000)], rtol=1e-15)


def test_float64_without_a_change_to_jax() -> None:
    found = factors({"name": "exponential", "size": 1, "gamma": 0.9}, np.arange(5))
    assert found.tolist() == [0.9**count for count in range(5)]
    assert jnp.ones(()).dtype == np.float32


@pytest.mark.parametrize(
    "stated",
    [
        {"name": "step", "size": 1, "gamma": 1e200},
        {"name": "exponential", "size": 1, "gamma": 1e200},
        {"name": "multistep", "milestones": [1, 2, 3], "gamma": 1e200},
        {"name": "multistep", "milestones": [1, 2, 2], "gamma": 1e200},
    ],
    ids=str,
)
def test_a_rate_that_grows_beyond_float64_is_infinite(stated: Any) -> None:
    assert factors(stated, np.arange(5))[[0, 1, 3, 4]].tolist() == [1.0, 1e200, math.inf, math.inf]


@pytest.mark.parametrize("gamma", [1e-200, 5e-324])
@pytest.mark.parametrize("lengths", [{"name": "step", "size": 1}, {"name": "multistep", "milestones": [1, 2]}], ids=str)
def test_a_rate_that_shrinks_below_float64_is_zero(lengths: Any, gamma: float) -> None:
    found = factors({**lengths, "gamma": gamma}, np.arange(3))
    np.testing.assert_allclose(found, [1.0, gamma, 0.0], rtol=1e-12, atol=1e-307)


def test_lengths_beyond_any_run() -> None:
    far, counts = 2**63 - 1, np.array([0, 10**9, 2**53])
    assert factors({"name": "step", "size": far, "gamma": 0.1}, counts).tolist() == [1.0] * 3
    assert factors({"name": "multistep", "milestones": [far], "gamma": 0.1}, counts).tolist() == [1.0] * 3
    late = {"name": "cosine", "warmup": 0, "total": far, "start_factor": 0.01, "end_factor": 0.0}
    assert factors(late, counts).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert np.isfinite(factors(onecycle(far)[0], counts)).all()


def test_a_schedule_is_compiled_once_however_many_groups_ask(caplog: pytest.LogCaptureFixture) -> None:
    with jax.log_compiles():
        factors(onecycle(73)[0], np.arange(11))
        assert "Compiling" in caplog.text
        caplog.clear()
        factors(dict(reversed(onecycle(73)[0].items())), np.arange(11, 22))
        assert "Compiling" not in caplog.text


def test_no_updates_no_factors() -> None:
    assert factors(onecycle(10)[0], np.array([], np.int64)).shape == (0,)


GOOD: dict[str, dict[str, Any]] = {
    "step": {"name": "step", "size": 390, "gamma": 0.1},
    "multistep": {"name": "multistep", "milestones": [780, 1170], "gamma": 0.1},
    "exponential": {"name": "exponential", "size": 390, "gamma": 0.9},
    "cosine": cosine(100, 1170)[0],
    "onecycle": onecycle(1170)[0],
}
WILD: list[Any] = [None, True, "1", "inf", [], {}, [1], math.nan, math.inf, -1, -0.5, 10**400, 10**5000, -(10**5000)]
WILD_FOR: dict[str, list[Any]] = {
    "size": [0, 1.0, 2**63],
    "total": [0, 100, 1.5, 2**63],  # 100 is the warm-up
    "warmup": [1170, 1.0],
    "milestones": [1, "12", [0], [1, True], [1, None], [1.0], [[1]], [2**63], {"1": 1}],
    "gamma": [0, 0.0],
    "start_factor": [1.5],
    "end_factor": [1.5],
    "pct_start": [0, 1, 0.0, 1.0, 1.5],
    "div_factor": [0, 0.99, 1e301],
    "final_div_factor": [0, 0.99, 1e301],
}


def hostile() -> list[tuple[dict[str, Any], str]]:
    return [
        ({**good, key: value}, key)
        for good in GOOD.values()
        for key in set(good) - {"name"}
        for value in [*WILD, *WILD_FOR[key]]
        if not (key == "milestones" and value == [1])
        and not (key == "total" and good["name"] == "onecycle" and value == 100)
    ]


def test_unusable_numbers_are_refused_by_name() -> None:
    for stated, key in hostile():
        with pytest.raises(TraceError, match="; accepted: ") as caught:
            factors(stated, np.arange(3))
        told = str(caught.value)
        assert f"the schedule's {key} is " in told or "the schedule's warmup is 100; accepted: " in told
        assert len(told) < 300


@pytest.mark.parametrize("good", GOOD.values(), ids=GOOD)
def test_missing_numbers_are_named(good: dict[str, Any]) -> None:
    for key in set(good) - {"name"}:
        with pytest.raises(TraceError, match=f"the schedule has no {key}; accepted: "):
            factors({name: value for name, value in good.items() if name != key}, np.arange(3))


@pytest.mark.parametrize("name", [None, 1, "", "Step", "linear", [], {}, ["step"]], ids=str)
def test_unknown_names_are_refused(name: Any) -> None:
    with pytest.raises(TraceError, match=r"the schedule's name is .*; accepted: constant, step, multistep"):
        factors({**GOOD["step"], "name": name}, np.arange(3))


@pytest.mark.parametrize(
    "stated",
    [
        {"name": "product", "schedules": [GOOD["step"]] * 2000},
        {"name": "product", "schedules": [{"name": "sequential", "milestones": [1], "schedules": [GOOD["step"]] * 2}] * 700},
        {"name": "piecewise", "start": 1.0, "boundaries": list(range(2000)), "factors": [1.0] * 2000, "between": "none"},
    ],
    ids=["many", "within others", "boundaries"],
)  # fmt: skip
def test_a_schedule_of_thousands_of_pieces_is_refused(stated: dict[str, Any]) -> None:
    """Each piece is compiled: a header of a few megabytes would take hours."""
    with pytest.raises(TraceError, match=r"is made of 2[01]01 pieces; accepted: at most 2000"):
        factors(stated, np.arange(3))


def test_a_claim_without_a_name_is_refused() -> None:
    with pytest.raises(TraceError, match="the schedule has no name; accepted: constant, step"):
        factors({}, np.arange(3))


def test_keys_that_the_schedule_does_not_know_are_refused() -> None:
    with pytest.raises(TraceError, match="the schedule step has a key 'unit'; it takes gamma, size"):
        factors({**GOOD["step"], "unit": "epochs"}, np.arange(3))
