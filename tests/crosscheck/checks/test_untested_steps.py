"""A match says which tensors it says nothing about, and a group that may not move is held to that."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import Adam, Optimizer

from crosscheck import Recorder, Report, Verdict, replay
from tests.crosscheck.recording import make_parameters, take_steps


def recorded(trace: Path, make: Callable[[Any], Optimizer], dtype: torch.dtype = torch.float32, **more: Any) -> Report:
    weight, gain = make_parameters((20, 50), (200,), dtype=dtype)
    with torch.no_grad():
        weight.mul_(0.02)
        gain.fill_(1.0)
    optimizer = make([("weight", weight), ("gain", gain)])
    with Recorder(optimizer, trace, **more):
        take_steps(optimizer, [weight, gain], range(1, 11))
    return replay(trace)


class GainStays(Adam):
    """Adam that gives a tensor back what it was: in bfloat16 a step of 1e-3 does not move a number of size one either."""

    def step(self, closure: Any = None) -> Any:
        gain = self.param_groups[0]["params"][1]
        kept = gain.detach().clone()
        super().step(closure)
        gain.data.copy_(kept)


def test_a_tensor_whose_format_hides_its_step_is_named_beside_a_match(tmp_path: Path) -> None:
    report = recorded(tmp_path / "trace", lambda p: GainStays(p, lr=1e-3, fused=True), torch.bfloat16, rule="adam")
    assert report.verdict is Verdict.MATCH
    assert report.headline().endswith("; 1 tensor not tested")
    assert report.tensors_not_tested == 1
    assert any(line.startswith("the step of gain by itself") for line in report.not_tested)


@pytest.mark.parametrize(("rate", "untested"), [(3e-3, 1), (5e-3, 0)])
def test_a_tensor_is_tested_if_a_step_twice_as_large_would_have_shown(
    rate: float, untested: int, tmp_path: Path
) -> None:
    """Below one the numbers of bfloat16 are 2^-8 apart: rounding to them hides twice a step of 0.003, and not one of 0.005."""
    report = recorded(tmp_path / "trace", lambda p: Adam(p, lr=rate, fused=True), torch.bfloat16)
    assert (report.verdict, report.tensors_not_tested) == (Verdict.MATCH, untested)


def test_where_the_format_shows_the_step_it_is_a_mismatch(tmp_path: Path) -> None:
    report = recorded(tmp_path / "trace", lambda p: GainStays(p, lr=1e-3, fused=True), rule="adam")
    assert report.verdict is Verdict.MISMATCH
    assert {name for finding in report.findings for name in finding.tensors} == {"gain"}


def _by_group(*rates: float, kind: type[Adam] = Adam) -> Callable[[Any], Optimizer]:
    return lambda named: kind(
        [{"params": [parameter], "lr": rate} for parameter, rate in zip(named, rates, strict=True)]
    )


def test_a_group_at_a_rate_of_zero_does_not_make_the_others_vacuous(tmp_path: Path) -> None:
    report = recorded(tmp_path / "trace", _by_group(1e-3, 0.0))
    assert report.verdict is Verdict.MATCH
    assert "group 1 had a rate of zero at every step, and was checked not to move" in report.notes
    assert report.tensors_not_tested == 0


class MovesAtZero(Adam):
    """Adam that moves the second group although its rate is zero."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        self.param_groups[1]["params"][0].data.add_(1e-6)


def test_a_group_that_moves_at_a_rate_of_zero_is_a_mismatch(tmp_path: Path) -> None:
    report = recorded(tmp_path / "trace", _by_group(1e-3, 0.0, kind=MovesAtZero), rule="adam")
    assert report.verdict is Verdict.MISMATCH


def test_a_group_whose_rate_does_not_show_is_named(tmp_path: Path) -> None:
    report = recorded(tmp_path / "trace", _by_group(1e-3, 1e-12))
    assert report.verdict is Verdict.VACUOUS
    assert (
        "not even a rate twice as large would have shown in group 1: nothing there could have failed" in report.reason
    )


def test_a_group_of_an_empty_tensor_is_left_out(tmp_path: Path) -> None:
    """Nothing in it can move, so it takes nothing from what the others show."""
    weight, nothing = make_parameters((20, 50), (0, 3))
    optimizer = Adam([{"params": [weight]}, {"params": [nothing], "weight_decay": 0.1}])
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, [weight, nothing], range(1, 5))
    report = replay(tmp_path)
    assert (report.verdict, report.not_tested) == (Verdict.MATCH, ("eps",))
    assert set(report.power) == {"group 0"}


def test_a_record_of_empty_tensors_alone_is_vacuous(tmp_path: Path) -> None:
    (nothing,) = make_parameters((0, 3))
    optimizer = Adam([nothing])
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, [nothing], range(1, 5))
    report = replay(tmp_path)
    assert (report.verdict, report.reason) == (
        Verdict.VACUOUS,
        "no recorded step moved anything that could be checked",
    )


def test_a_hyperparameter_that_a_mismatch_names_is_not_called_untested(tmp_path: Path) -> None:
    """Every element shows that the rate is another one, so the record tests it, however far off it is."""

    class Thrice(Adam):
        def step(self, closure: Any = None) -> Any:
            self.param_groups[0]["lr"] *= 3
            super().step(closure)
            self.param_groups[0]["lr"] /= 3

    report = recorded(tmp_path / "trace", lambda p: Thrice(p, lr=1e-3), rule="adam")
    assert "lr acts as 0.003" in report.findings[0].cause
    assert not any("lr" in line for line in report.not_tested)
    assert report.power["group 0"]["lr"].smallest < 1e-3
