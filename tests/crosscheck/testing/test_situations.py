"""Optimizers that are right for vectors, and wrong in one situation: `check_optimizer` says in which, and which pass."""

import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from crosscheck import MathMismatch, Report, Verdict, check_optimizer
from crosscheck.testing import SITUATIONS
from crosscheck.testing.situation import Make, other_options


class Flawed(torch.optim.SGD):
    """SGD with momentum and decay, with a flaw that shows in one situation only."""

    def __init__(self, params: Iterable[Tensor], flaw: str) -> None:
        self.flaw, self.outside = flaw, dict[Tensor, Tensor]()
        super().__init__(params, lr=0.1, momentum=0.9, weight_decay=0.05)
        self.first = {**self.param_groups[0]}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                options = self.first if self.flaw == "options of the first group" else group
                kept = group.setdefault("kept", group["lr"]) if self.flaw == "rate kept from the start" else group["lr"]
                lr = 2 * kept if self.flaw == "everything" else kept
                self._one(parameter, lr, options, len({p.dtype for p in group["params"]}))

    def _one(self, p: Tensor, lr: float, options: dict[str, Any], dtypes: int) -> None:
        grad, state = p.grad, self.state[p]
        if grad is None and self.flaw == "absent taken for zero" and state:
            grad = torch.zeros_like(p)
        if grad is None or (self.flaw == "zero taken for absent" and not grad.any()):
            return
        wd = options["weight_decay"] * (dtypes if self.flaw == "decay once per dtype" else 1)
        if self.flaw == "no decay of scalars" and p.dim() == 0:
            wd = 0.0
        if self.flaw == "matrices are projected" and p.dim() == 2 and (p * grad).sum(1).abs().max() < 1e-4:
            wd = 0.0
        if self.flaw == "strides ignored" and not p.is_contiguous():
            grad = grad.contiguous().as_strided(p.shape, p.stride())
        grad = grad.add(p, alpha=wd)
        known = self.outside.get(p) if self.flaw == "state kept outside" else state.get("momentum_buffer")
        if known is None:
            known = (
                grad.clone() if p.grad is None or self.flaw != "state shared with the gradient" else p.grad.copy_(grad)
            )
        else:
            known.mul_(options["momentum"]).add_(grad)
        state["momentum_buffer"] = self.outside[p] = known
        p.add_(known, alpha=-lr)


