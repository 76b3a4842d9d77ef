"""All elements together show what none shows alone, and correct steps stay within what rounding may do."""

from pathlib import Path
from typing import Any

import pytest
import torch

from crosscheck import Claims, Recorder, Report, Verdict, replay


class WrongRate(torch.optim.SGD):
    """An SGD whose learning rate is larger than its group says, by a factor."""

    factor = 1.0

    def step(self, closure: Any = None) -> Any:
        del closure
        said = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= self.factor
        super().step()
        for group, lr in zip(self.param_groups, said, strict=True):
            group["lr"] = lr


def report_of(
    folder: Path, factor: float, dtype: torch.dtype = torch.float32, steps: int = 30, **options: Any
) -> Report:
    """Record steps of parameters that are all about one in size, so that storing them hides a part of their change."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter((torch.rand(256) / 2 + 1.25).to(dtype)) for _ in range(20)]
    optimizer = WrongRate(parameters, lr=1e-3, **options)
    optimizer.factor = factor
    with Recorder(optimizer, folder / "trace", steps=[], coordinates=256):
        for _ in range(steps):
            for p in parameters:
                p.grad = torch.randn_like(p)
            optimizer.step()
    return replay(folder / "trace")


def test_a_rate_that_no_element_shows_is_found_by_all_together(tmp_path: Path) -> None:
    report = report_of(tmp_path, 1 + 1.3e-5, steps=150)
    assert report.max_eta < 8
    assert report.verdict is Verdict.MISMATCH, str(report)
    (finding,) = report.findings
    assert finding.slot == "lr"
    assert "all elements together are consistent with lr x 1.00001" in finding.cause


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("implementation", ["single", "foreach", "fused"])
def test_correct_steps_stay_within_what_rounding_may_do(
    tmp_path: Path, dtype: torch.dtype, implementation: str
) -> None:
    options = {"single": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}[implementation]
    report = report_of(tmp_path, 1.0, dtype, **options)
    assert not report.findings, str(report)


def test_constant_gradients_of_equal_elements_are_no_false_alarm(tmp_path: Path) -> None:
    """Every element is rounded the same way at every step, which no averaging takes away."""
    p = torch.nn.Parameter(torch.ones(500))
    optimizer = torch.optim.SGD([p], lr=0.0123)
    with Recorder(optimizer, tmp_path / "trace", steps="all"):
        for _ in range(100):
            p.grad = torch.full_like(p, 0.1)
            optimizer.step()
    report = replay(tmp_path / "trace")
    assert report.verdict is Verdict.MATCH, str(report)


class Stochastic(torch.optim.SGD):
    """An SGD that rounds bfloat16 parameters at random to one of their neighbours."""

    def step(self, closure: Any = None) -> Any:
        del closure
        for group in self.param_groups:
            for p in group["params"]:
                wide = p.detach().float() - group["lr"] * p.grad.float()
                noise = torch.randint(0, 2**16, wide.shape, dtype=torch.int32)
                with torch.no_grad():
                    p.copy_(((wide.view(torch.int32) + noise) & -65536).view(torch.float32).bfloat16())


@pytest.mark.parametrize("claimed", [True, False])
def test_stochastic_rounding_is_right_if_it_is_claimed(tmp_path: Path, claimed: bool) -> None:
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(2000).bfloat16())
    claims = Claims(stochastic_rounding=True) if claimed else None
    optimizer = Stochastic([p], lr=0.05, fused=True)
    with Recorder(optimizer, tmp_path / "trace", steps="all", claims=claims):
        for _ in range(4):
            p.grad = torch.randn_like(p)
            optimizer.step()
    report = replay(tmp_path / "trace")
    assert report.verdict is (Verdict.MATCH if claimed else Verdict.MISMATCH), str(report)
    assert report.profiles == (("fused on cpu, rounded at random",) if claimed else ("fused on cpu",))
