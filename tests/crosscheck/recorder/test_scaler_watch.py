"""A recorder that was given the loss scaler notices skipped steps by itself, and overflows of others that share it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from crosscheck import Recorder, Report, replay
from tests.crosscheck.recording import applied, make_parameters, parts_of

IMPLEMENTATIONS = {"single": {"foreach": False}, "fused": {"fused": True}}


def loop(
    trace: Path,
    overflows: Mapping[int, Iterable[str]],
    *,
    told: bool = False,
    shared: bool = True,
    keep_scale_at: int = 0,
    **how: Any,
) -> Report:
    """Record optimizer `a` in a plain loop of ten steps, in which the gradients named by step overflow."""
    parameters: dict[str, Parameter] = dict(zip("ab" if shared else "a", make_parameters((6,), (5,)), strict=False))
    optimizers = {name: torch.optim.Adam([p], lr=0.1, **how) for name, p in parameters.items()}
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=4)
    with Recorder(optimizers["a"], trace, scaler=scaler) as recorder:
        for step in range(1, 11):
            for name, parameter in parameters.items():
                slope = torch.inf if name in overflows.get(step, ()) else 0.5
                scaler.scale((parameter * slope).sum()).backward()
            for name in reversed(parameters):
                scaler.step(optimizers[name])
            if told and "a" in overflows.get(step, ()):
                recorder.skipped()
            scale = scaler.get_scale()
            scaler.update(scale if step == keep_scale_at else None)
            for optimizer in optimizers.values():
                optimizer.zero_grad()
    return replay(trace)


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_skipped_steps_are_noticed(implementation: str, told: bool, tmp_path: Path) -> None:
    """Two in a row as well, and telling of them does no harm where the optimizer was not called."""
    told &= implementation == "single"
    skips = {1: "a", 4: "a", 5: "a"}
    report = loop(tmp_path / "trace", skips, told=told, shared=False, **IMPLEMENTATIONS[implementation])
    assert (report.verdict, report.checks["loss scale"], report.skipped) == ("match", "match", 3), str(report)
    assert applied(tmp_path / "trace") == [step not in skips for step in range(1, 11)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_another_optimizer_s_overflow_backs_off_the_shared_scale(implementation: str, tmp_path: Path) -> None:
    report = loop(tmp_path / "trace", {2: "b", 6: "ab"}, **IMPLEMENTATIONS[implementation])
    assert (report.verdict, report.checks["loss scale"], report.skipped) == ("match", "match", 1), str(report)
    elsewhere = [step.step for part in parts_of(tmp_path / "trace") for step in part.steps if step.overflow_elsewhere]
    assert elsewhere == [3, 7]


def test_a_shared_scale_that_does_not_back_off_is_found(tmp_path: Path) -> None:
    report = loop(tmp_path / "trace", {2: "b"}, keep_scale_at=2)
    assert {found.check for found in report.findings} == {"loss scale"}
    found = report.findings[0]
    assert (found.check, found.step, found.recorded, found.expected) == ("loss scale", 3, 64.0, 32.0)


def test_the_scaler_gets_its_methods_back_whoever_ends_first(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    first, second = (torch.optim.SGD([p], lr=0.1) for p in make_parameters((6,), (5,)))
    own = scaler.step, scaler.update
    recorders = [Recorder(o, tmp_path / name, scaler=scaler) for o, name in ((first, "first"), (second, "second"))]
    for recorder in recorders:
        assert scaler.step != own[0]
        recorder.close()
    for optimizer in (first, second):
        (parameter,) = optimizer.param_groups[0]["params"]
        scaler.scale((parameter * torch.inf).sum()).backward()
        scaler.step(optimizer)
    scaler.update()
    assert [recorder.step for recorder in recorders] == [0, 0]
    assert scaler.get_scale() == 32.0