class CountsTogether(torch.optim.Adam):
    """Adam with one count of steps for all tensors, which matters where a gradient comes late."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        del closure
        self.count = getattr(self, "count", 0) + 1
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p not in self.state:
                    self.state[p] = {
                        "step": torch.tensor(float(self.count - 1)),
                        "exp_avg": torch.zeros_like(p),
                        "exp_avg_sq": torch.zeros_like(p),
                    }
        super().step()


CAUGHT: dict[str, tuple[str, str, str]] = {
    "matrices are projected": ("shapes", "2-D orthogonal", "0-D, 1-D, 2-D, 4-D, empty, 4-D channels-last match"),
    "no decay of scalars": ("shapes", "0-D", "1-D, 2-D, 4-D, empty, 4-D channels-last, 2-D orthogonal match"),
    "strides ignored": ("shapes", "4-D channels-last", "0-D, 1-D, 2-D, 4-D, empty, 2-D orthogonal match"),
    "decay once per dtype": ("two dtypes", "1-D float32, 2-D float32, 1-D bfloat16, 2-D bfloat16", ""),
    "options of the first group": ("two groups", "second group", "first group match"),
    "zero taken for absent": ("zero gradients", "zero gradients", "1-D"),
    "absent taken for zero": ("absent gradients", "a gradient now and then", "1-D, no gradient match"),
    "late tensors counted as the others": ("late gradients", "a late gradient", "1-D match"),
    "state shared with the gradient": ("reused gradients", "1-D, another 1-D", ""),
    "rate kept from the start": ("changed rate", "1-D, another 1-D", ""),
    "state kept outside": ("loaded state", "1-D, another 1-D", ""),
}


def _make(params: list[Parameter], flaw: str) -> torch.optim.Optimizer:
    return CountsTogether(params) if flaw == "late tensors counted as the others" else Flawed(params, flaw)


@pytest.mark.parametrize("flaw", CAUGHT)
def test_a_flaw_that_shows_in_one_situation(flaw: str) -> None:
    situation, tensors, rest = CAUGHT[flaw]
    with pytest.raises(MathMismatch) as caught:
        check_optimizer(lambda params: _make(params, flaw), steps=6, size=32)
    report = caught.value.report
    assert isinstance(report, Report)
    wrong = {name: came_to for name, came_to in report.situations.items() if came_to != "match"}
    assert list(wrong) == [f"{situation} in float32"], str(report)
    (came_to,) = wrong.values()
    assert came_to.startswith(f"mismatch of {tensors}")
    assert rest in came_to
    lines = str(caught.value).splitlines()
    assert f"- {situation} in float32: {came_to}" in lines
    passed = next(line for line in lines if line.startswith("situations that match: "))
    assert set(passed.partition(": ")[2].split(", ")) == {
        f"{name} in float32" for name in ("vectors", *SITUATIONS) if name != situation
    }


def test_without_a_flaw_it_matches() -> None:
    report = check_optimizer(lambda params: Flawed(params, "none"), steps=6, size=32)
    assert set(report.situations.values()) == {"match"}


def test_parameters_may_have_names() -> None:
    def make(params: list[Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD([(f"parameter {number}", p) for number, p in enumerate(params)], lr=0.1)

    report = check_optimizer(make, steps=2, size=16, situations=["two groups"])
    assert set(report.situations.values()) == {"match"}


def test_everything_wrong_is_told_of_every_situation() -> None:
    with pytest.raises(MathMismatch) as caught:
        check_optimizer(lambda params: Flawed(params, "everything"), steps=4, size=16)
    assert isinstance(caught.value.report, Report)
    assert not [name for name, came_to in caught.value.report.situations.items() if came_to == "match"]
    assert "situations that match: none" in str(caught.value)


def test_the_dtypes_on_request() -> None:
    asked = (torch.float64, torch.bfloat16)
    report = check_optimizer(lambda params: torch.optim.SGD(params, lr=0.1), steps=2, size=8, dtype=asked)
    assert set(report.situations) == {
        f"{name} in {dtype}" for name in ("vectors", *SITUATIONS) for dtype in ("float64", "bfloat16")
    }
    every = check_optimizer(lambda p: torch.optim.SGD(p, lr=0.1), steps=2, size=8, dtype="all", situations=["shapes"])
    assert [name.rpartition(" ")[2] for name in every.situations][::2] == ["float64", "float32", "bfloat16", "float16"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"situations": ["3 groups"]}, "no '3 groups'; accepted are shapes"),
        ({"dtype": "half"}, "dtype='half': accepted"),
        ({"dtype": []}, r"dtype=\[\]: accepted are 'all' and dtypes of torch: float64, float32"),
        ({"dtype": torch.int32}, r"dtype=\[torch.int32\]: accepted"),
        ({"regimes": ["typcial"]}, r"regimes=\('typcial',\): accepted are lists of one or more of typical, tiny"),
        ({"regimes": "typical"}, "regimes='typical': accepted"),
        ({"regimes": ()}, r"regimes=\(\): accepted"),
    ],
)
def test_what_there_is_not_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_optimizer(lambda params: torch.optim.SGD(params, lr=0.1), **wrong)


class Picky(torch.optim.SGD):
    """SGD that refuses what it was not made for."""

    def step(self, closure: Any = None) -> Any:
        if any(p.grad is None for group in self.param_groups for p in group["params"]):
            raise RuntimeError("no gradient")
        return super().step(closure)  # pyright: ignore[reportUnknownVariableType]


def test_a_situation_in_which_it_raises_is_told_and_is_no_mismatch() -> None:
    report = check_optimizer(lambda params: Picky(params, lr=0.1), rule="sgd", steps=4, size=16)
    assert report.verdict is Verdict.MATCH
    told = {name: came_to for name, came_to in report.situations.items() if came_to != "match"}
    assert told == {
        f"{name} in float32": "not tried, for the optimizer raised RuntimeError: no gradient"
        for name in ("absent gradients", "late gradients")
    }


@pytest.mark.parametrize("asked", [["absent gradients"], ["shapes", "late gradients"]])
def test_a_situation_that_was_asked_for_and_not_tried_is_no_match(asked: list[str]) -> None:
    with pytest.raises(MathMismatch) as caught:
        check_optimizer(lambda params: Picky(params, lr=0.1), rule="sgd", steps=4, size=16, situations=asked)
    assert isinstance(caught.value.report, Report)
    assert caught.value.report.verdict is Verdict.VACUOUS
    assert caught.value.report.reason == (
        f"{asked[-1]} in float32: not tried, for the optimizer raised RuntimeError: no gradient"
    )


class Careless(torch.optim.AdamW):
    """AdamW that handles some parameters in a way in which its steps cannot be replayed."""

    def __init__(self, params: Iterable[Tensor], flaw: str) -> None:
        self.flaw = flaw
        super().__init__(params, lr=0.01)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        groups, gradients = self.param_groups, dict[Tensor, Tensor]()
        if self.flaw == "first group only":
            self.param_groups = groups[:1]
        for p in (p for group in groups for p in group["params"] if p.grad is not None):
            if self.flaw == "float32 instead of bfloat16" and p.dtype is torch.bfloat16:
                p.grad, p.data = None, p.data.float()
            elif (self.flaw == "no scalars" and p.dim() == 0) or (self.flaw == "no zeros" and not p.grad.any()):
                gradients[p], p.grad = p.grad, None
        super().step(closure)  # pyright: ignore[reportUnknownMemberType]
        self.param_groups = groups
        for p, gradient in gradients.items():
            p.grad = gradient


NOT_STEPPED = "exp_avg was never written, as if the optimizer took no step"


@pytest.mark.filterwarnings("ignore:crosscheck. before step 2")
@pytest.mark.parametrize(
    ("flaw", "situation", "came_to"),
    [
        ("first group only", "two groups", f"mismatch of second group: {NOT_STEPPED}"),
        ("no scalars", "shapes", f"mismatch of 0-D: {NOT_STEPPED}"),
        ("no zeros", "zero gradients", f"mismatch of zero gradients: {NOT_STEPPED}"),
        (
            "float32 instead of bfloat16",
            "two dtypes",
            "mismatch of 1-D bfloat16, 2-D bfloat16: the optimizer made torch.float32 of parameters of torch.bfloat16",
        ),
    ],
)
def test_where_only_the_vectors_can_be_replayed_it_is_a_mismatch(flaw: str, situation: str, came_to: str) -> None:
    with pytest.raises(MathMismatch) as caught:
        check_optimizer(lambda params: Careless(params, flaw), rule="adamw", steps=4, size=16, situations=[situation])
    report = caught.value.report
    assert isinstance(report, Report)
    assert report.verdict is Verdict.MISMATCH
    assert report.situations == {"vectors in float32": "match", f"{situation} in float32": came_to}
    assert report.findings[0].cause in report.headline()


class Halves(torch.optim.Adam):
    """Adam that counts the steps of scalars wrongly, by halves."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)  # pyright: ignore[reportUnknownMemberType]
        for p, state in self.state.items():
            if p.dim() == 0:
                state["step"] = state["step"].floor() + 0.5


