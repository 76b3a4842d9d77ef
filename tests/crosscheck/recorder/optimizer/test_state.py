"""State is found under names of the optimizer's own, with any kind of count: in the group, as apex's FusedAdam has it, too."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crosscheck import Recorder, replay
from crosscheck.integrations.position import next_step
from tests.crosscheck.recording import feed, make_parameters, parts_of, take_steps


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


class OwnNames(torch.optim.Optimizer):
    """Adam under names of its own, which keeps an average of its parameters as `exp_avg`."""

    def __init__(self, params: Iterable[Tensor], begin: Any) -> None:
        self.begin = begin
        super().__init__(params, {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        del closure
        for p in self.param_groups[0]["params"]:
            state: dict[str, Any] = self.state[p]
            if not state:
                state |= {"step": self.begin, **{name: torch.zeros_like(p) for name in ("m", "v", "exp_avg")}}
            state["step"] = state["step"] + 1
            count = int(state["step"])
            state["m"].lerp_(p.grad, 0.1)
            state["v"].mul_(0.99).addcmul_(p.grad, p.grad, value=0.01)
            state["exp_avg"].lerp_(p, 0.01)
            p.addcdiv_(state["m"], (state["v"] / (1 - 0.99**count)).sqrt().add_(1e-8), value=-0.01 / (1 - 0.9**count))


@pytest.mark.parametrize("begin", [0, np.int64(0), np.float32(0), torch.tensor(0)])
def test_a_count_of_any_kind_beside_a_name_that_the_rule_has_for_something_else(begin: Any, tmp_path: Path) -> None:
    parameters = make_parameters((3, 4), (5,))
    optimizer = OwnNames(parameters, begin)
    with Recorder(optimizer, tmp_path, rule="adam", slots={"exp_avg": "m", "exp_avg_sq": "v"}):
        take_steps(optimizer, parameters, range(1, 5))
    report = replay(tmp_path)
    assert (report.verdict, report.steps) == ("match", 4), str(report)
    slots = {name for block in parts_of(tmp_path)[0].blocks for rows in block.tensors for name in rows.slots}
    assert slots == {"step", "exp_avg", "exp_avg_sq", "state exp_avg"}
