"""A recorder notices skipped steps by itself, of a loss scaler that it was given or not,
and overflows of others that share it.
"""

import copy
import gc
import pickle
import weakref
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
    given: bool = True,
    **how: Any,
) -> Report:
    """Record optimizer `a` in a plain loop of ten steps, in which the gradients named by step overflow."""
    parameters: dict[str, Parameter] = dict(zip("ab" if shared else "a", make_parameters((6,), (5,)), strict=False))
    optimizers = {name: torch.optim.Adam([p], lr=0.1, **how) for name, p in parameters.items()}
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=4)
    with Recorder(optimizers["a"], trace, scaler=scaler if given else None) as recorder:
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


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_skipped_steps_are_noticed(implementation: str, told: bool, given: bool, tmp_path: Path) -> None:
    """Two in a row as well, and telling of them does no harm where the optimizer was not called."""
    told &= implementation == "single"
    skips = {1: "a", 4: "a", 5: "a"}
    report = loop(tmp_path / "trace", skips, told=told, shared=False, given=given, **IMPLEMENTATIONS[implementation])
    loss_scale = "match" if given else "not recorded"  # nobody has claimed anything of it
    assert (report.verdict, report.checks["loss scale"], report.skipped) == ("match", loss_scale, 3), str(report)
    assert applied(tmp_path / "trace") == [step not in skips for step in range(1, 11)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_another_optimizer_s_overflow_backs_off_the_shared_scale(implementation: str, tmp_path: Path) -> None:
    report = loop(tmp_path / "trace", {2: "b", 6: "ab"}, **IMPLEMENTATIONS[implementation])
    assert (report.verdict, report.checks["loss scale"], report.skipped) == ("match", "match", 1), str(report)
    elsewhere = [step.step for part in parts_of(tmp_path / "trace") for step in part.steps if step.overflow_elsewhere]
    assert elsewhere == [3, 7]
    assert all(step.scaler_updates is None for part in parts_of(tmp_path / "trace") for step in part.steps)


def test_a_shared_scale_that_does_not_back_off_is_found(tmp_path: Path) -> None:
    report = loop(tmp_path / "trace", {2: "b"}, keep_scale_at=2)
    assert {found.check for found in report.findings} == {"loss scale"}
    found = report.findings[0]
    assert (found.check, found.step, found.recorded, found.expected) == ("loss scale", 3, 64.0, 32.0)
    assert "in 1 update of which 1 counted an overflow" in str(found.cause), "step 2 was not skipped"


class Passing(torch.amp.GradScaler):
    """A scaler of the user's own, which does something beside each update."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        super().update(*args, **kwargs)


def record_gan(
    folder: Path,
    overflows: Iterable[tuple[int, str]] = (),
    *,
    scaler: torch.amp.GradScaler,
    every: int = 1,
    keep_scale_at: int = 0,
) -> dict[str, Report]:
    """Record two optimizers in a loop that updates their scaler after the step of each; `b` steps in one of so many turns."""
    parameters: dict[str, Parameter] = dict(zip("ab", make_parameters((6,), (5,)), strict=True))
    optimizers = {name: torch.optim.Adam([p], lr=0.1, foreach=False) for name, p in parameters.items()}
    recorders = {name: Recorder(o, folder / name, scaler=scaler) for name, o in optimizers.items()}
    for step in range(1, 13):
        for name, parameter in parameters.items() if step % every == 0 else [("a", parameters["a"])]:
            optimizers[name].zero_grad()
            scaler.scale((parameter * (torch.inf if (step, name) in overflows else 0.5)).sum()).backward()
            scaler.step(optimizers[name])
            scaler.update(scaler.get_scale() if (step, name) == (keep_scale_at, "b") else None)
    for recorder in recorders.values():
        recorder.close()
    return {name: replay(folder / name) for name in parameters}


@pytest.mark.parametrize("kind", [torch.amp.GradScaler, Passing])
@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("overflows", [[], [(7, "a")], [(6, "b")], [(3, "a"), (3, "b"), (12, "b")]], ids=str)
def test_a_scaler_is_updated_after_the_step_of_each_optimizer(
    overflows: list[tuple[int, str]], every: int, kind: Any, tmp_path: Path
) -> None:
    scaler = kind("cpu", init_scale=64.0, growth_interval=4)
    for name, report in record_gan(tmp_path, overflows, scaler=scaler, every=every).items():
        assert (name, report.verdict, report.checks["loss scale"]) == (name, "match", "match"), str(report)


def test_a_fault_between_several_updates_is_found(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=4)
    report = record_gan(tmp_path, [(3, "b")], scaler=scaler, keep_scale_at=3)["a"]
    [found] = report.findings
    assert (found.check, found.step, found.recorded, found.expected) == ("loss scale", 4, 128.0, 64.0)
    assert found.cause == (
        "the loss scale went from 128 to 128 between steps 3 and 4, in 2 updates of which 1 counted an overflow: "
        "torch.amp.GradScaler makes 64 of it"
    )


def test_steps_without_an_update_between_them(tmp_path: Path) -> None:
    (parameter,) = make_parameters((6,))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
    with Recorder(optimizer, tmp_path, scaler=scaler):
        for step in range(1, 10):
            optimizer.zero_grad()
            scaler.scale((parameter * 0.5).sum()).backward()
            if step % 2:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
    report = replay(tmp_path)
    assert (report.verdict, report.checks["loss scale"]) == ("match", "match"), str(report)
    updates = [step.scaler_updates for part in parts_of(tmp_path) for step in part.steps]
    assert updates == [None, (), None, (), None, (), None, (), None]


def test_updates_of_a_scaler_with_a_method_of_its_own_are_taken_to_be_the_usual_ones(tmp_path: Path) -> None:
    (parameter,) = make_parameters((6,))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    scaler: Any = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
    scaler.update = scaler.update  # as a wrapper does that was made before the recorder
    with Recorder(optimizer, tmp_path, scaler=scaler):
        steps_under(scaler, optimizer, skips=[4], steps=8)
    report = replay(tmp_path)
    assert (report.verdict, report.checks["loss scale"]) == ("match", "match"), str(report)


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


class Careful(torch.amp.GradScaler):
    """A scaler of the user's own, which does something beside each step."""

    calls = 0

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return super().step(optimizer, *args, **kwargs)


@pytest.mark.parametrize("kind", [torch.amp.GradScaler, Careful])
def test_gradients_are_divided_by_the_scale_of_a_scaler_that_was_not_given(kind: Any, tmp_path: Path) -> None:
    """It may have stepped other optimizers and be made after the recorder."""
    parameters = make_parameters((6,), (5,))
    optimizer, other = (torch.optim.Adam([p], lr=0.1, foreach=False) for p in parameters)
    with Recorder(optimizer, tmp_path / "trace", clip_norm=0.5) as recorder:
        scaler = kind("cpu", init_scale=64.0)
        for step in range(1, 7):
            for parameter in parameters:
                scaler.scale((parameter * (torch.inf if step in (1, 4) else 0.5)).sum()).backward()
            recorder.after_backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters[:1], 0.5)
            scaler.step(other)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            other.zero_grad()
    report = replay(tmp_path / "trace")
    assert (report.verdict, report.checks["clipping"], report.skipped) == ("match", "match", 2), str(report)
    assert applied(tmp_path / "trace") == [step not in (1, 4) for step in range(1, 7)]
    assert getattr(scaler, "calls", 12) == 12


