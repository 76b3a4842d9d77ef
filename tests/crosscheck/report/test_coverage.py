"""A replay of several segments says where they join, which steps they hold twice and which none of them holds."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crosscheck import Recorder, Report, Verdict, replay
from crosscheck.report.coverage import Coverage, spans
from tests.crosscheck.recording import feed, kill, make_parameters, parts_of


class Run:
    """A run that can be started from any step it has reached. Each start is killed unless it is told to end well."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace
        self.saved: dict[int, Any] = {0: None}

    def start(
        self,
        *,
        after: int,
        until: int,
        flush: Sequence[int] = (),
        well: bool = False,
        coordinates: int = 256,
        spoil: Callable[[list[torch.nn.Parameter], torch.optim.Optimizer], None] | None = None,
    ) -> None:
        """Continue from the checkpoint of step `after`, with new objects, as a new process does."""
        parameters = make_parameters((4,), (5,))
        optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        if self.saved[after] is not None:
            values, state = copy.deepcopy(self.saved[after])
            for parameter, value in zip(parameters, values, strict=True):
                parameter.data.copy_(value)
            optimizer.load_state_dict(state)
        if spoil is not None:
            spoil(parameters, optimizer)
        recorder = Recorder(optimizer, self.trace, append=True, first_step=after + 1, coordinates=coordinates)
        for step in range(after + 1, until + 1):
            feed(parameters, step)
            optimizer.step()
            if step in flush:
                recorder.flush()
            self.saved[step] = copy.deepcopy(([p.detach() for p in parameters], optimizer.state_dict()))
        if well:
            recorder.close()
        else:
            kill(recorder)


HELD = "its 2 tensors and their slots were held, bit for bit, against what"
NOT_HELD = "what step {} left is not on record, so nothing says whether the run went on from there"


def joins(report: Report) -> list[str]:
    return [note.removeprefix("a run resumed here, at ") for note in report.notes if "resumed here" in note]


