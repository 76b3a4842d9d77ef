"""A run begins with the state that its rule has; what was put there beforehand is found, and what was learned is told."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam, Optimizer

from crosscheck import Recorder, Report, Verdict, replay
from crosscheck.trace.reader import open_trace
from tests.crosscheck.recording import make_parameters, overflowing_steps, take_steps

Prepare = Callable[[Optimizer, Sequence[Parameter]], None]
State = Callable[[Parameter], dict[str, Tensor]]


def adam(parameters: Sequence[Parameter]) -> Optimizer:
    return Adam([("first", parameters[0]), ("second", parameters[1])], lr=0.01)


def dampened(parameters: Sequence[Parameter]) -> Optimizer:
    return SGD([("first", parameters[0]), ("second", parameters[1])], lr=0.1, momentum=0.9, dampening=0.5)


def plain_momentum(parameters: Sequence[Parameter]) -> Optimizer:
    return SGD([("first", parameters[0]), ("second", parameters[1])], lr=0.1, momentum=0.9)


def recorded(make: Any, prepare: Prepare, trace: Path, *, attach_first: bool = False, **recording: Any) -> Report:
    """Record four steps of an optimizer whose state is prepared before the recorder is attached, or right after."""
    parameters = make_parameters((8,), (20, 30))
    optimizer = make(parameters)
    if not attach_first:
        prepare(optimizer, parameters)
    with Recorder(optimizer, trace, coordinates=20, **recording):
        if attach_first:
            prepare(optimizer, parameters)
        take_steps(optimizer, parameters, range(1, 5))
    return replay(trace)


def with_state(make: State, *, only_second: bool = False) -> Prepare:
    def prepare(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
        for parameter in parameters[only_second:]:
            optimizer.state[parameter] = make(parameter)

    return prepare


def moments(count: float, first: float, second: float) -> State:
    def make(parameter: Parameter) -> dict[str, Tensor]:
        p = parameter.detach()
        return {
            "step": torch.tensor(count),
            "exp_avg": torch.full_like(p, first),
            "exp_avg_sq": torch.full_like(p, second),
        }

    return make


def buffer(value: float) -> State:
    return lambda parameter: {"momentum_buffer": torch.full_like(parameter.detach(), value)}


def some_steps(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    take_steps(optimizer, parameters, range(50, 57))


def nothing(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    del optimizer, parameters


@pytest.mark.parametrize("attach_first", [False, True])
@pytest.mark.parametrize(
    ("state", "slots", "only_second", "steps"),
    [
        (moments(0, 1, 1), {"exp_avg", "exp_avg_sq"}, False, "sampled"),
        (moments(0, 0, 1e-12), {"exp_avg_sq"}, True, []),
        (moments(0, torch.nan, 0), {"exp_avg"}, True, "sampled"),
    ],
)
def test_moments_that_do_not_start_from_zero(
    state: State, slots: set[str], only_second: bool, attach_first: bool, steps: Any, tmp_path: Path
) -> None:
    report = recorded(
        adam, with_state(state, only_second=only_second), tmp_path, attach_first=attach_first, steps=steps
    )
    found = [finding for finding in report.findings if finding.check == "continuity"]
    assert {finding.slot for finding in found} == slots, str(report)
    assert report.checks["continuity"] == report.verdict == Verdict.MISMATCH
    for finding in found:
        assert (finding.step, finding.tensor) == (1, "second" if only_second else "first")
        assert "initialized beforehand" in finding.cause


@pytest.mark.parametrize("attach_first", [False, True])
def test_a_count_that_is_one_ahead(attach_first: bool, tmp_path: Path) -> None:
    report = recorded(adam, with_state(moments(1, 0, 0)), tmp_path, attach_first=attach_first)
    (finding,) = report.findings
    assert (finding.step, finding.slot, finding.recorded, finding.check) == (1, "step", 1.0, "continuity"), str(report)
    assert ("counted ahead" in finding.cause) != attach_first
    assert ("no state when the recorder was attached" in finding.cause) == attach_first


@pytest.mark.parametrize(
    ("make", "state"), [(adam, moments(3, 0.1, 0.1)), (dampened, buffer(1.0)), (plain_momentum, buffer(1.0))]
)
def test_state_that_appears_after_the_recorder_was_attached(make: Any, state: State, tmp_path: Path) -> None:
    report = recorded(make, with_state(state), tmp_path, attach_first=True)
    assert report.verdict is Verdict.MISMATCH
    for finding in report.findings:
        assert (finding.step, finding.check) == (1, "continuity")
        assert "there was no state when the recorder was attached" in finding.cause


def test_a_buffer_of_zeros_takes_part_of_the_first_gradient(tmp_path: Path) -> None:
    (finding,) = recorded(dampened, with_state(buffer(0.0)), tmp_path).findings
    assert (finding.step, finding.slot, finding.check) == (1, "momentum_buffer", "continuity")
    assert "was there before the first gradient" in finding.cause


@pytest.mark.parametrize(
    ("make", "prepare"),
    [
        (adam, nothing),
        (dampened, nothing),
        (adam, with_state(moments(0, 0, 0))),
        (adam, with_state(moments(0, 0, 0), only_second=True)),
        (plain_momentum, with_state(buffer(0.0))),
    ],
)
@pytest.mark.parametrize("attach_first", [False, True])
def test_right_starts(make: Any, prepare: Prepare, attach_first: bool, tmp_path: Path) -> None:
    report = recorded(make, prepare, tmp_path, attach_first=attach_first)
    assert report.verdict is Verdict.MATCH, str(report)
    assert not in_the_middle(report)


def in_the_middle(report: Report) -> list[str]:
    return [note for note in report.notes if "the optimizer had taken" in note or "held a state" in note]


@pytest.mark.parametrize(("first_step", "steps"), [(1, "sampled"), (1, []), (8, [])])
@pytest.mark.parametrize(("make", "said"), [(adam, "had taken 7 steps:"), (dampened, "held a state already")])
def test_a_recorder_attached_in_the_middle_is_told(
    make: Any, said: str, steps: Any, first_step: int, tmp_path: Path
) -> None:
    report = recorded(make, some_steps, tmp_path, steps=steps, first_step=first_step)
    assert report.verdict is Verdict.MATCH, str(report)
    (note,) = in_the_middle(report)
    assert f"before step {first_step} the optimizer {said}" in note
    assert "attached in the middle" in note
    assert open_trace(tmp_path)[0].header.attached_with_state


def test_a_tensor_without_elements_is_no_wrong_start(tmp_path: Path) -> None:
    """Its buffer is there when the recorder is attached, and nothing says that it is zero."""
    parameters = make_parameters((8,), (0, 3))
    optimizer = dampened(parameters)
    some_steps(optimizer, parameters)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters, range(1, 4))
    assert replay(tmp_path).verdict is Verdict.MATCH


@pytest.mark.parametrize("attach_first", [False, True])
@pytest.mark.parametrize("make", [adam, dampened])
def test_a_state_that_is_loaded_before_the_first_step(make: Any, attach_first: bool, tmp_path: Path) -> None:
    """A script restores its checkpoint so, before it attaches the recorder or right after."""
    parameters = make_parameters((8,), (20, 30))
    donor = make(parameters)
    some_steps(donor, parameters)

    def load(optimizer: Optimizer, _: Sequence[Parameter]) -> None:
        optimizer.load_state_dict(donor.state_dict())

    report = recorded(make, load, tmp_path, attach_first=attach_first)
    assert report.verdict is Verdict.MATCH, str(report)
    (note,) = in_the_middle(report)
    assert ("its state was loaded" in note) == attach_first


def test_a_resumed_run_that_appends_is_joined_and_not_in_the_middle(tmp_path: Path) -> None:
    parameters = make_parameters((8,), (20, 30))
    optimizer = adam(parameters)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters, range(1, 4))
    with Recorder(optimizer, tmp_path, append=True, first_step=4):
        take_steps(optimizer, parameters, range(4, 7))
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH, str(report)
    assert not in_the_middle(report)


@pytest.mark.parametrize("fused", [False, True])
def test_a_first_step_that_is_skipped_is_no_start_beforehand(fused: bool, tmp_path: Path) -> None:
    (weight,) = make_parameters((8,))
    optimizer = Adam([weight], lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Recorder(optimizer, tmp_path, scaler=scaler) as recorder:
        overflowing_steps(optimizer, weight, recorder, scaler, steps=5, skip=[1, 2])
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH, str(report)
    assert not in_the_middle(report)


def test_gradients_of_zero_leave_zeros_behind(tmp_path: Path) -> None:
    """A tensor whose gradients were zero has counted steps and moved nothing; others show that there were steps."""
    parameters = make_parameters((8,), (20, 30))
    optimizer = adam(parameters)
    take_steps(optimizer, parameters[:1], range(1, 4))
    with_state(moments(3, 0, 0), only_second=True)(optimizer, parameters)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters, range(4, 7))
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH, str(report)
    assert in_the_middle(report)
