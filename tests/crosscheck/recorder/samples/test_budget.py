"""Looking at a step costs what the budget allows, whatever the model, and still finds what is wrong."""

from pathlib import Path
from typing import Any

import pytest
from torch.optim import SGD, Adam

from crosscheck import Recorder, Verdict, replay
from crosscheck.recorder.samples.budget import budget_of
from crosscheck.recorder.samples.columns import spread
from tests.crosscheck.recording import make_parameters, parts_of, take_steps


class SlowAdam(Adam):
    """Adam with a rate that is a thousandth too small."""

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            group["lr"] *= 0.999
        super().step(closure)
        for group in self.param_groups:
            group["lr"] /= 0.999


def elements(trace: Path, *, full: bool) -> list[int]:
    """Return how many elements each block has, over all its tensors."""
    found: list[int] = []
    for part in parts_of(trace):
        for block in part.blocks:
            if block.full is full:
                ranges = [(entry.range, part.tensors[entry.tensor].numel) for entry in block.tensors]
                found.append(sum(numel if held is None else held[1] - held[0] for held, numel in ranges))
    return found


def tensors(trace: Path) -> list[set[str]]:
    """Return the names of the tensors that each part samples."""
    return [
        {part.tensors[entry.tensor].name for block in part.blocks if not block.full for entry in block.tensors}
        for part in parts_of(trace)
    ]


@pytest.mark.parametrize("make", [Adam, SlowAdam])
def test_tensors_take_turns(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step samples 64 of 150 tensors; after three parts all were sampled, and the first step has seen them all."""
    monkeypatch.setattr("crosscheck.recorder.samples.sampler.TURN_STEPS", 4)
    parameters = make_parameters(*[(6, 5)] * 150)
    optimizer = make(parameters, lr=0.01)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters, range(1, 13))
    report = replay(tmp_path)
    assert report.verdict is (Verdict.MATCH if make is Adam else Verdict.MISMATCH)
    assert report.tensors == 150
    sampled = tensors(tmp_path)
    assert [len(each) <= 64 for each in sampled] == [True] * 3
    assert len({name for each in sampled for name in each}) == 150


def test_a_full_step_of_a_large_model_is_blocks_of_it(tmp_path: Path) -> None:
    large, small = make_parameters((2000, 400), (30,))
    optimizer = SGD([("large", large), ("small", small)], lr=0.1, momentum=0.9)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, [large, small], range(1, 6))
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH, str(report)
    assert all(200_000 < count < 2**22 / (5 * 4) for count in elements(tmp_path, full=True))
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    assert size < 3 * 2**22 + 5 * 100 * 1024


def test_what_is_sampled_moves_on_and_stays_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosscheck.recorder.samples.sampler.TURN_STEPS", 2)
    (weight,) = make_parameters((300, 100))
    optimizer = Adam([weight], lr=0.1)
    with Recorder(optimizer, tmp_path, steps=()):
        take_steps(optimizer, [weight], range(1, 5))
        weight.data.view(-1)[spread(weight, 2048, 0).positions[0]] += 1  # between two parts
        take_steps(optimizer, [weight], range(5, 9))
    (finding,) = [finding for finding in replay(tmp_path).findings if finding.check == "continuity"]
    assert (finding.step, finding.index is not None) == (5, True)


@pytest.mark.parametrize(("size", "found"), [(1000, [6]), (50_000, [12])])
def test_large_models_are_held_at_some_steps(size: int, found: list[int], tmp_path: Path) -> None:
    """Small ones at every step, large ones at every eighth and the boundaries on both sides of it: here 4 and 12."""
    (weight,) = make_parameters((size,))
    optimizer = SGD([weight], lr=0.1)
    unseen = sorted(set(range(size)).difference(map(int, spread(weight, 100, None).positions)))[0]
    with Recorder(optimizer, tmp_path, steps=(), coordinates=100):
        for step in range(1, 17):
            if step in (6, 12):
                weight.data[unseen] += 1  # nobody samples it
            take_steps(optimizer, [weight], range(step, step + 1))
    report = replay(tmp_path)
    told = [finding for finding in report.findings if finding.check == "continuity"]
    assert [finding.step for finding in told] == found, str(report)
    assert report.verdict is Verdict.MISMATCH


def test_frozen_tensors_cost_nothing(tmp_path: Path) -> None:
    parameters = make_parameters((20, 10), (30,), (10, 10))
    parameters[0].requires_grad_(False)
    optimizer = Adam([("frozen", parameters[0]), ("a", parameters[1]), ("b", parameters[2])], lr=0.1)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters[1:], range(1, 5))
        parameters[0].requires_grad_(True)  # as layers are that are unfrozen later
        take_steps(optimizer, parameters, range(5, 9))
    assert tensors(tmp_path) == [{"a", "b"}, {"a", "b", "frozen"}]
    report = replay(tmp_path)
    assert (report.verdict, report.tensors) == (Verdict.MATCH, 3), str(report)


@pytest.mark.parametrize("budget", ["light", "default", "full", 4096, 50_000])
def test_every_budget_finds_a_wrong_rate(budget: Any, tmp_path: Path) -> None:
    parameters = make_parameters((90, 80), (40,))
    for name, make in {"right": Adam, "wrong": SlowAdam}.items():
        optimizer = make(parameters, lr=0.01)
        with Recorder(optimizer, tmp_path / name, budget=budget):
            take_steps(optimizer, parameters, range(1, 5))
    assert replay(tmp_path / "right").verdict is Verdict.MATCH
    report = replay(tmp_path / "wrong")
    assert "lr" in report.findings[0].cause, str(report)


@pytest.mark.parametrize("budget", ["huge", 0, 1000, -5, True])
def test_what_is_no_budget(budget: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"budget=.*: accepted are 'light', 'default', 'full', and the bytes"):
        Recorder(SGD(make_parameters((4,)), lr=0.1), tmp_path, budget=budget)


def test_a_long_run_is_thinned_out() -> None:
    default = budget_of("default")
    rates = [default.thinned(halvings).columns for halvings in range(9)]
    assert rates == [2048, 1024, 512, 256, 128, 64, 32, 16, 16]
    assert default.thinned(8).tensors == 8
    assert default.thinned(3).wide_bytes == default.wide_bytes // 8
