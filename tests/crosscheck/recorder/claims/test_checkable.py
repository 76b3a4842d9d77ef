"""A claim that no replay could check is refused where it is made, by key, value and what is accepted."""

from pathlib import Path
from typing import Any

import pytest
import torch

from crosscheck import Claims, Recorder, TraceError, replay
from tests.crosscheck.recording import make_parameters, take_steps

SCHEDULES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown name": ({"name": "cosin"}, "the schedule's name is 'cosin'; accepted: constant, step"),
    "no name": ({"size": 3}, "the schedule has no name; accepted: constant"),
    "missing key": ({"name": "step", "size": 3}, "the schedule has no gamma; accepted: a finite number above 0"),
    "unknown key": ({"name": "constant", "lr": 0.1}, "a key 'lr'; it takes no key but its name"),
    "wrong type": ({"name": "step", "size": "3", "gamma": 0.1}, "the schedule's size is '3'; accepted: a whole"),
    "keys at odds": (
        {"name": "cosine", "warmup": 9, "total": 9, "start_factor": 0.1, "end_factor": 0.0},
        "the schedule's warmup is 9; accepted: a whole number below total, 9",
    ),
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_schedule_that_is_none(kind: str) -> None:
    schedule, message = SCHEDULES[kind]
    with pytest.raises(TraceError) as caught:
        Claims(schedule=schedule)
    assert message in str(caught.value)


def attach(trace: Path, claims: Claims, *, groups: Any = None, **more: Any) -> Recorder:
    weight, bias = make_parameters((3, 4), (5,))
    optimizer = torch.optim.SGD(groups or [{"params": [("weight", weight)]}, {"params": [("bias", bias)]}], lr=0.1)
    return Recorder(optimizer, trace, claims=claims, **more)


UNCHECKABLE: dict[str, tuple[dict[str, Any], str]] = {
    "a tensor that is not recorded": (
        {"options": {"weigth": {"momentum": 0.9}}},
        "claims.options names 'weigth', which is not recorded; recorded are weight, bias",
    ),
    "an option that is none": (
        {"options": {"weight": {"weightdecay": 0.1}}},
        "claims.options['weight']['weightdecay'] = 0.1: its parameter group has no such option; it has lr, momentum",
    ),
    "a rate without a schedule": (
        {"options": {"bias": {"lr": 0.1}}},
        "claims.options['bias']['lr'] = 0.1 is the rate without the factor of a schedule",
    ),
    "two kinds of clipping": (
        {"clip_norm": 5.0, "clip_value": 1.0},
        "clip_norm = 5 and clip_value = 1 are both claimed: of gradients that were clipped twice no norm in between",
    ),
    "an average that is not shown": ({"average": 0.9}, "claims.average = 0.9, but the recorder has no moving average"),
    "a schedule in a run that goes on": (
        {"schedule": {"name": "constant"}, "applied": 4, "options": {"weight": {"lr": 0.1}}},
        "claims.schedule = {'name': 'constant'}: it multiplies the initial learning rate, which nothing tells for "
        "parameter group 1",
    ),
}


@pytest.mark.parametrize("kind", UNCHECKABLE)
def test_what_the_record_could_not_answer(kind: str, tmp_path: Path) -> None:
    claims, message = UNCHECKABLE[kind]
    with pytest.raises(TraceError) as caught:
        attach(tmp_path / "trace", Claims(**claims))
    assert message in str(caught.value)
    assert not (tmp_path / "trace").exists()


def falling(trace: Path, claims: Claims, *, by_hand: bool = False) -> Any:
    """Record eight steps whose rate falls to a tenth after every second one, by torch's scheduler or by hand."""
    parameters = make_parameters((3, 4))
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    scheduler = None if by_hand else torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
    with Recorder(optimizer, trace, claims=claims):
        for step in range(1, 9):
            take_steps(optimizer, parameters, (step,))
            if scheduler is not None:
                scheduler.step()
            elif step % 2 == 0:
                optimizer.param_groups[0]["lr"] *= 0.1
    return replay(trace)


STEP = {"name": "step", "size": 2, "gamma": 0.1}


@pytest.mark.parametrize("by_hand", [False, True])
def test_the_initial_rate_is_found_without_being_claimed(by_hand: bool, tmp_path: Path) -> None:
    report = falling(tmp_path / "trace", Claims(schedule=STEP), by_hand=by_hand)
    assert (report.verdict, report.checks["learning rate"], report.claims_not_tested) == ("match", "match", ())
    assert any("nothing tells the initial learning rate of group 0" in note for note in report.notes) == by_hand


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("schedule", [{"name": "constant"}, {"name": "step", "size": 3, "gamma": 0.1}], ids=str)
def test_another_schedule_than_the_claimed_one_is_a_mismatch(schedule: Any, by_hand: bool, tmp_path: Path) -> None:
    report = falling(tmp_path / "trace", Claims(schedule=schedule), by_hand=by_hand)
    assert {finding.check for finding in report.findings} == {"learning rate"}
    assert report.findings[0].step == 3


def test_a_group_that_joins_is_held_to_the_schedule_too(tmp_path: Path) -> None:
    first, second = make_parameters((3, 4), (5,))
    optimizer = torch.optim.SGD([first], lr=0.1)
    with Recorder(optimizer, tmp_path / "trace", claims=Claims(schedule={"name": "constant"})):
        take_steps(optimizer, [first], (1, 2))
        optimizer.add_param_group({"params": [second], "lr": 0.3})
        take_steps(optimizer, [first, second], (3, 4))
        optimizer.param_groups[1]["lr"] = 0.2
        take_steps(optimizer, [first, second], (5,))
    (found,) = replay(tmp_path / "trace").findings
    assert (found.tensor, found.step, found.recorded, found.expected) == ("group 1", 5, 0.2, 0.3)


@pytest.mark.parametrize(("applied", "first_step"), [(5, 6), (5, 1), (0, 6)])
def test_a_trace_made_elsewhere_without_the_initial_rate_is_refused(
    applied: int, first_step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accept(*_: object, **__: object) -> None: ...

    monkeypatch.setattr("crosscheck.recorder.recorder.expect_checkable", accept)
    parameters = make_parameters((3, 4))
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    claims = Claims(schedule={"name": "constant"}, applied=applied)
    with Recorder(optimizer, tmp_path / "trace", claims=claims, first_step=first_step):
        take_steps(optimizer, parameters, (first_step, first_step + 1))
    with pytest.raises(TraceError, match="from which learning rate group 0 started"):
        replay(tmp_path / "trace")
