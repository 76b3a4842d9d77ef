"""Kinds of loops that others write: a recorder takes one line to attach and one to end, and one claim at most."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from crosscheck import Claims, Recorder, Report, Verdict, replay
from crosscheck.trace.reader import open_trace
from tests.crosscheck.recording import feed, make_parameters, parts_of


def network(*widths: int) -> nn.Sequential:
    torch.manual_seed(len(widths))
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())))


def matches(trace: Path, *, steps: int) -> Report:
    report = replay(trace)
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.steps == steps
    return report


@pytest.mark.parametrize("clamped", [False, True])
def test_two_optimizers_of_a_gan(clamped: bool, tmp_path: Path) -> None:
    """The generator's backward leaves gradients at the critic too. WGAN clamps the critic's weights between its steps."""
    generator, critic = network(4, 8, 6), network(6, 8, 1)
    of_generator, of_critic = Adam(generator.parameters(), lr=1e-3), Adam(critic.parameters(), lr=1e-3)
    first = Recorder(of_generator, tmp_path / "generator", model=generator)
    second = Recorder(
        of_critic, tmp_path / "critic", model=critic, claims=Claims(between=("param",)) if clamped else None
    )
    for step in range(12):
        of_critic.zero_grad()
        (critic(generator(torch.randn(5, 4)).detach()) - critic(torch.randn(5, 6))).mean().backward()
        of_critic.step()
        if clamped:
            with torch.no_grad():
                for parameter in critic.parameters():
                    parameter.clamp_(-0.01, 0.01)
        if step % 3 == 2:
            of_generator.zero_grad()
            (-critic(generator(torch.randn(5, 4)))).mean().backward()
            of_generator.step()
    first.close()
    second.close()
    matches(tmp_path / "generator", steps=4)
    notes = matches(tmp_path / "critic", steps=12).notes
    assert any("param was changed before steps 2 to 12" in note for note in notes) == clamped


@pytest.mark.parametrize("added", [False, True], ids=["frozen in the optimizer", "added as a group"])
def test_layers_that_are_unfrozen_later(added: bool, tmp_path: Path) -> None:
    model = network(6, 8, 8, 3)
    base, head = [*model[0].parameters(), *model[2].parameters()], [*model[4].parameters()]
    for parameter in base:
        parameter.requires_grad = False
    optimizer = SGD(head if added else [*base, *head], lr=0.1, momentum=0.9, weight_decay=0.01)
    with Recorder(optimizer, tmp_path, model=model):
        for step in range(1, 9):
            if step == 5:
                for parameter in base:
                    parameter.requires_grad_()
                if added:
                    optimizer.add_param_group({"params": base, "lr": 0.01})
            optimizer.zero_grad()
            model(torch.randn(5, 6)).square().mean().backward()
            optimizer.step()
    matches(tmp_path, steps=8)
    recorded = [
        {part.tensors[rows.tensor].name for rows in block.tensors}
        for part in parts_of(tmp_path)
        for block in part.blocks
    ]
    assert recorded[0] == {"4.weight", "4.bias"}
    assert recorded[-1] == {name for name, _ in model.named_parameters()}


def climb_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return 0.05 * parameter.grad / parameter.grad.square().sum().sqrt()


@pytest.mark.parametrize("claimed", [False, True])
def test_sharpness_aware_steps_that_add_and_subtract(claimed: bool, tmp_path: Path) -> None:
    """What is added before the second backward is subtracted after it, which gives the same number only up to a rounding."""
    model = network(6, 8, 3)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    with Recorder(optimizer, tmp_path, claims=Claims(between=("param",)) if claimed else None):
        for _ in range(6):
            inputs = torch.randn(5, 6)
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            climbs = [(p, climb_of(p)) for p in model.parameters()]
            with torch.no_grad():
                for parameter, climb in climbs:
                    parameter.add_(climb)
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            with torch.no_grad():
                for parameter, climb in climbs:
                    parameter.sub_(climb)
            optimizer.step()
    if claimed:
        matches(tmp_path, steps=6)
        return
    report = replay(tmp_path)
    assert {(finding.check, finding.slot) for finding in report.findings} == {("continuity", "param")}, str(report)
    assert report.checks["optimizer"] == "match"


class Uncorrected(torch.optim.Optimizer):
    """Somebody's Adam, without the correction of the bias."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del closure
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            if not state:
                state |= {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            state["step"] += 1
            state["exp_avg"].lerp_(p.grad, 0.1)
            state["exp_avg_sq"].mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
            p.addcdiv_(state["exp_avg"], state["exp_avg_sq"].sqrt().add_(1e-8), value=-self.param_groups[0]["lr"])


def test_a_home_made_adam_without_its_bias_corrections(tmp_path: Path) -> None:
    parameters = make_parameters((20, 30), (7,))
    optimizer = Uncorrected(parameters, lr=0.01)
    with Recorder(optimizer, tmp_path, rule="adam"):
        for step in range(1, 7):
            feed(parameters, step)
            optimizer.step()
    report = replay(tmp_path)
    assert report.verdict is Verdict.MISMATCH
    assert (report.findings[0].step, report.findings[0].slot) == (1, "param")
    assert "both bias corrections are missing" in report.findings[0].cause
    assert open_trace(tmp_path)[0].header.optimizer.endswith("Uncorrected")
