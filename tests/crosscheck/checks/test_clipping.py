"""The way of the gradient from backward to the optimizer, where the loop tells little or nothing of clipping."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim.lr_scheduler import LRScheduler, StepLR

from crosscheck import Claims, Recorder, Report, TraceError, Verdict, replay
from tests.crosscheck.recording import make_parameters

SCALE = 1024.0
Loop = Callable[[int, Parameter, torch.optim.Optimizer, Recorder], object]
"""Does what a loop does after `backward` in a step, whose number comes first."""


def run(
    trace: Path,
    loop: Loop,
    *,
    told: bool = False,
    scale: float = 1.0,
    scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    **recording: Any,
) -> Report:
    """Record a few steps of a loop that steps the optimizer itself. `told`: it tells the recorder of each clipping."""
    (weight,) = make_parameters((3, 4))
    optimizer = torch.optim.SGD([("weight", weight)], lr=1e-5, momentum=0.9)
    made = None if scheduler is None else scheduler(optimizer)
    with Recorder(optimizer, trace, scheduler=made, **recording) as recorder:
        if told:
            recorder.loop.watch_clipping()
        for step in range(1, 7):
            optimizer.zero_grad()
            slope = torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
            (weight * slope * scale).sum().backward()
            loop(step, weight, optimizer, recorder)
    return replay(trace)


def clip(weight: Parameter, recorder: Recorder) -> None:
    recorder.loop.clipped(norm=0.1)
    clip_grad_norm_([weight], 0.1)


def clips_late(step: int, weight: Parameter, optimizer: torch.optim.Optimizer, recorder: Recorder) -> None:
    recorder.after_backward()
    if step > 3:
        clip(weight, recorder)
    optimizer.step()


def looks_at_norms(step: int, weight: Parameter, optimizer: torch.optim.Optimizer, recorder: Recorder) -> None:
    del weight
    recorder.after_backward()
    if step % 3 == 0:
        recorder.loop.clipped(norm=float("inf"))
    optimizer.step()


def clips_values_now_and_then(
    step: int, weight: Parameter, optimizer: torch.optim.Optimizer, recorder: Recorder
) -> None:
    recorder.after_backward()
    if step % 2:
        recorder.loop.clipped(value=0.1)
        clip_grad_value_([weight], 0.1)
    optimizer.step()


def clips_after_the_step(step: int, weight: Parameter, optimizer: torch.optim.Optimizer, recorder: Recorder) -> None:
    del step
    recorder.after_backward()
    optimizer.step()
    clip(weight, recorder)


@pytest.mark.parametrize("loop", [clips_late, looks_at_norms, clips_values_now_and_then])
def test_a_loop_may_tell_of_clipping_in_some_steps_only(loop: Loop, tmp_path: Path) -> None:
    report = run(tmp_path, loop, told=True, claims=Claims())
    assert (report.verdict, report.checks["clipping"]) == (Verdict.MATCH, "match"), str(report)


def test_clipping_that_comes_after_the_step_is_found(tmp_path: Path) -> None:
    report = run(tmp_path, clips_after_the_step, told=True, claims=Claims())
    assert "not clipped (or only after the step)" in str(report)


def scaler_of(*, given: bool) -> tuple[torch.amp.GradScaler, dict[str, Any]]:
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    scaler.scale(torch.ones(()))  # makes its tensors
    return scaler, {"scaler": scaler} if given else {}


@pytest.mark.parametrize("given", [True, False], ids=["given", "found"])
@pytest.mark.parametrize("clipped", [False, True], ids=["", "clipped"])
def test_a_loss_scale_is_held_to_without_a_claim(given: bool, clipped: bool, tmp_path: Path) -> None:
    """Clipping that is not claimed is no mistake."""
    scaler, how = scaler_of(given=given)

    def loop(step: int, weight: Parameter, optimizer: torch.optim.Optimizer, recorder: Recorder) -> None:
        del step
        recorder.after_backward()
        scaler.unscale_(optimizer)
        if clipped:
            clip_grad_norm_([weight], 0.1)
        scaler.step(optimizer)
        scaler.update()

    report = run(tmp_path, loop, scale=SCALE, **how)
    assert (report.verdict, report.checks["clipping"]) == (Verdict.MATCH, "not tested" if clipped else "match")


@pytest.mark.parametrize(
    ("exponent", "cause"),
    [(0, "the gradient is not divided by the loss scale"), (2, "the gradient is divided by the loss scale twice")],
)
def test_a_loss_scale_that_is_not_divided_by_once(exponent: int, cause: str, tmp_path: Path) -> None:
    _, how = scaler_of(given=True)

    def loop(step: int, weight: Parameter, optimizer: torch.optim.Optimizer, recorder: Recorder) -> None:
        del step
        recorder.after_backward()
        assert weight.grad is not None
        weight.grad /= SCALE**exponent
        optimizer.step()

    report = run(tmp_path, loop, scale=SCALE, **how)
    assert {finding.check for finding in report.findings} == {"clipping"}
    assert any(cause in finding.cause for finding in report.findings), str(report)


def test_what_else_is_done_to_a_gradient_is_not_blamed_without_a_claim(tmp_path: Path) -> None:
    scaler, how = scaler_of(given=True)

    def loop(step: int, weight: Parameter, optimizer: torch.optim.Optimizer, recorder: Recorder) -> None:
        recorder.after_backward()
        scaler.unscale_(optimizer)
        assert weight.grad is not None
        weight.grad *= 1 + 0.1 * torch.rand(3, 4, generator=torch.Generator().manual_seed(step))
        scaler.step(optimizer)
        scaler.update()

    report = run(tmp_path, loop, scale=SCALE, **how)
    assert (report.verdict, report.checks["clipping"]) == (Verdict.MATCH, "not tested")


def test_after_backward_that_comes_after_unscaling_is_named_too(tmp_path: Path) -> None:
    scaler, how = scaler_of(given=True)

    def loop(step: int, weight: Parameter, optimizer: torch.optim.Optimizer, recorder: Recorder) -> None:
        del step, weight
        scaler.unscale_(optimizer)
        recorder.after_backward()
        scaler.step(optimizer)
        scaler.update()

    assert "(or after_backward came after that)" in str(run(tmp_path, loop, scale=SCALE, **how))


def test_gradients_without_a_claim_are_said_to_be_unchecked(tmp_path: Path) -> None:
    def loop(step: int, weight: Parameter, optimizer: torch.optim.Optimizer, recorder: Recorder) -> None:
        del step, weight
        recorder.after_backward()
        optimizer.step()

    report = run(tmp_path, loop)
    assert report.checks["clipping"] == "not tested"
    assert any("nothing says how they are clipped, so they were not checked" in note for note in report.notes)
    with pytest.raises(TraceError, match="clipping was not tested"):
        replay(tmp_path, require=["clipping"])
    assert run(tmp_path / "claimed", loop, claims=Claims()).checks["clipping"] == "match"


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_scheduler_says_nothing_of_clipping(by_hand: bool, tmp_path: Path) -> None:
    def loop(step: int, weight: Parameter, optimizer: torch.optim.Optimizer, recorder: Recorder) -> None:
        del step
        recorder.after_backward()
        clip_grad_norm_([weight], 0.1)
        optimizer.step()

    claims = Claims(applied=0) if by_hand else None
    report = run(tmp_path, loop, scheduler=lambda optimizer: StepLR(optimizer, 100), claims=claims)
    assert report.checks["clipping"] == ("mismatch" if by_hand else "not tested"), str(report)
    assert (report.verdict is Verdict.MATCH) == (not by_hand)


@pytest.mark.parametrize(("twice", "verdict"), [(False, Verdict.MATCH), (True, Verdict.MISMATCH)])
def test_with_a_scheduler_a_loss_scale_is_held_to_as_well(twice: bool, verdict: Verdict, tmp_path: Path) -> None:
    scaler, how = scaler_of(given=True)

    def loop(step: int, weight: Parameter, optimizer: torch.optim.Optimizer, recorder: Recorder) -> None:
        del step
        recorder.after_backward()
        scaler.unscale_(optimizer)
        assert weight.grad is not None
        weight.grad /= SCALE if twice else 1.0
        scaler.step(optimizer)
        scaler.update()

    report = run(tmp_path, loop, scale=SCALE, scheduler=lambda optimizer: StepLR(optimizer, 100), **how)
    assert (report.verdict, report.checks["clipping"]) == (verdict, verdict.value), str(report)


def test_clipping_is_not_tested_if_every_step_was_skipped(tmp_path: Path) -> None:
    def loop(step: int, weight: Parameter, optimizer: torch.optim.Optimizer, recorder: Recorder) -> None:
        del step, weight, optimizer
        recorder.after_backward()
        recorder.skipped()

    report = run(tmp_path, loop, clip_norm=1.0)
    assert (report.verdict, report.checks["clipping"]) == (Verdict.VACUOUS, "not tested")
    assert "clip_norm = 1: no step on record was applied" in str(report)