def test_another_refusal_is_told_without_the_file_that_is_no_more() -> None:
    with pytest.raises(MathMismatch) as caught:
        check_optimizer(lambda params: Halves(params), rule="adam", steps=3, size=16)
    assert isinstance(caught.value.report, Report)
    (told,) = (came_to for came_to in caught.value.report.situations.values() if came_to != "match")
    assert told == (
        "mismatch of 0-D: what the optimizer does here cannot be replayed, though its steps of vectors can: "
        "the slot 'step' of 0-D holds 1.5: not a number of steps"
    )


class Coarse(torch.optim.SGD):
    """SGD whose momentum is bfloat16. torch loads it as float32, so that its format changes with the next step."""

    def step(self, closure: Any = None) -> Any:
        for state in self.state.values():
            state["momentum_buffer"] = state["momentum_buffer"].float()
        super().step(closure)  # pyright: ignore[reportUnknownMemberType]
        for state in self.state.values():
            state["momentum_buffer"] = state["momentum_buffer"].bfloat16()


def test_what_the_recorder_refuses_is_neither_a_match_nor_a_mismatch() -> None:
    with pytest.raises(MathMismatch) as caught:
        check_optimizer(lambda params: Coarse(params, lr=0.1, momentum=0.9), rule="sgd", steps=6, size=16)
    report = caught.value.report
    assert isinstance(report, Report)
    assert report.verdict is Verdict.VACUOUS
    assert report.reason.startswith(
        "loaded state in float32: not tried, for the recorder refuses it: momentum_buffer of 1-D changed its format"
    )


