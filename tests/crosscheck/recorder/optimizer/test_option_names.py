"""Options that an optimizer calls by other names are recorded with their meaning, or refused when the recorder is attached."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crosscheck import Claims, Recorder, Report, UnsupportedOptimizer, replay
from crosscheck.trace.format import Option
from tests.crosscheck.recording import feed, make_parameters, parts_of, take_steps


class Mine(torch.optim.Optimizer):
    """Adam or AdamW in plain arithmetic, exact, under any names for its options."""

    def __init__(self, params: Iterable[Tensor], options: dict[str, Any], *, decoupled: bool, mu: float = 0.9) -> None:
        self.decoupled, self.mu = decoupled, mu
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        del closure
        for group in self.param_groups:
            lr, eps, decay = 0.01, 1e-8, float(group.get("weight_decay") or 0)
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                state["step"] += 1
                grad = p.grad if self.decoupled else p.grad + decay * p
                if self.decoupled:
                    p.mul_(1 - lr * decay)
                state["exp_avg"].mul_(self.mu).add_(grad, alpha=1 - self.mu)
                state["exp_avg_sq"].mul_(0.99).addcmul_(grad, grad, value=1 - 0.99)
                denominator = (state["exp_avg_sq"] / (1 - 0.99 ** state["step"])).sqrt().add_(eps)
                p.addcdiv_(state["exp_avg"], denominator, value=-lr / (1 - self.mu ** state["step"]))


class MySGD(torch.optim.Optimizer):
    """SGD with momentum, exact."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        del closure
        for group in self.param_groups:
            for p in group["params"]:
                grad, state = p.grad + float(group["weight_decay"]) * p, self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = grad.clone()
                else:
                    state["momentum_buffer"].mul_(0.9).add_(grad)
                p.add_(state["momentum_buffer"], alpha=-0.1)


ADAM: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0}
BETAS = {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1}
DECOUPLED = ("weight_decouple", "decouple_weight_decay", "decoupled_decay", "decouple")


def record(trace: Path, optimizer: torch.optim.Optimizer, rule: str, **more: Any) -> Report:
    parameters = optimizer.param_groups[0]["params"]
    with Recorder(optimizer, trace, rule=rule, **more):
        take_steps(optimizer, parameters, range(1, 6))
    return replay(trace)


def options_of(trace: Path) -> dict[str, Option]:
    return parts_of(trace)[0].steps[0].options[0]


def mine(options: dict[str, Any], *, decoupled: bool = False, **more: Any) -> Mine:
    return Mine(make_parameters((3, 4), (5,)), options, decoupled=decoupled, **more)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("flag", DECOUPLED)
def test_the_flag_of_weight_decay_says_which_formula_it_is(flag: str, decoupled: bool, tmp_path: Path) -> None:
    """Under the rule adam the flag counts as torch's own does; what it says is found if the optimizer does otherwise."""
    report = record(tmp_path / "right", mine({**ADAM, flag: decoupled}, decoupled=decoupled), "adam")
    assert report.verdict == "match", str(report)
    assert options_of(tmp_path / "right")["decoupled_weight_decay"] is decoupled
    report = record(tmp_path / "wrong", mine({**ADAM, flag: not decoupled}, decoupled=decoupled), "adam")
    assert report.verdict == "mismatch", str(report)


def test_a_flag_that_is_kept_on_the_optimizer(tmp_path: Path) -> None:
    """apex's FusedAdam has adam_w_mode, 0 or 1, as an attribute."""
    optimizer = mine(ADAM, decoupled=True)
    optimizer.adam_w_mode = 1  # pyright: ignore[reportAttributeAccessIssue]
    assert record(tmp_path / "adam", optimizer, "adam").verdict == "match"
    optimizer.adam_w_mode = 0  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UnsupportedOptimizer, match=r"adam_w_mode = False of Mine .* claim rule='adam'"):
        Recorder(optimizer, tmp_path / "adamw", rule="adamw")


@pytest.mark.parametrize("as_tensors", [False, True])
def test_two_betas_by_name(as_tensors: bool, tmp_path: Path) -> None:
    options = {**BETAS, "beta2": torch.tensor(0.99, dtype=torch.float64)} if as_tensors else BETAS
    report = record(tmp_path / "right", mine(options), "adam")
    assert report.verdict == "match", str(report)
    assert options_of(tmp_path / "right")["betas"] == (0.9, 0.99)
    report = record(tmp_path / "wrong", mine(options, mu=0.8), "adam")
    assert any("beta1" in finding.cause for finding in report.findings), str(report)


@pytest.mark.parametrize("changes", [{"weight_decay": False}, {"epsilon": 1e-8, "eps": None}, {"ams_bound": False}])
def test_other_values_that_mean_the_same(changes: dict[str, Any], tmp_path: Path) -> None:
    options = {name: value for name, value in {**ADAM, **changes}.items() if value is not None}
    report = record(tmp_path / "trace", mine(options), "adam")
    assert report.verdict == "match", str(report)
    assert options_of(tmp_path / "trace").get("amsgrad", False) is False


@pytest.mark.parametrize("flag", [False, 0])
def test_dampening_and_decay_that_are_switched_off(flag: bool | int, tmp_path: Path) -> None:
    optimizer = MySGD(make_parameters((3, 4)), {**SGD, "dampening": flag, "weight_decay": flag})
    report = record(tmp_path / "trace", optimizer, "sgd")
    assert report.verdict == "match", str(report)
    assert options_of(tmp_path / "trace")["dampening"] == 0.0


