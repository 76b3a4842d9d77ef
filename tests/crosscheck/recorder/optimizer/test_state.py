"""An optimizer may count its steps in the parameter group instead of in the state of each tensor, as apex's FusedAdam does."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crosscheck import Recorder, replay
from crosscheck.integrations.position import next_step
from tests.crosscheck.recording import feed, make_parameters


class CountsByGroup(torch.optim.Optimizer):
    """Adam, exact but for its count."""

    def __init__(self, params: Iterable[Tensor], key: str = "step", each: int = 1) -> None:
        self.key, self.each = key, each
        super().__init__(params, {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        del closure
        for group in self.param_groups:
            count = group[self.key] = group.get(self.key, 0) + self.each
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state |= {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                state["exp_avg"].lerp_(p.grad, 1 - b1)
                state["exp_avg_sq"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                denominator = (state["exp_avg_sq"] / (1 - b2**count)).sqrt().add_(group["eps"])
                p.addcdiv_(state["exp_avg"], denominator, value=-group["lr"] / (1 - b1**count))


def record(trace: Path, *, late_from: int = 1, slots: dict[str, str] | None = None, **how: Any) -> Any:
    parameters = make_parameters((3, 4), (5,), (2,))
    optimizer = CountsByGroup(parameters, **how)
    with Recorder(optimizer, trace, rule="adam", slots=slots):
        for step in range(1, 6):
            feed(parameters[: 2 if step >= late_from else 1], step)  # the last never has a gradient
            optimizer.step()
    return replay(trace)


@pytest.mark.parametrize("key", ["step", "t"])
def test_the_count_of_the_group_is_that_of_its_tensors(key: str, tmp_path: Path) -> None:
    report = record(tmp_path / "trace", key=key, slots=None if key == "step" else {"step": key})
    assert report.verdict == "match", str(report)


def test_a_wrong_count_is_found(tmp_path: Path) -> None:
    report = record(tmp_path / "trace", each=2)
    assert any(finding.slot == "step" and "from 0 to 2" in finding.cause for finding in report.findings), str(report)


def test_a_late_tensor_has_its_own_count_in_torch(tmp_path: Path) -> None:
    report = record(tmp_path / "trace", late_from=3)
    assert {(finding.step, finding.tensors) for finding in report.findings} == {(3, ("group0.1",))}, str(report)
    assert "step went from 0 to 3; every applied step adds 1" in str(report)


def test_a_run_that_goes_on_is_told_its_step_by_the_count_of_the_group(tmp_path: Path) -> None:
    record(tmp_path / "trace")
    parameters = make_parameters((3, 4), (5,), (2,))
    resumed = CountsByGroup(parameters)
    for step in range(1, 5):
        feed(parameters, step)
        resumed.step()
    assert next_step(tmp_path / "trace", resumed) == 5
