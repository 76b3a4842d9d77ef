"""What the objects of a loop say is joined with what is claimed by hand; what nothing can be read from is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam, Optimizer
from torch.optim import lr_scheduler as made
from torch.optim.lr_scheduler import LRScheduler

from crosscheck import Claims, Recorder, Report, TraceError, Verdict, replay
from crosscheck.trace.format import Option
from crosscheck.trace.reader import open_trace
from tests.crosscheck.recording import parts_of


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def step(model: torch.nn.Module, optimizer: Optimizer, *, clip: float | None = None, recorder: Any = None) -> None:
    optimizer.zero_grad()
    (model(torch.randn(8, 6)).square().mean() * 30).backward()
    if recorder is not None:
        recorder.after_backward()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()


def claims_of(trace: Path) -> Claims:
    claims = open_trace(trace)[-1].header.claims
    assert claims is not None
    return claims


def test_all_objects_of_a_loop(tmp_path: Path) -> None:
    model = small()
    optimizer = Adam(model.parameters(), lr=0.01)
    scheduler = made.StepLR(optimizer, 2, 0.5)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    compiled = torch.nn.Sequential()
    compiled.add_module("_orig_mod", model)
    with Recorder(
        optimizer, tmp_path, scheduler=scheduler, clip_norm=0.5, model=compiled, average=averaged
    ) as recorder:
        for _ in range(6):
            step(model, optimizer, clip=0.5, recorder=recorder)
            scheduler.step()
            averaged.update_parameters(model)
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH, str(report)
    assert not report.claims_not_tested
    assert [report.checks[name] for name in ("clipping", "average", "learning rate")] == ["match"] * 3
    assert [tensor.name for tensor in parts_of(tmp_path)[0].tensors] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_an_average_beside_several_groups(tmp_path: Path) -> None:
    model = small()
    optimizer = SGD([{"params": model.get_submodule(name).parameters()} for name in "02"], lr=0.1)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    with Recorder(optimizer, tmp_path, model=model, average=averaged):
        for number in range(1, 7):
            step(model, optimizer)
            if number % 2 == 0:
                averaged.update_parameters(model)
    report = replay(tmp_path)
    assert (report.verdict, report.checks["average"]) == ("match", "match"), str(report)


def attach(trace: Path, **recording: Any) -> Recorder:
    """Attach to an optimizer of `small`, with the scheduler that `make` makes of it, if there is one."""
    model, make = recording.pop("model", None) or small(), recording.pop("make", None)
    optimizer = SGD(model.parameters(), lr=0.1)
    if make is not None:
        recording["scheduler"] = make(optimizer)
    return Recorder(optimizer, trace, **recording)


def elsewhere(_: Optimizer) -> LRScheduler:
    return made.StepLR(SGD(small().parameters(), lr=0.1), 3)


def tenth(optimizer: Optimizer) -> LRScheduler:
    return made.StepLR(optimizer, 3)


def used(optimizer: Optimizer) -> LRScheduler:
    scheduler = tenth(optimizer)
    optimizer.step()
    scheduler.step()
    return scheduler


def clinging(optimizer: Optimizer) -> LRScheduler:
    return made.LambdaLR(optimizer, Clinging())


class Unlike:
    """A scheduler that is none of torch's."""


class Clinging:
    """A function that cannot be copied."""

    def __call__(self, step: int) -> float:
        return 0.9**step

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot pickle a file")