def test_flush_commits_what_waits(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.start(after=0, until=7, flush=(2, 2, 6))
    assert [[step.step for step in part.steps] for part in parts_of(tmp_path)] == [[1, 2], [3, 4, 5, 6]]
    report = replay(tmp_path)
    assert (report.verdict, report.steps) == (Verdict.MATCH, 6)


def test_flush_of_nothing_and_after_the_end_is_nothing(tmp_path: Path) -> None:
    parameters = make_parameters((4,))
    recorder = Recorder(torch.optim.SGD(parameters, lr=0.1), tmp_path)
    recorder.flush()
    recorder.close()
    recorder.flush()
    assert parts_of(tmp_path) == []


def test_a_join_without_a_gap(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.start(after=0, until=7, flush=(5,))
    run.start(after=5, until=9, well=True)
    report = replay(tmp_path)
    assert (report.verdict, report.steps, report.warnings) == (Verdict.MATCH, 9, ())
    assert joins(report) == [f"step 6, recorded segment-0002; {HELD} step 5 left"]


def test_steps_that_nobody_holds_are_missing(tmp_path: Path) -> None:
    """The checkpoint is newer than the last committed part."""
    run = Run(tmp_path)
    run.start(after=0, until=7, flush=(3,))
    run.start(after=5, until=9, well=True)
    report = replay(tmp_path)
    assert report.steps == 7
    [warning] = report.warnings
    assert "no segment holds steps 4 to 5 (2): " in warning
    assert f"warning: {warning}" in str(report)


def test_steps_that_were_recorded_twice_are_counted(tmp_path: Path) -> None:
    """The run fell back to an older checkpoint."""
    run = Run(tmp_path)
    run.start(after=0, until=8, flush=(7,))
    run.start(after=4, until=9, well=True)
    report = replay(tmp_path)
    assert (report.verdict, report.steps, report.warnings) == (Verdict.MATCH, 12, ())
    assert joins(report) == [
        f"step 5, recorded segment-0002; {HELD} step 4 left; steps 5 to 7 (3) recorded before as well, and judged both times"
    ]


def test_several_joins(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.start(after=0, until=6, flush=(4,))
    run.start(after=6, until=10, flush=(8, 9))  # 5 and 6 are missing
    run.start(after=8, until=9)  # killed at once: nothing was committed, so nothing is there twice
    run.start(after=8, until=12, flush=(12,))  # 9 is there twice
    run.start(after=5, until=8, flush=(7,))  # from an older checkpoint: now 6 is there, and 7 twice
    run.start(after=12, until=14, well=True)
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH
    assert [line.partition(",")[0] for line in joins(report)] == ["step 7", "step 9", "step 9", "step 6", "step 13"]
    said = [line.split("; ")[1:] for line in joins(report)]
    nine, seven = ([f"step {n} recorded before as well, and judged both times"] for n in (9, 7))
    assert said == [
        [NOT_HELD.format(6)],
        [NOT_HELD.format(8)],  # no record to compare with
        [f"{HELD} step 8 left", *nine],
        [NOT_HELD.format(5), *seven],
        [f"{HELD} step 12 left"],
    ]
    [warning] = report.warnings
    assert "no segment holds step 5: " in warning


def test_a_resumed_run_that_committed_nothing_tells_what_is_missing_by_its_header(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.start(after=0, until=6, flush=(4,))
    run.start(after=6, until=7)
    [warning] = replay(tmp_path).warnings
    assert "no segment holds steps 5 to 6 (2): " in warning


def test_a_recording_that_began_late_misses_nothing(tmp_path: Path) -> None:
    parameters = make_parameters((4,))
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    with Recorder(optimizer, tmp_path, first_step=100):
        feed(parameters, 1)
        optimizer.step()
    report = replay(tmp_path)
    assert not report.warnings
    assert not joins(report)


def lose_momentum(_parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    optimizer.state.clear()


def start_momentum_from_zero(_parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    for slots in optimizer.state.values():
        slots["momentum_buffer"].zero_()


def move_a_weight(parameters: list[torch.nn.Parameter], _optimizer: torch.optim.Optimizer) -> None:
    parameters[1].data[3] = torch.nextafter(parameters[1].data[3], torch.tensor(torch.inf))


def swap(parameters: list[torch.nn.Parameter], _optimizer: torch.optim.Optimizer) -> None:
    parameters[0].data.copy_(parameters[0].data.flip(0))


@pytest.mark.parametrize("committed", [5, 8])  # the run goes on from the end of a part, or from within one
@pytest.mark.parametrize(
    ("spoil", "tensor", "slot", "elements", "words"),
    [
        (lose_momentum, "group0.0", "momentum_buffer", 9, "was dropped between steps 5 and 6"),
        (start_momentum_from_zero, "group0.0", "momentum_buffer", 9, "was changed between steps 5 and 6"),
        (move_a_weight, "group0.1", "param", 1, "was changed between steps 5 and 6"),
        (swap, "group0.0", "param", 4, "was changed between steps 5 and 6"),
    ],
)
def test_a_start_that_does_not_go_on_from_where_the_last_one_was(
    tmp_path: Path, spoil: Any, tensor: str, slot: str, elements: int, words: str, committed: int
) -> None:
    """Each step of the second start is correct by itself."""
    run = Run(tmp_path)
    run.start(after=0, until=committed, flush=(committed,))
    run.start(after=5, until=9, well=True, spoil=spoil)
    report = replay(tmp_path)
    assert report.verdict is Verdict.MISMATCH
    found = report.findings[0]
    assert (found.step, found.tensor, found.slot, found.elements) == (6, tensor, slot, elements)
    assert words in found.cause


def test_a_step_that_a_killed_start_may_have_taken_again(tmp_path: Path) -> None:
    """The second start comes to other values, as on a GPU, and saves them, but is killed before it commits a step."""
    run = Run(tmp_path)
    run.start(after=0, until=8, flush=(8,))
    run.start(after=2, until=6, spoil=move_a_weight)
    run.start(after=4, until=9, well=True)
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH, str(report)
    assert "; step 4 is on record, but a start after that may have taken it again, so" in joins(report)[-1]


def test_a_run_that_began_again(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.start(after=0, until=5, flush=(3,))
    run.start(after=0, until=5, well=True)
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH
    [join] = joins(report)
    assert join.split("; ")[1:] == [
        "from the beginning again",
        "steps 1 to 3 (3) recorded before as well, and judged both times",
    ]


@pytest.mark.parametrize("moved", [None, 1, 4])
def test_where_coordinates_differ_the_common_ones_are_held(moved: int | None, tmp_path: Path) -> None:
    """The first start records elements 0 and 1 of each tensor, the second one all of them."""

    def move(parameters: list[torch.nn.Parameter], _: torch.optim.Optimizer) -> None:
        if moved is not None:
            parameters[1].data[moved] += 1

    run = Run(tmp_path)
    run.start(after=0, until=5, flush=(5,), coordinates=2)
    run.start(after=5, until=9, well=True, spoil=move)
    report = replay(tmp_path)
    found = [(finding.step, finding.index) for finding in report.findings if finding.index is not None]
    assert found == ([(6, (1,))] if moved == 1 else []), str(report)
    assert joins(report) == [f"step 6, recorded segment-0002; {HELD} step 5 left"]


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 8)), max_size=6))
def test_ranges_are_as_sets(starts: list[tuple[int, int]]) -> None:
    held, ranges = set[int](), Coverage()
    for first, count in starts:
        now = set(range(first, first + count))
        assert {step for twice in ranges.add(range(first, first + count)) for step in twice} == held & now
        held |= now
    taken = range(min((s for s, _ in starts), default=0), max((s + n for s, n in starts), default=0))
    assert [step for missing in ranges.missing() for step in missing] == sorted(set(taken) - held)


@pytest.mark.parametrize(
    ("ranges", "text"),
    [
        ([range(7, 8)], "step 7"),
        ([range(8, 12), range(15, 16)], "steps 8 to 11 (4), 15"),
        ([range(1, 2**63)], "steps 1 to 9223372036854775807 (9,223,372,036,854,775,807)"),
    ],
)
def test_ranges_in_words(ranges: list[range], text: str) -> None:
    assert spans(ranges) == text