def test_the_class_of_scalers_gets_its_methods_back(tmp_path: Path) -> None:
    own = torch.amp.GradScaler.step, torch.amp.GradScaler.update
    (first,), (second,) = make_parameters((6,)), make_parameters((5,))
    optimizers = [torch.optim.SGD([parameter], lr=0.1) for parameter in (first, second)]
    recorders = [Recorder(optimizer, tmp_path / str(k)) for k, optimizer in enumerate(optimizers)]
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    scaler.scale(first.sum()).backward()
    scaler.step(optimizers[0])  # the first recorder has found it
    for recorder in recorders:
        assert torch.amp.GradScaler.step is not own[0]
        recorder.close()
    assert (torch.amp.GradScaler.step, torch.amp.GradScaler.update) == own
    assert not {"step", "update"} & set(vars(scaler))


def test_a_recorder_that_is_collected_gives_the_methods_back(tmp_path: Path) -> None:
    """The scaler outlives it, and keeps neither the recorder nor the parameters alive."""
    own = torch.amp.GradScaler.step
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    parameters = make_parameters((6,))
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    Recorder(optimizer, tmp_path)
    scaler.scale(parameters[0].sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.amp.GradScaler.step is not own
    parameter = weakref.ref(parameters[0])
    del optimizer, parameters
    gc.collect()
    assert parameter() is None
    assert torch.amp.GradScaler.step is own
    assert replay(tmp_path).steps == 1


def steps_under(
    scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, skips: Iterable[int], steps: int = 4
) -> None:
    (parameter,) = optimizer.param_groups[0]["params"]
    for step in range(1, steps + 1):
        scaler.scale((parameter * (torch.inf if step in skips else 0.5)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


@pytest.mark.parametrize("given", [True, False])
def test_a_scaler_is_copied_and_pickled_as_ever(given: bool, tmp_path: Path) -> None:
    """A copy steps for itself, and what it does is none of the recorder's business."""
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    optimizer, other = (torch.optim.SGD([parameter], lr=0.1) for parameter in make_parameters((6,), (5,)))
    with Recorder(optimizer, tmp_path, scaler=scaler if given else None):
        steps_under(scaler, optimizer, skips=[2])
        for copied in (copy.deepcopy(scaler), pickle.loads(pickle.dumps(scaler))):  # noqa: S301 (its own)
            steps_under(copied, other, skips=[1, 3])
            assert (copied.get_scale(), scaler.get_scale()) == (8.0, 32.0)
    assert applied(tmp_path) == [True, False, True, True]


def test_a_second_model_that_comes_later_under_the_same_scaler(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    recorders: list[Recorder] = []
    for number, parameter in enumerate(make_parameters((6,), (5,))):
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        recorders.append(Recorder(optimizer, tmp_path / str(number)))
        steps_under(scaler, optimizer, skips=[2])
    for number, recorder in enumerate(recorders):
        recorder.close()
        assert applied(tmp_path / str(number)) == [True, False, True, True]
        scales = [step.loss_scale for part in parts_of(tmp_path / str(number)) for step in part.steps]
        assert scales == [scale / 2**number for scale in (64.0, 64.0, 32.0, 32.0)]


class OnItsOwn(torch.amp.GradScaler):
    """A scaler of the user's own, which steps without torch's method."""

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        self.unscale_(optimizer)
        infinite = self._per_optimizer_states[id(optimizer)]["found_inf_per_device"]  # pyright: ignore[reportPrivateUsage]
        return None if any(bool(found) for found in infinite.values()) else optimizer.step(*args, **kwargs)


def test_a_scaler_that_steps_by_itself_is_watched_if_it_is_given(tmp_path: Path) -> None:
    own = OnItsOwn.step
    scaler = OnItsOwn("cpu", init_scale=64.0)
    optimizer = torch.optim.SGD(make_parameters((6,)), lr=0.1)
    with Recorder(optimizer, tmp_path, scaler=scaler):
        steps_under(scaler, optimizer, skips=[2])
    assert applied(tmp_path) == [True, False, True, True]
    assert OnItsOwn.step is own


def test_somebody_else_s_method_stays_in_the_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = torch.amp.GradScaler.step
    (parameter,) = make_parameters((6,))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    calls: list[torch.optim.Optimizer] = []
    with Recorder(optimizer, tmp_path / "trace"):
        inner: Any = torch.amp.GradScaler.step

        def theirs(scaler: torch.amp.GradScaler, stepped: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
            calls.append(stepped)
            return inner(scaler, stepped, *args, **kwargs)

        monkeypatch.setattr(torch.amp.GradScaler, "step", theirs)
    for number in range(2):  # the second recorder is attached while theirs is there
        with Recorder(optimizer, tmp_path / f"trace-{number}"):
            scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
            scaler.scale((parameter * torch.inf).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert torch.amp.GradScaler.step is theirs
    assert calls == [optimizer] * 2
    assert [applied(tmp_path / f"trace-{number}") for number in range(2)] == [[False], [False]]
    monkeypatch.setattr(torch.amp.GradScaler, "step", own)  # they give it back
    with Recorder(optimizer, tmp_path / "last"):
        assert torch.amp.GradScaler.step is not own
    assert torch.amp.GradScaler.step is own
    monkeypatch.undo()
    torch.amp.GradScaler.step = own
