"""A loop of Accelerate is recorded by one line: its optimizer, scheduler, accumulation and clipping."""

import itertools
import math
from collections.abc import Callable, Generator
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

from crosscheck import Report, TraceError, Verdict, replay
from crosscheck.integrations.accelerate import record
from crosscheck.trace.reader import open_trace
from crosscheck.trace.reserved_options import CLIP_VALUE
from crosscheck.trace.tensors import complete_options
from tests.crosscheck.recording import parts_of

Build = Callable[[Any], Accelerator]
pytestmark = pytest.mark.xdist_group("integrations")


@pytest.fixture
def build() -> Generator[Build]:
    """Return a function that makes an Accelerator on the CPU; what all of them share is forgotten afterwards."""

    def make(accumulation: int = 1) -> Accelerator:
        forget()
        return Accelerator(cpu=True, gradient_accumulation_steps=accumulation)

    yield make
    forget()


def forget() -> None:
    AcceleratorState._reset_state(True)  # pyright: ignore[reportPrivateUsage]
    PartialState._reset_state()  # pyright: ignore[reportPrivateUsage]
    GradientState._reset_state()  # pyright: ignore[reportPrivateUsage]


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))


class Loop:
    """Someone else's loop."""

    def __init__(self, accelerator: Accelerator, schedule: Callable[[Optimizer], Any], make: Any = AdamW) -> None:
        self.accelerator, bare = accelerator, network()
        optimizer = make([parameter for parameter in bare.parameters() if parameter.requires_grad], lr=0.01)
        inputs: Any = torch.randn(10, 8)
        loader = torch.utils.data.DataLoader[Any](inputs, batch_size=1)
        prepared = cast(Any, accelerator.prepare(bare, optimizer, loader, schedule(optimizer)))
        self.model, self.optimizer, self.loader, self.scheduler = prepared

    def epoch(self, *, clip: float | None = None) -> None:
        for inputs in self.loader:
            with self.accelerator.accumulate(self.model):
                self.accelerator.backward(self.model(inputs).square().mean() * 30)
                if self.accelerator.sync_gradients and clip:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), clip)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()


def warm_up(optimizer: Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))


def checks(report: Report) -> set[str]:
    assert report.verdict is Verdict.MISMATCH, str(report)
    return {finding.check for finding in report.findings}


def test_accumulation_clipping_and_warm_up(build: Build, tmp_path: Path) -> None:
    loop = Loop(build(4), warm_up)
    untouched = dict(vars(loop.accelerator))
    with record(loop.accelerator, tmp_path):
        for _ in range(2):
            loop.epoch(clip=0.5)
    assert vars(loop.accelerator).keys() == untouched.keys()
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.steps == 6  # ten batches an epoch: parts of 4, 4 and 2
    assert report.checks["clipping"] == report.checks["learning rate"] == "match"
    assert not report.claims_not_tested
    assert parts_of(tmp_path)[0].tensors[0].name == "0.weight"


def test_what_is_told_of_clipping(build: Build, tmp_path: Path) -> None:
    """The bound of each call; nothing of a norm over more or less than the optimizer's own gradients, or clipped twice."""
    loop = Loop(build(1), warm_up)
    inner, weight = loop.model, loop.model[0].weight
    with record(loop.accelerator, tmp_path, optimizer=loop.optimizer):
        for parameters, calls in ((inner.parameters(), 1), ([weight], 1), (list(inner.parameters()), 2), ([], 0)):
            loop.accelerator.backward(inner(torch.randn(4, 8)).square().mean())
            for _ in range(calls):
                loop.accelerator.clip_grad_value_(parameters, 0.1)
            loop.optimizer.step()
            loop.optimizer.zero_grad()
    told = [options[0][CLIP_VALUE] for part in parts_of(tmp_path) for options in complete_options(part.steps)]
    assert told[0] == 0.1
    assert all(math.isnan(cast(float, value)) for value in told[1:])


METHODS = ("backward", "clip_grad_norm_", "clip_grad_value_")


