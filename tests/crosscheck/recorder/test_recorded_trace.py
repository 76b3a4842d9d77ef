"""Tests what a recording writes to disk and when, and that it does not change the training."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.optim import SGD, Adam, Optimizer

from crosscheck import Recorder, TraceError, Verdict, replay
from crosscheck.trace.reader import open_trace
from tests.crosscheck.recording import (
    IMPLEMENTATIONS,
    applied,
    feed,
    full_steps,
    make_parameters,
    overflowing_steps,
    parts_of,
    take_steps,
)
from tests.support import wait_until


def momentum_sgd(parameters: Any, **options: Any) -> SGD:
    return SGD(parameters, lr=0.1, momentum=0.9, **options)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("sampled", [1, 2, 3, 100, 200]),
        ("all", list(range(1, 206))),
        ([5, 2, 204, 900], [2, 5, 204]),
        (range(0), []),
    ],
    ids=str,
)
def test_steps_recorded_in_full(
    steps: Literal["sampled", "all"] | Iterable[int], expected: list[int], tmp_path: Path
) -> None:
    parameters = make_parameters((4,), (5,))
    optimizer = momentum_sgd(parameters)
    with Recorder(optimizer, tmp_path, steps=steps, coordinates=3):
        take_steps(optimizer, parameters, range(1, 206))
    assert sorted(full_steps(tmp_path)) == expected
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH
    # Of a parameter and its buffer every element is recorded at full steps, and three of each tensor at every step.
    assert report.elements == 2 * (len(expected) * 9 + 205 * 6)


@pytest.mark.parametrize("fused", [False, True])
def test_the_step_after_a_skip_is_full(fused: bool, tmp_path: Path) -> None:
    (weight,) = make_parameters((4,))
    optimizer = momentum_sgd([weight], fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Recorder(optimizer, tmp_path, scaler=scaler) as recorder:
        overflowing_steps(optimizer, weight, recorder, scaler, steps=12, skip=(6, 9, 10))
    assert [step for step, good in enumerate(applied(tmp_path), 1) if not good] == [6, 9, 10]
    assert set(full_steps(tmp_path)) >= {1, 2, 3, 7, 11}
    assert not set(full_steps(tmp_path)) & {4, 5, 6, 8, 9, 12}


def test_coordinates_are_fixed_and_limited(tmp_path: Path) -> None:
    small, large = make_parameters((16,), (70, 90))
    optimizer = momentum_sgd([("small", small), ("large", large)])
    for folder in "ab":  # another run has the same coordinates, so the traces of two runs can be compared
        with Recorder(optimizer, tmp_path / folder, coordinates=16):
            take_steps(optimizer, [small, large], range(1, 131))
    seen: list[tuple[int, ...]] = []
    for segment in (*open_trace(tmp_path / "a"), *open_trace(tmp_path / "b")):
        for part in segment.parts():
            assert not part.meta.blocks[0].full
            assert not part.has_coordinates(0, 0)  # the tensor is so small that all elements are recorded
            picked = part.array(0, 1, "coordinates", 1, 16)[0]
            seen.append(tuple(int(position) for position in picked))
    assert len(seen) == 4
    assert len(set(seen)) == 1
    assert sorted(set(seen[0])) == list(seen[0])
    assert max(seen[0]) < 70 * 90
    assert max(seen[0]) > 200  # not merely the first ones


def test_what_is_the_same_is_stored_once(tmp_path: Path) -> None:
    """A step begins with what the step before left, and the optimizer consumes the gradient that backward left."""
    parameters = make_parameters((4,), (5,))
    optimizer = momentum_sgd(parameters)
    with Recorder(optimizer, tmp_path, steps=()) as recorder:
        for step in range(1, 6):
            feed(parameters, step)
            recorder.after_backward()
            optimizer.step()
    ((block,),) = (part.blocks for part in parts_of(tmp_path))
    for entry in block.tensors:
        assert (entry.before, entry.backward) == ((0,), ())
        assert entry.slots["momentum_buffer"].before == ()


def test_parts_are_committed_while_training_goes_on(tmp_path: Path) -> None:
    parameters = make_parameters((4,))
    optimizer = momentum_sgd(parameters)
    recorder = Recorder(optimizer, tmp_path)
    take_steps(optimizer, parameters, range(1, 301))
    # The recorder is not closed, as if the run had been killed when its thread had written the second part.
    assert wait_until(lambda: len(parts_of(tmp_path)) == 2, seconds=60)
    assert [part.steps[-1].step for part in parts_of(tmp_path)] == [128, 256]
    report = replay(tmp_path)
    assert (report.verdict, report.steps) == (Verdict.MATCH, 256)
    note, _ = report.notes
    assert "ends at step 256 without being closed" in note
    recorder.close()
    assert [part.steps[-1].step for part in parts_of(tmp_path)] == [128, 256, 300]
    assert replay(tmp_path).notes == ("between steps all of the elements were held, bit for bit",)


def test_large_steps_are_not_hoarded(tmp_path: Path) -> None:
    """A part is also committed because of its size: 300,000 elements with a buffer, before and after, are 6 MB a step."""
    parameters = make_parameters((300_000,))
    optimizer = momentum_sgd(parameters)
    with Recorder(optimizer, tmp_path, steps="all"):
        take_steps(optimizer, parameters, range(1, 14))
        assert len(parts_of(tmp_path)) == 2
    assert sum(len(part.steps) for part in parts_of(tmp_path)) == 13


def test_nothing_recorded_yet_is_vacuous(tmp_path: Path) -> None:
    parameters = make_parameters((4,))
    optimizer = momentum_sgd(parameters)
    recorder = Recorder(optimizer, tmp_path)
    take_steps(optimizer, parameters, (1, 2))
    report = replay(tmp_path)
    assert report.verdict is Verdict.VACUOUS
    assert "no step was committed" in report.reason
    recorder.close()
    assert replay(tmp_path).verdict is Verdict.MATCH


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_existing_trace_is_left_alone(tmp_path: Path) -> None:
    parameters = make_parameters((4,))
    optimizer = momentum_sgd(parameters)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters, (1, 2))
    before = contents(tmp_path)
    with pytest.raises(TraceError, match=r"holds a trace already.*append=True"):
        Recorder(optimizer, tmp_path)
    take_steps(optimizer, parameters, (3,))  # the refused recorder records nothing
    assert contents(tmp_path) == before


@pytest.mark.parametrize("rank", [0, 1])
def test_steps_of_another_rule_are_refused(rank: int, tmp_path: Path) -> None:
    """A replay could read neither: the trace of a run that goes on, or of its ranks, is of one rule."""
    Recorder(SGD(make_parameters((4,)), lr=0.1), tmp_path, world_size=2, rank=0).close()
    before = contents(tmp_path)
    with pytest.raises(TraceError, match=r"holds steps of sgd, and these are of adam, .*: choose another folder"):
        Recorder(Adam(make_parameters((4,))), tmp_path, append=True, world_size=2, rank=rank)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ('{"rule": "sgd"', r"header\.json: not JSON \(.*\)"),
        ("{}", r"header\.json: format is None; a trace says 'twinstep-trace'"),
        ('{"format": "twinstep-trace", "version": 99}', r"header\.json: version is 99; this replayer reads version 1"),
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_trace_whose_header_no_replay_reads_is_not_continued(
    rank: int, header: str, problem: str, tmp_path: Path
) -> None:
    Recorder(SGD(make_parameters((4,)), lr=0.1), tmp_path, world_size=2, rank=0).close()
    (tmp_path / "segment-0001" / "header.json").write_text(header)
    before = contents(tmp_path)
    with pytest.raises(TraceError, match=f"{problem}. No replay could read what is added to it: choose another folder"):
        Recorder(SGD(make_parameters((4,)), lr=0.1), tmp_path, append=True, world_size=2, rank=rank)
    assert contents(tmp_path) == before


def test_append_adds_a_segment(tmp_path: Path) -> None:
    parameters = make_parameters((4,))
    optimizer = momentum_sgd(parameters)
    with Recorder(optimizer, tmp_path, append=True, seed=7):  # this also works if there is no trace yet
        take_steps(optimizer, parameters, range(1, 4))
    before = contents(tmp_path)
    with Recorder(optimizer, tmp_path, append=True, first_step=4, seed=7) as recorder:
        take_steps(optimizer, parameters, range(4, 7))
        assert recorder.step == 6
    after = contents(tmp_path)
    assert before.items() <= after.items()
    segments = open_trace(tmp_path)
    assert [segment.header.first_step for segment in segments] == [1, 4]
    assert [step.step for part in parts_of(tmp_path) for step in part.steps] == [1, 2, 3, 4, 5, 6]
    assert full_steps(tmp_path) == [1, 2, 3]  # the first three of the run, not of each segment
    report = replay(tmp_path)
    assert (report.verdict, report.steps) == (Verdict.MATCH, 6)
    assert any("resumed" in note and "step 4" in note for note in report.notes)


def test_after_close_nothing_is_recorded(tmp_path: Path) -> None:
    parameters = make_parameters((4,))
    optimizer = momentum_sgd(parameters)
    with Recorder(optimizer, tmp_path) as recorder:
        take_steps(optimizer, parameters, (1, 2))
        recorder.close()
        before = contents(tmp_path)
        take_steps(optimizer, parameters, range(3, 200))
        optimizer.load_state_dict(optimizer.state_dict())
        recorder.after_backward()
        recorder.skipped()
    recorder.close()
    assert contents(tmp_path) == before
    assert recorder.step == 2
    (segment,) = open_trace(tmp_path)
    assert segment.end is not None
    assert (segment.end.parts, segment.end.last_step) == (1, 2)


def test_the_block_ends_the_trace_when_training_fails(tmp_path: Path) -> None:
    parameters = make_parameters((4,))
    optimizer = momentum_sgd(parameters)

    def fail_in_the_third() -> None:
        with Recorder(optimizer, tmp_path):
            take_steps(optimizer, parameters, (1, 2))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_third()
    report = replay(tmp_path)
    assert (report.verdict, report.steps) == (Verdict.MATCH, 2)
    assert report.notes == ("between steps all of the elements were held, bit for bit",)


def test_a_step_that_raises_is_no_step(tmp_path: Path) -> None:
    parameters = make_parameters((4,))
    optimizer = momentum_sgd(parameters)

    def broken() -> float:
        raise ZeroDivisionError

    with Recorder(optimizer, tmp_path) as recorder:
        take_steps(optimizer, parameters, (1, 2))
        with pytest.raises(ZeroDivisionError):
            optimizer.step(broken)
        assert recorder.step == 2

        def late_failure(*_: object) -> None:
            raise ZeroDivisionError

        handle = optimizer.register_step_pre_hook(late_failure)  # runs after the recorder's own
        with pytest.raises(ZeroDivisionError):
            optimizer.step()
        handle.remove()
        take_steps(optimizer, parameters, (3, 4))
    report = replay(tmp_path)
    assert (report.verdict, report.steps) == (Verdict.MATCH, 4)


@pytest.mark.parametrize("steps", ["sampled", "all"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("make", [momentum_sgd, Adam])
def test_recording_changes_nothing(
    make: Any, implementation: str, steps: Literal["sampled", "all"], tmp_path: Path
) -> None:
    finals: list[list[torch.Tensor]] = []
    for record in (False, True):
        torch.manual_seed(3)
        model = torch.nn.Sequential(torch.nn.Linear(5, 30), torch.nn.Dropout(), torch.nn.Linear(30, 2))
        optimizer: Optimizer = make(model.parameters(), **IMPLEMENTATIONS[implementation])
        recorder = Recorder(optimizer, tmp_path, steps=steps, coordinates=7) if record else None
        for _ in range(10):
            optimizer.zero_grad()
            model(torch.randn(4, 5)).square().mean().backward()
            optimizer.step()
        if recorder is not None:
            recorder.close()
        state = [value for slots in optimizer.state.values() for value in slots.values()]
        finals.append([*(parameter.detach() for parameter in model.parameters()), *state, torch.rand(3)])
    assert len(finals[0]) > 8
    for without, recorded in zip(*finals, strict=True):
        assert without.dtype == recorded.dtype
        assert torch.equal(without, recorded)


@pytest.mark.parametrize("kind", ["under a file", "a file"])
def test_a_folder_that_cannot_be_written(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    trace = tmp_path / "file" / "trace" if kind == "under a file" else tmp_path / "file"
    parameters = make_parameters((4,))
    optimizer = momentum_sgd(parameters)
    with pytest.raises(TraceError, match=r"file.* cannot be written \("):
        Recorder(optimizer, trace)
    take_steps(optimizer, parameters, (1,))  # training may go on without a record
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_gradient_norm_is_exact(dtype: torch.dtype, tmp_path: Path) -> None:
    """The norm is of all elements, not only of the sampled ones, although a half format could not hold its square."""
    parameters = make_parameters((50,), (9, 9), (3,), dtype=dtype)
    optimizer = momentum_sgd(parameters)
    expected: list[float] = []
    with Recorder(optimizer, tmp_path, coordinates=4) as recorder:
        for step in range(1, 6):
            feed(parameters[:2], step, size=300.0)
            squares = [float(g) ** 2 for p in parameters if p.grad is not None for g in p.grad.flatten()]
            expected.append(math.sqrt(math.fsum(squares)))
            recorder.after_backward()
            optimizer.step()
    recorded = [step.grad_norm for part in parts_of(tmp_path) for step in part.steps]
    assert recorded == pytest.approx(expected, rel=1e-14)


def test_header(tmp_path: Path) -> None:
    optimizer = Adam(make_parameters((4,)), fused=True)
    Recorder(optimizer, tmp_path, seed=11, world_size=4, rank=2, coordinates=9).close()
    header = open_trace(tmp_path / "rank-0002")[0].header
    assert (header.rule, header.optimizer) == ("adam", "torch.optim.adam.Adam")
    assert (header.seed, header.world_size, header.rank, header.coordinates) == (11, 4, 2, 9)
    assert header.versions["torch"] == torch.__version__


def test_a_segment_that_is_not_of_the_run_is_told(tmp_path: Path) -> None:
    """A replay reads segments without gaps, so a recorder does not begin one after a gap."""
    optimizer = SGD(make_parameters((4,)), lr=0.1)
    Recorder(optimizer, tmp_path).close()
    (tmp_path / "segment-9999").mkdir()
    with pytest.raises(TraceError, match="holds segment-9999, but 2 segments in all"):
        Recorder(optimizer, tmp_path, append=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_memory_of_the_training_can_still_be_resized(dtype: torch.dtype, tmp_path: Path) -> None:
    """Trainers that free parameters for a while resize it; the digests are taken where the elements are."""
    parameters = make_parameters((300, 300), dtype=dtype)
    optimizer = Adam(parameters, lr=0.1)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters, range(1, 4))
        gradient = parameters[0].grad
        assert gradient is not None
        for tensor in (parameters[0].data, optimizer.state[parameters[0]]["exp_avg"], gradient):
            storage, kept = tensor.untyped_storage(), tensor.clone()
            storage.resize_(0)
            storage.resize_(kept.nbytes)
            tensor.copy_(kept)
        take_steps(optimizer, parameters, range(4, 6))
    report = replay(tmp_path)
    assert (report.verdict, report.steps) == (Verdict.MATCH, 5)
    assert any("were held, bit for bit" in note for note in report.notes), str(report)
