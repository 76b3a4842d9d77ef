"""A claim that the record could not have contradicted is told, in the report and in its JSON, and is no mismatch."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from crosscheck import Claims, Recorder, Report, TraceError, replay
from tests.crosscheck.recording import make_parameters, take_steps


def run(
    trace: Path,
    claims: dict[str, Any],
    *,
    look: bool = True,
    steps: Iterable[int] = range(1, 5),
    overflows: Iterable[int] = (),
    growth_interval: int = 100,
    first: int = 1,
) -> Report:
    """Record a correct loop that does what it claims, and replay it."""
    (weight,) = make_parameters((3, 4))
    average = Parameter(weight.detach().clone())
    optimizer = torch.optim.SGD([("weight", weight)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, claims.get("schedule", {}).get("size", 1000), 0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=growth_interval)
    averaged = [(weight, average)] if "average" in claims else []
    with Recorder(
        optimizer, trace, scaler=scaler, claims=Claims(**claims), average=averaged, first_step=first, append=first > 1
    ) as recorder:
        count = claims.get("averaged", 0)
        for step in steps:
            optimizer.zero_grad()
            slope = torch.full_like(weight, torch.inf if step in overflows else 0.5)
            scaler.scale((weight * slope).sum()).backward()
            if look:
                recorder.after_backward()
            scale, last = scaler.get_scale(), recorder.step
            scaler.unscale_(optimizer)
            if "clip_norm" in claims:
                clip_grad_norm_([weight], claims["clip_norm"])
            if "clip_value" in claims:
                clip_grad_value_([weight], claims["clip_value"])
            scaler.step(optimizer)
            scaler.update()
            if recorder.step == last:
                recorder.skipped(loss_scale=scale)
            if step not in overflows:
                scheduler.step()
                if averaged:
                    average.data.copy_(weight if not count else average.lerp(weight, 1 - claims["average"]))
                    count += 1
    return replay(trace)


SCALE = "the scaler's loss scale: it stayed at 64: neither backoff nor growth was seen"
STEP = {"name": "step", "size": 2, "gamma": 0.5}
UNTESTED: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "a clip that never clipped": (
        {"clip_norm": 9.0},
        {},
        "clip_norm = 9: nothing was clipped; the largest norm of a gradient on record is 1.73",
        "match",
    ),
    "a clip by value that never clipped": (
        {"clip_value": 0.6},
        {},
        "clip_value = 0.6: nothing was clipped; the largest element of a gradient on record is 0.5",
        "match",
    ),
    "a clip without the gradients before it": (
        {"clip_norm": 1.0},
        {"look": False},
        "clip_norm = 1: no gradient of backward is on record; the trainer is to call Recorder.after_backward",
        "not tested",
    ),
    "a schedule that never changed": (
        {"schedule": {**STEP, "size": 10}},
        {},
        "schedule step: it asks for the same rate at all 4 steps on record",
        "match",
    ),
    "an average that was only copied": (
        {"average": 0.9},
        {"steps": (1,)},
        "average = 0.9: only its first update is on record, which copies the parameters",
        "match",
    ),
}
CHECKS = {"clip_norm": "clipping", "clip_value": "clipping", "schedule": "learning rate", "average": "average"}


@pytest.mark.parametrize("kind", UNTESTED)
def test_what_the_record_never_put_to_the_test(kind: str, tmp_path: Path) -> None:
    claims, how, sentence, came_to = UNTESTED[kind]
    report = run(tmp_path / "trace", claims, **how)
    assert report.verdict == "match", str(report)
    assert set(report.claims_not_tested) == {sentence, SCALE}
    assert f"claim not tested by this record: {sentence}" in str(report)
    assert json.loads(report.to_json())["claims_not_tested"] == list(report.claims_not_tested)
    assert report.checks[CHECKS[next(iter(claims))]] == came_to


TESTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a clip": ({"clip_norm": 1.0}, {}),
    "a clip by value": ({"clip_value": 0.3}, {}),
    "a schedule": ({"schedule": STEP}, {}),
    "an average": ({"average": 0.9}, {}),
    "a scale that backs off": ({}, {"overflows": (2,)}),
    "a scale that grows": ({}, {"growth_interval": 2}),
}


@pytest.mark.parametrize("kind", TESTED)
def test_what_the_record_put_to_the_test_is_not_told(kind: str, tmp_path: Path) -> None:
    claims, how = TESTED[kind]
    report = run(tmp_path / "trace", claims, **how)
    assert report.verdict == "match", str(report)
    assert report.claims_not_tested == (() if "scale" in kind else (SCALE,))


def test_one_segment_that_tests_a_claim_is_enough(tmp_path: Path) -> None:
    """The schedule falls in the first segment, and after a resume it stays."""
    trace = tmp_path / "trace"
    assert run(trace, {"schedule": STEP}).claims_not_tested == (SCALE,)
    report = run(trace, {"schedule": {**STEP, "size": 3}}, first=5, steps=(5, 6))
    assert not [line for line in report.claims_not_tested if "schedule" in line]


def test_require_refuses_a_check_that_was_claimed_and_could_not_be_answered(tmp_path: Path) -> None:
    run(tmp_path / "trace", {"clip_norm": 1.0}, look=False)
    with pytest.raises(TraceError, match="clipping was not tested"):
        replay(tmp_path / "trace", require=["clipping"])


def test_a_rate_claimed_for_a_schedule_is_tested_with_it(tmp_path: Path) -> None:
    (weight,) = make_parameters((3, 4))
    optimizer = torch.optim.SGD([("weight", weight)], lr=0.1)
    claims = Claims(schedule={"name": "constant"}, options={"weight": {"lr": 0.1}})
    with Recorder(optimizer, tmp_path / "trace", claims=claims):
        take_steps(optimizer, [weight], (1, 2, 3))
    report = replay(tmp_path / "trace")
    assert (report.checks["learning rate"], report.claims_not_tested) == ("match", ())
