"""Several ranks write one trace, and the replay says whether they hold the same. Both ranks are in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from crosscheck import Recorder, Report, TraceError, Verdict, replay
from tests.crosscheck.recording import feed, make_parameters

Fault = Callable[[int, torch.optim.Optimizer, list[Parameter]], object]
"""What goes wrong on rank 1 before a step, whose number comes first."""


def nothing(step: int, optimizer: torch.optim.Optimizer, parameters: list[Parameter]) -> None:
    del step, optimizer, parameters


def record_rank(
    rank: int,
    trace: Path,
    fault: Fault = nothing,
    *,
    world_size: int = 2,
    steps: int = 6,
    flush: int = 3,
    names: tuple[str, ...] = ("first", "second"),
    first_step: int = 1,
    append: bool = False,
) -> None:
    """Record some steps, with one element of each tensor sampled, and a commit after every `flush` steps."""
    parameters = make_parameters((40, 30), (50, 20))
    optimizer = torch.optim.SGD(zip(names, parameters, strict=True), lr=0.1, momentum=0.9)
    with Recorder(
        optimizer,
        trace,
        steps=(),
        coordinates=1,
        rank=rank,
        world_size=world_size,
        first_step=first_step,
        append=append,
    ) as recorder:
        for step in range(first_step, first_step + steps):
            feed(parameters, step)
            fault(step, optimizer, parameters)
            if any(parameter.grad is not None for parameter in parameters):
                optimizer.step()
            else:
                recorder.skipped()
            if step % flush == 0:
                recorder.flush()


def of_two(trace: Path, fault: Fault = nothing, **other: Any) -> Report:
    """Return the report on two ranks, on the second of which something is wrong."""
    record_rank(0, trace)
    record_rank(1, trace, fault, **other)
    return replay(trace)


def grad_of(parameter: Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def other_gradient(step: int, optimizer: torch.optim.Optimizer, parameters: list[Parameter]) -> None:
    del optimizer
    if step == 4:
        grad_of(parameters[1]).mul_(1.5)


def no_gradient(step: int, optimizer: torch.optim.Optimizer, parameters: list[Parameter]) -> None:
    del optimizer
    if step == 2:
        parameters[0].grad = None


def other_rate(step: int, optimizer: torch.optim.Optimizer, parameters: list[Parameter]) -> None:
    del parameters
    if step == 5:
        optimizer.param_groups[0]["lr"] = 0.2


def unsampled_gradient(step: int, optimizer: torch.optim.Optimizer, parameters: list[Parameter]) -> None:
    """Change one element, which is not the one that is sampled of this tensor."""
    del optimizer
    if step == 3:
        grad_of(parameters[0])[7, 7] += 1.0


def between_steps(step: int, optimizer: torch.optim.Optimizer, parameters: list[Parameter]) -> None:
    del optimizer
    if step == 3:
        parameters[0].detach().mul_(2.0)


def before_the_first(step: int, optimizer: torch.optim.Optimizer, parameters: list[Parameter]) -> None:
    del optimizer
    if step == 1:
        parameters[1].detach().mul_(2.0)


@pytest.mark.parametrize("flush", [3, 2], ids=["alike", "parts of other lengths"])
def test_equal_ranks_match(tmp_path: Path, flush: int) -> None:
    report = of_two(tmp_path, flush=flush)
    assert (report.verdict, report.checks["replicas"], report.ranks, report.steps) == (Verdict.MATCH, "match", 2, 6)
    assert " of 2 tensors on 2 ranks, " in str(report)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["rank-0001", "segment-0001"]
    alone = replay(tmp_path / "rank-0001")
    assert (alone.verdict, alone.ranks, alone.checks["replicas"]) == (Verdict.MATCH, 1, "not recorded")


@pytest.mark.parametrize(
    ("fault", "step", "tensor", "slot", "cause"),
    [
        (other_gradient, 4, "second", "grad", "the gradients that the optimizers consumed are not the same"),
        (no_gradient, 2, "first", "grad", "consumed is there on rank 0 and absent on rank 1. Either the tensor took no part in"),
        (unsampled_gradient, 3, "first", "momentum_buffer", "in elements that are not sampled: their digest is another"),
        (before_the_first, 1, "second", "param", "before the first step on record: they did not start alike"),
        (between_steps, 3, "first", "param", "param was changed between two steps on some ranks and not on others"),
        (other_rate, 5, "first", "lr", "lr is not the same"),
    ],
)  # fmt: skip
def test_what_ranks_differ_in_first_is_found(
    tmp_path: Path, fault: Fault, step: int, tensor: str, slot: str, cause: str
) -> None:
    report = of_two(tmp_path, fault, flush=2)
    [finding] = [finding for finding in report.findings if finding.check == "replicas"]
    assert (finding.step, finding.tensor, finding.slot) == (step, tensor, slot)
    # One element of each tensor is sampled, and each has its learning rate.
    assert finding.elements == finding.steps * len(finding.tensors if slot == "lr" else [tensor])
    assert finding.cause.startswith("rank 1 differs from rank 0: ")
    assert cause in finding.cause
    assert (report.verdict, report.checks["replicas"]) == (Verdict.MISMATCH, "mismatch")
    assert "the ranks are not replicas of each other: rank 1" in str(report).splitlines()[0]
    assert report.checks["optimizer"] == "match"


def test_a_step_that_one_rank_skips(tmp_path: Path) -> None:
    def skip(step: int, optimizer: torch.optim.Optimizer, parameters: list[Parameter]) -> None:
        del optimizer
        for parameter in parameters if step == 4 else ():
            parameter.grad = None

    finding = of_two(tmp_path, skip).findings[0]
    assert (finding.step, finding.slot) == (4, "grad")


@pytest.mark.parametrize("forgetful", [0, 1])
def test_a_step_that_only_one_rank_takes(forgetful: int, tmp_path: Path) -> None:
    """Both see the same gradients, as under DDP; one takes no step at the third."""
    for rank in (0, 1):
        parameters = make_parameters((5, 20))
        optimizer = torch.optim.SGD([("weight", parameters[0])], lr=0.1, momentum=0.9)
        with Recorder(optimizer, tmp_path, rank=rank, world_size=2):
            for iteration in range(1, 8):
                feed(parameters, iteration)
                if (rank, iteration) != (forgetful, 3):
                    optimizer.step()
    report = replay(tmp_path)
    [finding] = report.findings
    assert (finding.check, finding.step, finding.slot) == ("replicas", 3, "grad")
    said = "That of step 3 on rank {0} is that of step 4 on rank {1}: rank {0} did not take a step that rank {1} took"
    assert finding.cause.endswith(said.format(forgetful, 1 - forgetful))
    counts = "rank 0 recorded 6 steps, rank 1 7" if forgetful == 0 else "rank 0 recorded 7 steps, rank 1 6"
    assert f"{counts} in segment-0001: nothing compares those that not all of them have" in report.notes


def test_other_gradients_and_another_number_of_steps(tmp_path: Path) -> None:
    report = of_two(tmp_path, other_gradient, steps=5)
    [finding] = [finding for finding in report.findings if finding.check == "replicas"]
    assert "Either they were not averaged over the ranks" in finding.cause
    assert finding.cause.endswith("or they are of different iterations: rank 0 recorded 6 steps, rank 1 5")


def test_ranks_of_three_are_named(tmp_path: Path) -> None:
    """Ranks 1 and 2 of four differ, one from a later step on, and rank 3 did not record."""
    record_rank(0, tmp_path, world_size=4)
    record_rank(1, tmp_path, other_rate, world_size=4)
    record_rank(2, tmp_path, other_rate, world_size=4)
    report = replay(tmp_path)
    assert report.findings[0].cause == "ranks 1 and 2 differ from rank 0: lr is not the same"
    assert "of 4 ranks 0, 1 and 2 recorded: nothing is known of the others" in report.notes


def test_what_every_rank_shows_is_said_once(tmp_path: Path) -> None:
    for rank in (0, 1):
        record_rank(rank, tmp_path, between_steps)
    report = replay(tmp_path)
    [finding] = report.findings
    assert (finding.check, finding.ranks, report.checks["replicas"]) == ("continuity", (0, 1), "match")
    assert "- step 3, first[" in str(report)
    assert "] on ranks 0 and 1, param: " in str(report)


def test_ranks_may_record_into_folders_of_their_own(tmp_path: Path) -> None:
    record_rank(0, tmp_path / "a")
    record_rank(1, tmp_path / "b", other_gradient)
    assert replay(tmp_path / "a", tmp_path / "b").findings[0].check == "replicas"
    with pytest.raises(TraceError, match=r"a and .*a are both of rank 0; replay them apart"):
        replay(tmp_path / "a", tmp_path / "a")


def test_ranks_of_different_rules_are_refused(tmp_path: Path) -> None:
    for rank, (folder, kind) in enumerate({"a": torch.optim.SGD, "b": torch.optim.Adam}.items()):
        Recorder(kind(make_parameters((4,))), tmp_path / folder, rank=rank, world_size=2).close()
    with pytest.raises(
        TraceError, match=r"its ranks claim different rules \(adam, sgd\), and a replay takes one: copy"
    ):
        replay(tmp_path / "a", tmp_path / "b")


def test_a_rank_that_was_killed_earlier_and_a_resumed_run(tmp_path: Path) -> None:
    """What both have is compared, and in the next segment as well; the fault is in that."""
    record_rank(0, tmp_path, steps=6)
    record_rank(1, tmp_path, steps=3)
    assert replay(tmp_path).checks["replicas"] == "match"
    for rank, fault in ((0, nothing), (1, other_gradient)):
        record_rank(rank, tmp_path, fault, append=True, first_step=4, steps=3)
    [finding] = [finding for finding in replay(tmp_path).findings if finding.check == "replicas"]
    assert (finding.step, finding.slot) == (4, "grad")


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    report = of_two(tmp_path, names=("first", "third"))
    assert "second and third are not on every rank: nothing compares what ranks hold of that" in report.notes
    record_rank(0, tmp_path, append=True, first_step=7)
    record_rank(1, tmp_path, append=True, first_step=8)
    notes = replay(tmp_path).notes
    alone = (
        "segment-0002 (first step {1}, world size 2) of rank {0} has no counterpart on other ranks: nothing compares it"
    )
    assert {alone.format(0, 7), alone.format(1, 8)} <= set(notes)


def test_where_nothing_can_be_compared_ranks_are_not_said_to_match(tmp_path: Path) -> None:
    record_rank(0, tmp_path)
    record_rank(1, tmp_path, first_step=4)
    assert replay(tmp_path).checks["replicas"] == "not recorded"


def test_ranks_that_do_not_say_so_are_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one comes later, or at the same moment: it sees no segment yet, and cannot rename its own to the first."""
    record_rank(0, tmp_path)
    with pytest.raises(TraceError, match="give each its rank= and world_size="):
        record_rank(0, tmp_path)
    with pytest.raises(ValueError, match="rank=2, world_size=2: accepted are ranks from 0 to world_size - 1"):
        record_rank(2, tmp_path)
    monkeypatch.setattr("crosscheck.trace.writer.SEGMENT_NAME", "unseen")
    with pytest.raises(TraceError, match="segment-0001: somebody else began it at this moment"):
        record_rank(0, tmp_path)