def unlike(_: Optimizer) -> Any:
    return Unlike()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a plateau": ({"make": made.ReduceLROnPlateau}, "scheduler: ReduceLROnPlateau is not a function of the step"),
    "no scheduler": ({"make": unlike}, "scheduler: Unlike is not a torch.optim.lr_scheduler.LRScheduler"),
    "of another optimizer": ({"make": elsewhere}, "scheduler: this StepLR steps another optimizer"),
    "not to be copied": (
        {"make": clinging},
        "scheduler: this LambdaLR cannot be copied (TypeError: cannot pickle a file)",
    ),
    "no length": ({"scheduler_every": 3}, "scheduler_every=3 is about a scheduler; give scheduler= as well"),
    "no number of updates": (
        {"make": tenth, "scheduler_every": 0},
        "scheduler_every=0: accepted are whole numbers from 1",
    ),
    "a run that goes on": (
        {"make": used, "scheduler_every": 3},
        "scheduler_every=3 in a run that goes on: say how many updates were applied",
    ),
    "names twice": (
        {"model": small(), "named_parameters": []},
        "model= and named_parameters= both name the parameters",
    ),
    "two bounds": (
        {"clip_norm": 1.0, "claims": Claims(clip_norm=2.0)},
        "claims.clip_norm = 2.0, but clip_norm= says 1.0; correct the one that is wrong, or leave one of them out",
    ),
    "two schedules": (
        {"make": tenth, "claims": Claims(schedule={"name": "constant"})},
        "claims.schedule = {'name': 'constant'}, but the scheduler says {'name': 'step', 'size': 3, 'gamma': 0.1}",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(kind: str, tmp_path: Path) -> None:
    recording, message = REFUSED[kind]
    if kind == "names twice":
        with pytest.raises(TraceError, match="both name the parameters"):
            Recorder(SGD(small().parameters(), lr=0.1), tmp_path, **recording)
        return
    with pytest.raises(TraceError) as caught:
        attach(tmp_path, **recording)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_claims_by_hand_join_those_of_objects(tmp_path: Path) -> None:
    options: dict[str, dict[str, Option]] = {"0.weight": {"momentum": 0.0}}
    model = small()
    optimizer = SGD(model.parameters(), lr=0.1)
    scheduler = made.ExponentialLR(optimizer, 0.9)
    claims = Claims(options=options, averaged=2, clip_norm=1.0)
    Recorder(optimizer, tmp_path, model=model, scheduler=scheduler, clip_norm=1.0, claims=claims).close()
    expected = {"name": "exponential", "size": 1, "gamma": 0.9}
    assert claims_of(tmp_path) == Claims(options=options, averaged=2, clip_norm=1.0, schedule=expected)


@pytest.mark.parametrize(("told", "function"), [(False, False), (True, True)])
def test_a_scheduler_stepped_once_an_epoch(told: bool, function: bool, tmp_path: Path) -> None:
    model = small()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = made.LambdaLR(optimizer, lambda step: 0.8**step) if function else made.ExponentialLR(optimizer, 0.8)
    with Recorder(optimizer, tmp_path, scheduler=scheduler, scheduler_every=3 if told else 1):
        for update in range(1, 13):
            step(model, optimizer)
            if update % 3 == 0:
                scheduler.step()
    report = replay(tmp_path)
    if told:
        assert report.checks["learning rate"] == "match", str(report)
    else:
        (finding,) = report.findings
        assert (
            "once in 3 updates; if that is meant, as once an epoch, give the recorder scheduler_every=3"
            in finding.cause
        )


@pytest.mark.parametrize("applied", [5, 6])
def test_a_scheduler_of_epochs_whose_batch_was_skipped(applied: int, tmp_path: Path) -> None:
    """The run goes on after two epochs of three batches, of which five were updates; the loop may say either number."""
    model = small()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = made.LambdaLR(optimizer, lambda step: 0.8**step)
    with Recorder(optimizer, tmp_path, scheduler=scheduler, scheduler_every=3) as recorder:
        for update in range(1, 7):
            recorder.skipped() if update == 2 else step(model, optimizer)
            if update % 3 == 0:
                scheduler.step()
    goes_on: dict[str, Any] = {"claims": Claims(applied=applied), "append": True, "first_step": 7}
    with Recorder(optimizer, tmp_path, scheduler=scheduler, scheduler_every=3, **goes_on):
        for update in range(7, 13):
            step(model, optimizer)
            if update % 3 == 0:
                scheduler.step()
    report = replay(tmp_path)
    assert (report.verdict, report.checks["learning rate"]) == (Verdict.MATCH, "match"), str(report)


@pytest.mark.parametrize(("restored", "function"), [(True, False), (False, False), (False, True)])
def test_a_run_that_goes_on(restored: bool, function: bool, tmp_path: Path) -> None:
    """What was applied before is on record, so a scheduler that begins anew is seen."""
    model = small()
    optimizer = Adam(model.parameters(), lr=0.1)

    def schedule(last: int = -1) -> LRScheduler:
        kind: Any = (made.LambdaLR, lambda step: 0.8**step) if function else (made.ExponentialLR, 0.8)  # pyright: ignore[reportUnknownLambdaType]
        return kind[0](optimizer, kind[1], last_epoch=last)

    scheduler = schedule()
    with Recorder(optimizer, tmp_path, scheduler=scheduler):
        for _ in range(4):
            step(model, optimizer)
            scheduler.step()
    if not restored:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        scheduler = schedule()
    with Recorder(optimizer, tmp_path, scheduler=scheduler, append=True, first_step=5):
        for _ in range(4):
            step(model, optimizer)
            scheduler.step()
    report = replay(tmp_path)
    if restored:
        assert report.verdict is Verdict.MATCH, str(report)
    else:
        assert {finding.check for finding in report.findings} == {"learning rate"}, str(report)
        cause = "its state was not restored" if function else "the schedule started over at step 5"
        assert any(cause in finding.cause for finding in report.findings), str(report)


def test_attached_in_the_middle_of_a_run(tmp_path: Path) -> None:
    model = small()
    optimizer = Adam(model.parameters(), lr=0.1)
    scheduler = made.CosineAnnealingLR(optimizer, 20)
    for _ in range(4):
        step(model, optimizer)
        scheduler.step()
    with Recorder(optimizer, tmp_path, scheduler=scheduler):
        for _ in range(4):
            step(model, optimizer)
            scheduler.step()
    report = replay(tmp_path)
    assert report.checks["learning rate"] == "match", str(report)
    assert claims_of(tmp_path).applied == 4


def test_a_scheduler_stepped_before_the_first_update(tmp_path: Path) -> None:
    """An Adam without state has taken no step, whatever its scheduler counts."""
    model = small()
    optimizer = Adam(model.parameters(), lr=0.1)
    scheduler = made.CosineAnnealingLR(optimizer, 20)
    optimizer.zero_grad()
    optimizer.step()  # without a gradient: nothing moves
    scheduler.step()
    with Recorder(optimizer, tmp_path, scheduler=scheduler):
        for _ in range(4):
            step(model, optimizer)
            scheduler.step()
    (finding,) = replay(tmp_path).findings
    assert "one update ahead" in finding.cause


def test_a_function_that_fails_ends_the_claim_and_nothing_else(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="is not checked") as caught:
        report = beyond_its_end(tmp_path)
    (warning,) = caught
    assert str(warning.message) == (
        "crosscheck: the learning rate is not checked after 3 applied updates: a copy of the LambdaLR raised IndexError: "
        "list index out of range"
    )
    assert warning.filename == __file__
    assert report.verdict is Verdict.MATCH, str(report)
    told = "the learning rate is checked for 3 of 5 steps: the scheduler's own code gave none for steps 4 to 5 (2)"
    assert told in report.notes


def test_a_function_that_ends_with_the_run_is_no_failure(tmp_path: Path) -> None:
    """A loop that does not step its scheduler after the last update never asks for the rate that is not there."""
    report = beyond_its_end(tmp_path, updates=3)
    assert not [note for note in report.notes if "learning rate" in note]


def beyond_its_end(tmp_path: Path, updates: int = 5) -> Report:
    """Record a schedule of three rates, which a longer loop does not step any further."""
    model = small()
    optimizer = Adam(model.parameters(), lr=0.1)
    factors = [1.0, 0.5, 0.25]
    scheduler = made.LambdaLR(optimizer, factors.__getitem__)
    with Recorder(optimizer, tmp_path, scheduler=scheduler):
        for update in range(updates):
            step(model, optimizer)
            if update < 2:
                scheduler.step()
    return replay(tmp_path)