def test_the_methods_in_an_accelerator_take_what_its_own_take(build: Build, tmp_path: Path) -> None:
    """They take them by name, too."""
    loop = Loop(build(1), warm_up)
    own = {name: parameters(getattr(loop.accelerator, name)) for name in METHODS}
    with record(loop.accelerator, tmp_path):
        assert {*METHODS} <= vars(loop.accelerator).keys()
        assert {name: parameters(getattr(loop.accelerator, name)) for name in METHODS} == own
        loop.accelerator.backward(loss=loop.model(torch.randn(4, 8)).square().mean())
        loop.accelerator.clip_grad_norm_(parameters=loop.model.parameters(), max_norm=1.0, norm_type=1)
        loop.accelerator.clip_grad_value_(parameters=loop.model.parameters(), clip_value=0.1)


def parameters(method: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    found = signature(method, follow_wrapped=False).parameters.values()
    return [(each.name, each.kind, each.default) for each in found]


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # Accelerate reads that of the rows
@pytest.mark.parametrize("of", ["iterator", "list", "tensor"])
@pytest.mark.parametrize("clip", METHODS[1:])
def test_what_is_clipped_is_the_same_with_and_without_a_recorder(
    clip: str, of: str, build: Build, tmp_path: Path
) -> None:
    found: list[list[Tensor]] = []
    for recorded in (False, True):
        loop = Loop(build(1), warm_up)
        recording = record(loop.accelerator, tmp_path) if recorded else None
        loop.accelerator.backward(loop.model(torch.ones(4, 8)).square().mean() * 30)
        given = {
            "iterator": loop.model.parameters(),
            "list": [*loop.model.parameters()],
            "tensor": loop.model[0].weight,
        }
        getattr(loop.accelerator, clip)(given[of], 0.1)
        found.append([parameter.grad.clone() for parameter in loop.model.parameters()])
        if recording is not None:
            loop.optimizer.step()
            recording.close()
    assert all(map(torch.equal, *found))
    assert replay(tmp_path).verdict is Verdict.MATCH


def test_recordings_may_end_in_any_order(build: Build, tmp_path: Path) -> None:
    accelerator = build(1)
    models = [network(), network()]
    prepared = [cast(Any, accelerator.prepare_optimizer(SGD(model.parameters(), lr=0.1))) for model in models]
    untouched = dict(vars(accelerator))
    first, second = (
        record(accelerator, tmp_path / str(number), optimizer=optimizer, model=model)
        for number, (optimizer, model) in enumerate(zip(prepared, models, strict=True))
    )
    for model, optimizer in zip(models, prepared, strict=True):
        accelerator.backward(model(torch.randn(4, 8)).square().mean())
        accelerator.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        if model is models[0]:
            first.close()
            first.close()
            assert "backward" in vars(accelerator)
    second.close()
    assert vars(accelerator) == untouched
    assert [replay(tmp_path / name).checks["clipping"] for name in "01"] == ["match", "match"]


def test_a_bound_that_never_clips_is_told(build: Build, tmp_path: Path) -> None:
    loop = Loop(build(4), warm_up)
    with record(loop.accelerator, tmp_path):
        loop.epoch(clip=1e6)
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH, str(report)
    assert any("clip_norm = 1e+06: nothing was clipped" in claim for claim in report.claims_not_tested)


def test_a_loop_that_clips_by_other_means_is_not_accused(build: Build, tmp_path: Path) -> None:
    loop = Loop(build(1), warm_up)
    with record(loop.accelerator, tmp_path) as recording:
        loop.accelerator.backward(loop.model(torch.randn(4, 8)).square().mean() * 30)
        torch.nn.utils.clip_grad_norm_(loop.model.parameters(), 0.1)
        loop.optimizer.step()
        recording.flush()
    assert replay(tmp_path).checks["clipping"] == "not tested"


def test_a_wrong_bound_and_a_wrong_schedule(build: Build, tmp_path: Path) -> None:
    loop = Loop(build(1), warm_up)
    with record(loop.accelerator, tmp_path / "bound", clip_norm=0.4):
        loop.epoch(clip=0.5)
    assert checks(replay(tmp_path / "bound")) == {"clipping"}
    loop = Loop(build(1), lambda o: CosineAnnealingLR(o, 40))
    with record(loop.accelerator, tmp_path / "schedule"):
        for _ in range(2):
            loop.epoch()
            loop.scheduler.step()  # once an epoch too often
    assert checks(replay(tmp_path / "schedule")) == {"learning rate"}


def halved(optimizer: Optimizer) -> StepLR:
    return StepLR(optimizer, 1, 0.5)


def by_its_own_code(optimizer: Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda epoch: 1 / (epoch + 1))


@pytest.mark.parametrize("schedule", [halved, by_its_own_code])
def test_a_prepared_scheduler_that_is_stepped_once_an_epoch(
    schedule: Callable[[Optimizer], Any], build: Build, tmp_path: Path
) -> None:
    """This holds also in a run that goes on, where the scheduler is stepped before the first update on record."""
    loop, trace = Loop(build(1), schedule), tmp_path / "found"
    for number in (3, 2):
        with record(loop.accelerator, trace):
            epochs(loop, number)
        report = replay(trace)
        assert (report.verdict, report.checks["learning rate"]) == (Verdict.MATCH, "not tested"), str(report)
        [untested] = report.claims_not_tested
        if number == 3:
            assert "the loop stepped the scheduler 2 times in 29 updates, and the rates follow that" in untested
            assert untested.endswith("give the recorder scheduler_every=10")


@pytest.mark.parametrize(("every", "verdict"), [(10, "match"), (1, "mismatch")])
def test_how_often_a_prepared_scheduler_is_stepped_can_be_given(
    every: int, verdict: str, build: Build, tmp_path: Path
) -> None:
    loop = Loop(build(1), halved)
    with record(loop.accelerator, tmp_path, scheduler_every=every):
        epochs(loop, 3)
    assert replay(tmp_path).checks["learning rate"] == verdict


def epochs(loop: Loop, number: int) -> None:
    """Train with a scheduler that is stepped once an epoch."""
    scheduler, loop.scheduler = loop.scheduler, SimpleNamespace(step=lambda: None)
    for _ in range(number):
        loop.epoch()
        scheduler.step()
    loop.scheduler = scheduler


@pytest.mark.parametrize("left_out", [{7}, {3, 4, 5, 6}])
def test_a_prepared_scheduler_that_misses_some_updates(left_out: set[int], build: Build, tmp_path: Path) -> None:
    loop = Loop(build(1), lambda o: CosineAnnealingLR(o, 40))
    scheduler, count = loop.scheduler, itertools.count()
    loop.scheduler = SimpleNamespace(step=lambda: next(count) in left_out or scheduler.step())
    with record(loop.accelerator, tmp_path):
        loop.epoch()
    assert checks(replay(tmp_path)) == {"learning rate"}


def test_frozen_tensors_and_one_cycle(build: Build, tmp_path: Path) -> None:
    """As in Accelerate's example of image classification: the base is frozen, the head follows OneCycleLR."""
    loop = Loop(build(1), lambda o: OneCycleLR(o, max_lr=0.05, total_steps=20))
    loop.model[0].requires_grad_(False)
    with record(loop.accelerator, tmp_path):
        loop.epoch()
        loop.epoch()
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.checks["learning rate"] == "match"


def test_a_plateau_is_told_and_left_out(build: Build, tmp_path: Path) -> None:
    loop = Loop(build(1), ReduceLROnPlateau)
    with pytest.warns(
        UserWarning, match="the learning rate is not checked: scheduler: ReduceLROnPlateau is not a function"
    ):
        recording = record(loop.accelerator, tmp_path)
    recording.close()
    with pytest.raises(TraceError, match="ReduceLROnPlateau is not a function of the step"):
        record(loop.accelerator, tmp_path / "given", scheduler=loop.scheduler)


def test_resumed_from_a_state_in_the_middle(build: Build, tmp_path: Path) -> None:
    """The record of a killed run reaches further than the state that the next one loads: it is joined at the step."""
    loop = Loop(build(4), lambda o: CosineAnnealingLR(o, 20))
    recording = record(loop.accelerator, tmp_path / "trace")
    loop.epoch(clip=0.5)
    recording.flush()
    loop.accelerator.save_state(str(tmp_path / "state"))
    loop.epoch(clip=0.5)
    recording.flush()
    loop = Loop(build(4), lambda o: CosineAnnealingLR(o, 20))
    with pytest.raises(TraceError, match="this optimizer has taken no step: load the run's state before"):
        record(loop.accelerator, tmp_path / "trace")
    loop.accelerator.load_state(str(tmp_path / "state"))
    with record(loop.accelerator, tmp_path / "trace"):
        for _ in range(2):
            loop.epoch(clip=0.5)
    assert open_trace(tmp_path / "trace")[1].header.first_step == 4
    report = replay(tmp_path / "trace")
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.checks["clipping"] == report.checks["learning rate"] == "match"


def test_an_optimizer_that_does_not_count_is_asked_for_its_step(build: Build, tmp_path: Path) -> None:
    loop = Loop(build(1), lambda o: StepLR(o, 3), SGD)
    with record(loop.accelerator, tmp_path):
        loop.epoch()
    with pytest.raises(TraceError, match=r"the state of SGD does not tell at which step.*say first_step="):
        record(loop.accelerator, tmp_path)
    with record(loop.accelerator, tmp_path, first_step=11):
        loop.epoch()
    assert replay(tmp_path).checks["learning rate"] == "match"


def test_claims_may_be_left_open(build: Build, tmp_path: Path) -> None:
    """A function of the user's own may hand on what it was not given."""
    loop = Loop(build(1), lambda optimizer: StepLR(optimizer, 2))
    with record(loop.accelerator, tmp_path, claims=None):
        loop.epoch()
    report = replay(tmp_path)
    assert (report.verdict, report.checks["learning rate"]) == (Verdict.MATCH, "match"), str(report)


def test_which_optimizer_is_asked(build: Build, tmp_path: Path) -> None:
    accelerator = build(1)
    with pytest.raises(TraceError, match=r"prepared 0 optimizers: call accelerator.prepare before"):
        record(accelerator, tmp_path)
    model = network()
    first, second = (cast(Any, accelerator.prepare_optimizer(SGD(model.parameters(), lr=0.1))) for _ in range(2))
    with pytest.raises(TraceError, match="prepared 2 optimizers: say which one with optimizer="):
        record(accelerator, tmp_path)
    record(accelerator, tmp_path / "1", optimizer=first).close()
    record(accelerator, tmp_path / "2", optimizer=second).close()
    del accelerator._optimizers  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(TraceError, match=r"does not say where it keeps what it has prepared: give optimizer="):
        record(accelerator, tmp_path / "3")
    record(accelerator, tmp_path / "3", optimizer=first).close()


@pytest.mark.parametrize("rank", [0, 1])
def test_two_ranks_step_a_prepared_scheduler_twice(rank: int, build: Build, tmp_path: Path) -> None:
    """Accelerate steps it once for each rank. Every rank calls `record`, and rank 0 records."""
    loop = Loop(build(1), lambda o: CosineAnnealingLR(o, 40))
    for state in (PartialState, AcceleratorState):
        shared = cast(dict[str, Any], state._shared_state)  # pyright: ignore[reportPrivateUsage]
        shared.update(num_processes=2, process_index=rank)
    with record(loop.accelerator, tmp_path / "trace") as recording:
        loop.epoch()
        recording.after_backward()
        recording.flush()
    assert (tmp_path / "trace").exists() == (rank == 0)
    if rank == 0:
        report = replay(tmp_path / "trace")
        assert checks(report) == {"learning rate"}
        assert "the schedule steps once per rank, 2 times an update" in report.findings[0].cause
