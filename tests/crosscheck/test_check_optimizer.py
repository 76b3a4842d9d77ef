"""Tests `check_optimizer`, the cross-check for test suites, and the gradients that it generates."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from crosscheck import MathMismatch, Report, UnsupportedOptimizer, Verdict, check_optimizer
from crosscheck.testing import REGIMES, SITUATIONS, gradient
from crosscheck.tolerance import WARN
from tests.crosscheck.faulty import FaultyAdam, FaultySGD

Make = Callable[[list[Parameter]], torch.optim.Optimizer]
TORCH: dict[str, Make] = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1),
    "SGD, all of it": lambda params: torch.optim.SGD(
        params, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01, maximize=True
    ),
    "SGD, Nesterov": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True, fused=True),
    "Adam": lambda params: torch.optim.Adam(params, lr=1e-3),
    "Adam, AMSGrad": lambda params: torch.optim.Adam(params, lr=1e-3, amsgrad=True, weight_decay=0.01, foreach=True),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=1e-3, maximize=True),
}


@pytest.mark.parametrize("make", TORCH.values(), ids=TORCH)
def test_torch_s_own_pass(make: Make) -> None:
    report = check_optimizer(make, steps=4, size=64, situations=())
    assert isinstance(report, Report)
    assert report.verdict is Verdict.MATCH
    assert report.findings == ()
    assert 0 <= report.max_eta <= WARN
    assert (report.steps, report.tensors) == (4, 2)
    assert report.elements >= 4 * 2 * 64


@pytest.mark.parametrize("make", TORCH.values(), ids=TORCH)
def test_torch_s_own_pass_in_every_situation(make: Make) -> None:
    report = check_optimizer(make, steps=4, size=64)
    assert (report.verdict, report.findings) == (Verdict.MATCH, ())
    assert report.max_eta <= WARN
    other = {name: came_to for name, came_to in report.situations.items() if came_to != "match"}
    fused = bool(make([Parameter(torch.zeros(1))]).param_groups[0]["fused"])
    assert list(other) == (["late gradients in float32"] if fused else [])  # torch's fused SGD raises a TypeError there
    assert set(report.situations) == {f"{name} in float32" for name in ("vectors", *SITUATIONS)}


WRONG: dict[str, tuple[Make, str, str, str]] = {
    "Nesterov": (
        lambda params: FaultySGD(params, "nesterov missing", momentum=0.9, nesterov=True),
        "sgd",
        "param",
        "Nesterov's look-ahead is missing",
    ),
    "eps": (lambda params: FaultyAdam(params, "eps in the root"), "adam", "param", "eps is inside the square root"),
    "betas": (lambda params: FaultyAdam(params, "betas swapped"), "adam", "exp_avg", "betas are swapped"),
    "Adam taken for AdamW": (
        lambda params: torch.optim.Adam(params, weight_decay=0.1),
        "adamw",
        "exp_avg",
        "coupled instead of decoupled",
    ),
}


@pytest.mark.parametrize(("make", "rule", "slot", "cause"), WRONG.values(), ids=WRONG)
def test_a_wrong_one_raises_with_the_cause_and_the_report(make: Make, rule: str, slot: str, cause: str) -> None:
    with pytest.raises(MathMismatch) as caught:
        check_optimizer(make, rule=rule, steps=4, size=64)
    assert isinstance(caught.value, AssertionError)  # test suites count this as a failure, not as an error
    report = caught.value.report
    assert isinstance(report, Report)
    assert report.verdict is Verdict.MISMATCH
    assert (report.findings[0].step, report.findings[0].slot) == (1, slot)
    assert cause in report.findings[0].cause
    assert str(caught.value) == str(report)
    assert cause in str(caught.value)


class Renamed(torch.optim.Optimizer):
    """Adam written from the paper, with its own names of state."""

    def __init__(self, params: Iterable[Parameter], flaw: float = 1.0) -> None:
        self.flaw = flaw
        super().__init__(params, {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        del closure
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                state: dict[str, Any] = self.state[p]
                if not state:
                    state |= {"t": torch.tensor(0.0), "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
                state["t"] += 1
                state["mean"].lerp_(p.grad, 1 - b1)
                state["square"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                t = float(state["t"])
                mean, square = state["mean"] / (1 - b1**t), state["square"] / (1 - b2**t)
                p.sub_(group["lr"] * self.flaw * mean / (square.sqrt() + group["eps"]))


SLOTS = {"exp_avg": "mean", "exp_avg_sq": "square", "step": "t"}


def test_one_s_own_optimizer_under_its_own_names() -> None:
    report = check_optimizer(Renamed, rule="adam", slots=SLOTS, steps=4, size=64)
    assert (report.verdict, report.rule) == (Verdict.MATCH, "adam")
    assert report.optimizer.endswith(".Renamed")
    assert set(report.power["group 0"]) == {"lr", "beta1", "beta2", "eps"}


def test_one_s_own_optimizer_with_a_flaw() -> None:
    with pytest.raises(MathMismatch, match=r"lr acts as 0\.01001 where the record says 0\.01"):
        check_optimizer(lambda params: Renamed(params, flaw=1.001), rule="adam", slots=SLOTS, steps=4, size=64)


@pytest.mark.parametrize(("make", "named"), [(Renamed, "Renamed"), (torch.optim.RMSprop, "RMSprop")])
def test_without_a_rule_it_says_which_there_are(make: Make, named: str) -> None:
    with pytest.raises(UnsupportedOptimizer) as caught:
        check_optimizer(make)
    assert named in str(caught.value)
    assert all(rule in str(caught.value).lower() for rule in ("sgd", "adam", "adamw"))


def test_a_rule_that_is_none_is_refused() -> None:
    with pytest.raises(UnsupportedOptimizer, match="lion"):
        check_optimizer(Renamed, rule="lion")


class Belief(torch.optim.Optimizer):
    """An optimizer with the options of Adam and other state: averages, the second of another name or of one number a tensor."""

    def __init__(self, params: Iterable[Parameter], second: str) -> None:
        self.second = second
        super().__init__(params, {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        del closure
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            like = torch.zeros(1) if self.second == "exp_avg_sq" else torch.zeros_like(p)
            self.state[p] |= {"step": 1, "exp_avg": torch.zeros_like(p), self.second: like}
            p.sub_(p.grad)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            "exp_avg_var",
            "typical has no slot 'exp_avg_sq', which the rule adam needs; the record has exp_avg, exp_avg_var, step",
        ),
        (
            "exp_avg_sq",
            "exp_avg_sq of typical is one number for the whole tensor, and the rule adam needs one for each element",
        ),
    ],
)
def test_other_state_than_the_rule_s_is_refused(second: str, message: str) -> None:
    with pytest.raises(UnsupportedOptimizer) as caught:
        check_optimizer(lambda params: Belief(params, second), rule="adam", steps=2, size=16, situations=())
    assert str(caught.value).startswith(message)


class Idle(torch.optim.SGD):
    """An optimizer that does nothing."""

    def step(self, closure: Any = None) -> Any:
        del closure


def test_a_check_that_cannot_fail_is_no_pass() -> None:
    with pytest.raises(MathMismatch, match="vacuous") as caught:
        check_optimizer(lambda params: torch.optim.SGD(params, lr=0.0), steps=3, size=16)
    assert isinstance(caught.value.report, Report)
    assert caught.value.report.verdict is Verdict.VACUOUS
    assert caught.value.report.reason


def test_an_optimizer_that_does_nothing_is_a_mismatch() -> None:
    with pytest.raises(MathMismatch, match="mismatch"):
        check_optimizer(lambda params: Idle(params, lr=0.1), rule="sgd", steps=3, size=16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtype_and_regimes_and_size_are_what_the_optimizer_gets(dtype: torch.dtype) -> None:
    seen: list[list[Parameter]] = []
    sizes: list[float] = []

    def make(params: list[Parameter]) -> torch.optim.Optimizer:
        def look(*_: Any) -> None:
            sizes.extend(float(p.grad.abs().max()) for p in params if p.grad is not None)

        seen.append(params)
        optimizer = torch.optim.SGD(params, lr=0.01, momentum=0.9)
        optimizer.register_step_pre_hook(look)
        return optimizer

    report = check_optimizer(
        make, steps=3, size=96, dtype=dtype, regimes=(name for name in ("huge", "tiny", "denormal")), situations=()
    )
    (params,) = seen
    assert [(p.dtype, p.shape) for p in params] == [(dtype, (96,))] * 3
    assert report.tensors == 3
    assert len(sizes) == 9
    huge, tiny, denormal = sizes[:3]
    assert huge > 1 > tiny
    assert huge > denormal


def test_the_seed_changes_the_numbers_and_nothing_else_does() -> None:
    def drawn(seed: int) -> list[Tensor]:
        kept: list[Parameter] = []

        def make(params: list[Parameter]) -> torch.optim.Optimizer:
            kept.extend(params)
            return torch.optim.SGD(params, lr=0.1)

        check_optimizer(make, steps=2, size=32, seed=seed, situations=())
        return [tensor for p in kept for tensor in (p.detach(), p.grad) if tensor is not None]

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert len(first) == 4
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


# The gradients --------------------------------------------------------------------------------------------------------

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def sample(regime: str, dtype: torch.dtype) -> Tensor:
    return gradient(regime, 20_000, dtype, seed=5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("regime", REGIMES)
def test_five_percent_are_zero_and_the_signs_are_even(regime: str, dtype: torch.dtype) -> None:
    values = sample(regime, dtype)
    assert values.dtype == dtype
    assert bool(values.isfinite().all())
    zeros = float((values == 0).double().mean())
    if dtype is not torch.float16:  # float16 rounds small numbers to zero too
        assert zeros == pytest.approx(0.05, abs=0.01)
    assert zeros > 0.04
    moving = values[values != 0]
    assert float((moving > 0).double().mean()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("regime", "center"),
    [
        ("typical", 1e-2),
        ("tiny", 1e-6),
        ("denormal", torch.finfo(torch.float32).tiny ** 0.5 / 8),
        ("huge", torch.finfo(torch.float32).max ** 0.5 / 256),
    ],
)
def test_four_decades_around_the_center(regime: str, center: float) -> None:
    sizes = sample(regime, torch.float32).double().abs()
    sizes = sizes[sizes > 0]
    assert float(sizes.log10().median()) == pytest.approx(math.log10(center), abs=0.1)
    assert float(sizes.min()) == pytest.approx(center / 100, rel=0.02)
    assert float(sizes.max()) == pytest.approx(center * 100, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_denormal_means_squares_below_the_normal_numbers(dtype: torch.dtype) -> None:
    sizes = sample("denormal", dtype).double().abs()
    sizes = sizes[sizes > 0]
    tiny = torch.finfo(dtype).tiny
    below = float((2 * sizes.log2() < math.log2(tiny)).double().mean())
    assert below > 0.5
    assert float(sizes.min()) > tiny  # the gradients themselves are normal numbers
    # An eighth in the middle leaves some on the other side, so that both kinds meet in one tensor.
    assert below < 0.9


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_huge_means_squares_near_the_upper_end_but_within(dtype: torch.dtype) -> None:
    largest = float(sample("huge", dtype).double().abs().max())
    room = torch.finfo(dtype).max / largest**2
    assert 1 < room < 100


def test_the_same_seed_gives_the_same_gradients() -> None:
    assert torch.equal(sample("typical", torch.float32), sample("typical", torch.float32))
    assert not torch.equal(gradient("typical", 100, torch.float32, 1), gradient("typical", 100, torch.float32, 2))
    state = torch.get_rng_state()
    sample("tiny", torch.float32)
    assert torch.equal(state, torch.get_rng_state())  # the user's own random numbers do not change


def test_an_unknown_regime_is_refused() -> None:
    with pytest.raises(KeyError, match="gigantic"):
        gradient("gigantic", 3, torch.float32, 0)
