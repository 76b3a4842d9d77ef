"""What ranks recorded is compared where it is the same, and nothing is called equal that was not compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from crosscheck import Recorder, Report, Verdict, replay
from crosscheck.checks.ranks.comparison import Comparison
from crosscheck.report.finding import Finding
from crosscheck.trace.format import Part
from tests.crosscheck.recording import feed, make_parameters

Change = Callable[[int, list[Parameter]], None]
"""What is done to the parameters before a step, whose number comes first."""


def nothing(step: int, parameters: list[Parameter]) -> None:
    del step, parameters


def scale_gradient(at: int) -> Change:
    def scale(step: int, parameters: list[Parameter]) -> None:
        if step == at:
            gradient = parameters[0].grad
            assert gradient is not None
            gradient.mul_(2.0)

    return scale


def no_gradient(step: int, parameters: list[Parameter]) -> None:
    del step
    parameters[-1].grad = None


def other_start(step: int, parameters: list[Parameter]) -> None:
    if step == 1:
        parameters[0].detach().mul_(1.5)


def one_group(parameters: list[Parameter]) -> list[dict[str, Any]]:
    return [{"params": parameters}]


def record(
    rank: int,
    trace: Path,
    *,
    steps: range = range(1, 5),
    change: Change = nothing,
    world_size: int = 2,
    shapes: tuple[tuple[int, ...], ...] = ((5, 4),),
    groups: Callable[[list[Parameter]], list[dict[str, Any]]] = one_group,
    loaded: bool = True,
    in_full: Any = (),
    **options: Any,
) -> None:
    """Record the steps of a rank as a start of the run, which goes on from all steps before them.

    Where the state is not `loaded`, the optimizer begins without any.
    """
    parameters = make_parameters(*shapes)
    optimizer = torch.optim.SGD(groups(parameters), lr=0.1, momentum=0.9)
    for step in range(1, steps.start):
        feed(parameters, step)
        optimizer.step()
    if not loaded:
        optimizer = torch.optim.SGD(groups(parameters), lr=0.1, momentum=0.9)
    with Recorder(
        optimizer,
        trace,
        named_parameters=[(f"tensor {k}", parameter) for k, parameter in enumerate(parameters)],
        rank=rank,
        world_size=world_size,
        first_step=steps.start,
        append=steps.start > 1,
        steps=in_full,
        **options,
    ):
        for step in steps:
            feed(parameters, step)
            change(step, parameters)
            optimizer.step()


def difference(report: Report) -> Finding:
    [finding] = [finding for finding in report.findings if finding.check == "replicas"]
    assert report.checks["replicas"] == "mismatch"
    return finding


def test_a_fault_after_a_change_of_the_world_size_is_found(tmp_path: Path) -> None:
    for rank in range(3):
        record(rank, tmp_path, world_size=3)
    for rank, change in ((0, nothing), (1, scale_gradient(6))):
        record(rank, tmp_path, steps=range(5, 8), change=change)
    report = replay(tmp_path)
    assert (difference(report).step, difference(report).slot) == (6, "grad")
    assert "segment-0002 (first step 5, world size 2) was compared between ranks 0 and 1 only" in report.notes


def test_a_fault_of_ranks_that_came_later_is_found(tmp_path: Path) -> None:
    """Rank 0 begins alone, and the second start has three ranks."""
    record(0, tmp_path, world_size=1)
    for rank in range(3):
        record(rank, tmp_path, steps=range(5, 8), world_size=3, change=scale_gradient(6) if rank == 2 else nothing)
    report = replay(tmp_path)
    assert difference(report).cause.startswith("rank 2 differs from rank 0")
    assert (
        "segment-0001 (first step 1, world size 1) of rank 0 has no counterpart on other ranks: nothing compares it"
        in report.notes
    )


def test_ranks_are_held_against_the_lowest_one_of_their_start(tmp_path: Path) -> None:
    """Rank 0 recorded the first start only; in the second one rank 2 differs from rank 1."""
    for rank in range(3):
        record(rank, tmp_path, world_size=3)
    for rank in (1, 2):
        record(rank, tmp_path, steps=range(5, 8), world_size=3, change=scale_gradient(5) if rank == 2 else nothing)
    found = difference(replay(tmp_path))
    assert (found.step, found.cause.split(":")[0]) == (5, "rank 2 differs from rank 1")


def test_a_fault_after_a_start_without_steps_is_found(tmp_path: Path) -> None:
    record(0, tmp_path)
    record(1, tmp_path)
    record(1, tmp_path, steps=range(5, 5))
    record(0, tmp_path, steps=range(5, 8))
    record(1, tmp_path, steps=range(5, 7), change=scale_gradient(6))
    report = replay(tmp_path)
    assert (difference(report).step, difference(report).slot) == (6, "grad")
    counts = (
        "rank 0 recorded 3 steps, rank 1 2 in segment-0002 of rank 0: nothing compares those that not all of them have"
    )
    assert counts in report.notes


def test_ranks_without_an_element_in_common_are_not_said_to_match(tmp_path: Path) -> None:
    """The budgets choose other elements and digests of other ranges; the parameters differ everywhere."""
    for rank, change in ((0, nothing), (1, other_start)):
        budget = "light" if rank == 0 else 4000
        record(rank, tmp_path, shapes=((400, 400),), steps=range(1, 3), change=change, budget=budget)
    report = replay(tmp_path)
    assert (report.verdict, report.checks["replicas"]) == (Verdict.MATCH, "not recorded")
    assert any(note.startswith("of tensor 0 the ranks recorded no element in common") for note in report.notes)


def test_whole_tensors_are_compared_with_sampled_ones_of_the_same_step(tmp_path: Path) -> None:
    record(0, tmp_path, shapes=((400, 400),), steps=range(1, 3), budget="full", in_full="all")
    record(1, tmp_path, shapes=((400, 400),), steps=range(1, 3), change=other_start, coordinates=1)
    found = difference(replay(tmp_path))
    assert (found.step, found.slot, found.index is not None) == (1, "param", True)


def test_digests_alone_show_a_difference(tmp_path: Path) -> None:
    """No element is sampled on both ranks; this must not stop the replay."""
    for rank, change in ((0, nothing), (1, other_start)):
        record(rank, tmp_path, shapes=((30, 30),), change=change, coordinates=2 + rank)
    assert "their digest is another" in difference(replay(tmp_path)).cause


def test_an_empty_tensor_without_a_gradient_on_one_rank(tmp_path: Path) -> None:
    for rank, change in ((0, nothing), (1, no_gradient)):
        record(rank, tmp_path, shapes=((5, 4), (0, 3)), change=change)
    report = replay(tmp_path)
    found = difference(report)
    assert not any("no element in common" in note for note in report.notes)
    assert (found.tensor, found.slot, found.index, found.recorded) == ("tensor 1", "grad", None, None)


def decayed_apart(first: int, *, swapped: bool = False) -> Callable[[list[Parameter]], list[dict[str, Any]]]:
    """Return the groups of which one, with the `first` parameters, has weight decay and the other has none."""

    def split(parameters: list[Parameter]) -> list[dict[str, Any]]:
        groups = [
            {"params": parameters[:first], "weight_decay": 0.1},
            {"params": parameters[first:], "weight_decay": 0.0},
        ]
        return groups[::-1] if swapped else groups

    return split


def test_groups_in_another_order_are_no_difference(tmp_path: Path) -> None:
    for rank in (0, 1):
        record(rank, tmp_path, shapes=((5, 4), (5,)), groups=decayed_apart(1, swapped=rank == 1))
    report = replay(tmp_path)
    assert (report.verdict, report.checks["replicas"]) == (Verdict.MATCH, "match")


def test_options_are_compared_tensor_by_tensor(tmp_path: Path) -> None:
    """On rank 1 the second tensor is in the group with weight decay, too."""
    for rank in (0, 1):
        record(rank, tmp_path, shapes=((5, 4), (5,), (3,)), groups=decayed_apart(1 + rank))
    found = difference(replay(tmp_path))
    assert (found.tensor, found.slot, found.expected, found.recorded) == ("tensor 1", "weight_decay", 0.0, 0.1)
    assert (found.step, found.tensors, found.cause) == (
        1,
        ("tensor 1",),
        "rank 1 differs from rank 0: weight_decay is not the same",
    )


def test_state_that_one_rank_did_not_load(tmp_path: Path) -> None:
    for rank in (0, 1):
        record(rank, tmp_path)
    for rank in (0, 1):
        record(rank, tmp_path, steps=range(5, 7), loaded=rank == 0)
    assert difference(replay(tmp_path)).cause == (
        "rank 1 differs from rank 0: momentum_buffer is there on rank 0 and absent on rank 1 before the first step of "
        "segment-0002: it was not loaded there"
    )


def test_state_that_one_rank_has_at_the_first_start(tmp_path: Path) -> None:
    for rank in (0, 1):
        record(rank, tmp_path, steps=range(5, 7), loaded=rank == 1)
    assert difference(replay(tmp_path)).cause.endswith(
        "momentum_buffer is there on rank 1 and absent on rank 0 before the first step on record: they did not start alike"
    )


def test_a_gradient_that_one_rank_lacks(tmp_path: Path) -> None:
    for rank, change in ((0, nothing), (1, no_gradient)):
        record(rank, tmp_path, shapes=((5, 4), (5,)), change=change)
    found = difference(replay(tmp_path))
    assert "consumed is there on rank 0 and absent on rank 1" in found.cause
    assert "not averaged over the ranks" not in found.cause


def test_ranks_are_read_at_the_pace_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 has no segment of the first start, and is not read before rank 0 is through with its own: that takes less memory."""
    record(0, tmp_path, steps=range(1, 9), world_size=1)
    for rank in (0, 1):
        record(rank, tmp_path, steps=range(5, 8))
    read: list[tuple[int, int]] = []
    add_steps = Comparison.add_steps

    def listing(self: Comparison, rank: int, segment: int, part: Part, options: Any) -> None:
        read.append((rank, part.steps[0].step))
        add_steps(self, rank, segment, part, options)

    monkeypatch.setattr(Comparison, "add_steps", listing)
    assert replay(tmp_path).checks["replicas"] == "match"
    assert read == [(0, 1), (0, 5), (1, 5)]