@pytest.mark.parametrize(
    "fails", ["crosscheck.testing.check.replay", "crosscheck.recorder.step_capture.StepCapture.complete_last_step"]
)
def test_a_fault_of_the_cross_check_is_raised(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a fault of the cross-check")

    def make(params: list[Parameter]) -> torch.optim.Optimizer:
        if len(params) > 2:  # these are not the vectors alone
            monkeypatch.setattr(fails, fail)
        else:
            monkeypatch.undo()
        return torch.optim.SGD(params, lr=0.1)

    with pytest.raises(RuntimeError, match="a fault of the cross-check"):
        check_optimizer(make, steps=3, size=16, situations=["shapes"])


class ScaledTogether(torch.optim.SGD):
    """SGD that takes longer steps if it has many parameters."""

    def step(self, closure: Any = None) -> Any:
        many = len(self.param_groups[0]["params"]) > 8
        for p in self.param_groups[0]["params"]:
            if many and p.grad is not None:
                p.grad = p.grad * 2
        return super().step(closure)  # pyright: ignore[reportUnknownVariableType]


def test_what_shows_in_all_situations_at_once_only_is_a_mismatch() -> None:
    with pytest.raises(MathMismatch) as caught:
        check_optimizer(lambda params: ScaledTogether(params, lr=0.1), rule="sgd", steps=3, size=16)
    assert isinstance(caught.value.report, Report)
    wrong = {name: came_to for name, came_to in caught.value.report.situations.items() if came_to != "match"}
    assert list(wrong) == ["all at once in float32"]
    assert wrong["all at once in float32"].startswith("mismatch of vectors, ")


PARTIAL: dict[str, Make] = {
    "vectors, typical": lambda _: torch.optim.SGD([Parameter(torch.ones(2))], lr=0.1),
    "shapes, 4-D": lambda params: torch.optim.SGD([p for p in params if p.dim() != 4], lr=0.1),
}


@pytest.mark.parametrize("named", PARTIAL)
def test_an_optimizer_that_does_not_hold_every_parameter_is_refused(named: str) -> None:
    with pytest.raises(ValueError, match=f"was given the parameter '{named}', which is in none of its groups"):
        check_optimizer(PARTIAL[named], steps=2, size=16)


def test_what_it_raises_for_vectors_is_raised() -> None:
    class Broken(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            del closure
            raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        check_optimizer(lambda params: Broken(params, lr=0.1), rule="sgd")


def test_the_second_group_has_other_options_and_no_new_ones() -> None:
    adam = torch.optim.AdamW([Parameter(torch.zeros(1))], lr=0.1, betas=(0.9, 0.0)).param_groups[0]
    assert other_options(adam) == pytest.approx({"lr": 0.03, "weight_decay": 0.02, "eps": 1e-7, "betas": (0.8, 0.0)})
    assert other_options(torch.optim.SGD([Parameter(torch.zeros(1))], lr=0.1).param_groups[0]) == pytest.approx(
        {"lr": 0.03}
    )


TIMED = """
import time, jax, optax, torch
from crosscheck import check_optimizer
import crosscheck.testing
start = time.process_time()
check_optimizer(lambda params: torch.optim.AdamW(params, lr=1e-3))
print(time.process_time() - start)
"""


def test_the_default_takes_seconds() -> None:
    """It is to take less than two on an idle machine; this one may be busy, so processor time is what counts."""
    done = subprocess.run([sys.executable, "-c", TIMED], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 8