def test_torch_takes_true_for_one(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(make_parameters((3, 4)), lr=0.1, momentum=0.9, dampening=True)
    assert record(tmp_path / "trace", optimizer, "auto").verdict == "match"


def test_a_claim_may_use_either_name(tmp_path: Path) -> None:
    claims = Claims(options={"group0.0": {"weight_decouple": True, "decoupled_weight_decay": True, "beta1": 0.9}})
    optimizer = mine({**BETAS, "weight_decouple": True}, decoupled=True)
    report = record(tmp_path / "trace", optimizer, "adamw", claims=claims)
    assert (report.verdict, report.checks["options"]) == ("match", "match"), str(report)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "coupled decay is not adamw": (
        "adamw",
        {**ADAM, "weight_decouple": False},
        "weight_decouple = False of Mine (parameter group 0): its weight decay goes into the gradient, where that of adamw goes "
        "past it; claim rule='adam'",
    ),
    "decoupled decay is not sgd": (
        "sgd",
        {**SGD, "weight_decay": 0.1, "weight_decouple": True},
        "weight_decouple = True of Mine (parameter group 0): its weight decay goes past the gradient",
    ),
    "two flags": (
        "adam",
        {**ADAM, "decoupled_weight_decay": False, "weight_decouple": True},
        "weight_decouple and decoupled_weight_decay of Mine (parameter group 0) contradict each other",
    ),
    "fixed decay": (
        "adamw",
        {**ADAM, "weight_decouple": True, "fixed_decay": True},
        (
            "fixed_decay = True of Mine (parameter group 0): its weight decay is not multiplied by the learning rate, which no "
            "rule covers"
        ),
    ),
    "no correction": (
        "adam",
        {**ADAM, "bias_correction": False},
        "bias_correction = False of Mine (parameter group 0): it does not correct the bias of its averages, so its formula is "
        "not that of adam, and no rule covers it",
    ),
    "rectified": ("adam", {**ADAM, "rectify": True}, "rectify = True of Mine"),
    "no betas": (
        "adam",
        {"lr": 0.1, "eps": 1e-8, "weight_decay": 0},
        "Mine (parameter group 0) has neither betas nor beta1 and beta2, which the rule needs: set them in the group",
    ),
    "three betas": (
        "adam",
        {**ADAM, "betas": (0.9, 0.99, 0.999)},
        "betas = (0.9, 0.99, 0.999) of Mine (parameter group 0): the rule needs two numbers",
    ),
    "no eps": (
        "adamw",
        {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0},
        "Mine (parameter group 0) has no eps, which the rule needs: set it in the group",
    ),
    "no momentum": (
        "sgd",
        {"lr": 0.1, "dampening": 0, "weight_decay": 0},
        "Mine (parameter group 0) has no momentum, which the rule needs: set it in the group, to 0.0 if it has no momentum",
    ),
    "dampening as a flag": (
        "sgd",
        {**SGD, "dampening": True},
        "dampening = True of Mine (parameter group 0) does not tell how much; give the number itself",
    ),
    "two numbers": (
        "adam",
        {**ADAM, "eps": (1e-30, 1e-3)},
        "eps = (1e-30, 0.001) of Mine (parameter group 0): the rule needs a number",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_when_attached(kind: str, tmp_path: Path) -> None:
    rule, options, message = REFUSED[kind]
    with pytest.raises(UnsupportedOptimizer) as caught:
        Recorder(mine(options), tmp_path / "trace", rule=rule)
    assert message in str(caught.value)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("flag", ["fixed_decay", "weight_decouple"])
def test_a_flag_without_weight_decay_is_of_no_account(flag: str, tmp_path: Path) -> None:
    optimizer = mine({**ADAM, "weight_decay": 0.0, flag: flag == "fixed_decay"})
    assert record(tmp_path / "trace", optimizer, "adamw").verdict == "match"


def test_a_formula_that_changes_later_ends_the_record(tmp_path: Path) -> None:
    optimizer = mine({**ADAM, "weight_decouple": True}, decoupled=True)
    parameters = optimizer.param_groups[0]["params"]
    with Recorder(optimizer, tmp_path / "trace", rule="adamw"):
        for step in range(1, 6):
            feed(parameters, step)
            if step == 3:
                optimizer.param_groups[0]["weight_decouple"] = optimizer.decoupled = False
                with pytest.warns(UserWarning, match=r"the record ends with step 2: weight_decouple = False of Mine"):
                    optimizer.step()
            else:
                optimizer.step()
    report = replay(tmp_path / "trace")
    assert (report.verdict, report.steps) == ("match", 2), str(report)


def factor_in_float32(step: int) -> Any:
    return np.float32(1 / (step + 1))


@pytest.mark.parametrize("how", [{}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_numbers_of_numpy(make: Any, how: Any, tmp_path: Path) -> None:
    """torch takes them, and computes in float32 with one of that format, as a scheduler's factor makes it."""
    parameters = make_parameters((40,), (5, 6))
    optimizer = make(parameters, lr=0.01, weight_decay=np.float32(0.1), **how)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor_in_float32)
    with Recorder(optimizer, tmp_path):
        for step in range(1, 8):
            feed(parameters, step)
            optimizer.step()
            scheduler.step()
    assert optimizer.param_groups[0]["lr"].dtype == np.float32
    report = replay(tmp_path)
    assert (report.verdict, report.steps) == ("match", 7), str(report)
    assert report.power["group 0"]["lr"].smallest < 1e-3
