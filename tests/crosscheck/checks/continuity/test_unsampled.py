"""Elements that are not sampled at every step are held all the same, by digests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW

from crosscheck import Claims, Finding, Recorder, Report, Verdict, replay
from tests.crosscheck.recording import make_parameters, overflowing_steps, take_steps

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
Change = Callable[[torch.Tensor], object]


def only_finding(report: Report) -> Finding:
    (finding,) = report.findings
    assert report.checks["continuity"] == report.verdict == Verdict.MISMATCH
    assert report.checks["optimizer"] == "match"
    return finding


def share(report: Report) -> str:
    (note,) = [note for note in report.notes if note.startswith("between steps")]
    return note.removeprefix("between steps ").removesuffix(" of the elements were held, bit for bit")


def tampered(
    change: Change,
    trace: Path,
    *,
    slot: str = "param",
    after: int = 4,
    dtype: torch.dtype = torch.float32,
    make: Any = Adam,
    shapes: tuple[tuple[int, ...], ...] = ((40, 30), (50, 20)),
    steps: tuple[int, ...] = (),
    **recording: Any,
) -> Report:
    """Record six steps with one element of two tensors sampled, change one tensor once, and return the report.

    All elements are recorded at `steps`.
    """
    parameters = make_parameters(*shapes, dtype=dtype)
    optimizer = make([("first", parameters[0]), ("second", parameters[1])], lr=0.01)
    with Recorder(optimizer, trace, coordinates=1, steps=steps, **recording) as recorder:
        for step in range(1, 7):
            take_steps(optimizer, parameters, [step])
            if step == 2:
                recorder.flush()
            if step == after:
                values = parameters[1].detach() if slot == "param" else optimizer.state[parameters[1]][slot]
                change(values)
    return replay(trace)


def lowest_bit(values: torch.Tensor) -> None:
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}
    values.view(integers[values.element_size()])[20, 11] ^= 1


def swap(values: torch.Tensor) -> None:
    values[[3, 7]] = values[[7, 3]]


def two_signs(values: torch.Tensor) -> None:
    values[30, 10:12].neg_()


def all_signs(values: torch.Tensor) -> None:
    values[27:43].neg_()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("change", [lowest_bit, swap, two_signs, all_signs])
def test_a_change_that_no_row_shows(change: Change, dtype: torch.dtype, tmp_path: Path) -> None:
    report = tampered(change, tmp_path, dtype=dtype, make=SGD)
    finding = only_finding(report)
    assert (finding.step, finding.tensor, finding.slot, finding.index) == (5, "second", "param", None)
    assert "was changed between steps 4 and 5" in finding.cause
    assert "not sampled" in finding.cause
    assert share(report) == "all"


@pytest.mark.parametrize("after", [2, 4])  # between two parts, and within a part
@pytest.mark.parametrize("slot", ["exp_avg", "exp_avg_sq", "param"])
def test_every_slot_is_held(slot: str, after: int, tmp_path: Path) -> None:
    finding = only_finding(tampered(lowest_bit, tmp_path, slot=slot, after=after))
    assert (finding.step, finding.slot) == (after + 1, slot)


def test_between_two_starts(tmp_path: Path) -> None:
    (weight,) = make_parameters((40, 30))
    optimizer = SGD([("weight", weight)], lr=0.1, momentum=0.9)
    for first_step in (1, 4):
        with Recorder(optimizer, tmp_path, coordinates=1, steps=(), append=True, first_step=first_step):
            take_steps(optimizer, [weight], range(first_step, first_step + 3))
        lowest_bit(weight.detach())
    finding = only_finding(replay(tmp_path))
    assert (finding.step, finding.tensor, finding.slot) == (4, "weight", "param")


def test_what_rows_show_is_told_once(tmp_path: Path) -> None:
    finding = only_finding(tampered(lambda values: values.add_(1.0), tmp_path / "sampled"))
    assert finding.index is not None
    finding = only_finding(tampered(lowest_bit, tmp_path / "in full", steps=(4, 5)))
    assert finding.index == (20, 11)


def test_a_claim_and_a_loaded_state_allow_it(tmp_path: Path) -> None:
    assert tampered(lowest_bit, tmp_path / "claimed", claims=Claims(between=("param",))).verdict is Verdict.MATCH
    (weight,) = make_parameters((40, 30))
    optimizer = AdamW([weight], lr=0.01)
    with Recorder(optimizer, tmp_path / "loaded", coordinates=1, steps=()):
        take_steps(optimizer, [weight], (1, 2))
        state = optimizer.state_dict()
        lowest_bit(state["state"][0]["exp_avg"])
        optimizer.load_state_dict(state)
        take_steps(optimizer, [weight], (3, 4))
    report = replay(tmp_path / "loaded")
    assert report.verdict is Verdict.MATCH
    assert "state was loaded before step 3: it is not what the step before had left (exp_avg)" in report.notes


@pytest.mark.parametrize("moved", [False, True])
def test_where_nothing_may_move(moved: bool, tmp_path: Path) -> None:
    """Nothing may move at a step that is skipped, or in a tensor without a gradient."""
    weight, idle = make_parameters((40, 30), (60, 20))

    class Careless(SGD):
        def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().step(closure)
            if moved:
                lowest_bit(idle.detach())

    optimizer = Careless([("weight", weight), ("idle", idle)], lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Recorder(optimizer, tmp_path, scaler=scaler, coordinates=1, steps=()) as recorder:
        overflowing_steps(optimizer, weight, recorder, scaler, steps=4, skip=[3])
    report = replay(tmp_path)
    causes = {finding.cause.partition(",")[0] for finding in report.findings}
    assert causes == (
        {"param changed although it had no gradient", "param changed on a skipped step"} if moved else set()
    )


def test_large_models_are_held_in_blocks_that_move_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each tensor 1,024 elements are held at a time, and the next ones in the next part of the trace."""
    monkeypatch.setattr("crosscheck.recorder.samples.sampler.TURN_STEPS", 2)

    def found(rows: slice, *, after: int) -> list[int]:
        def nudge(values: torch.Tensor) -> None:
            values[rows] += 1e-3

        trace = tmp_path / f"{rows.start}-{after}"
        report = tampered(nudge, trace, after=after, shapes=((400, 300), (500, 200)), budget=1024)
        return [finding.step for finding in report.findings if finding.check == "continuity"]

    first, second = slice(0, 5), slice(6, 10)
    assert found(first, after=1) == [2]
    assert found(first, after=3) == []
    assert found(second, after=3) == [4]
    assert found(second, after=1) == []
    report = replay(tmp_path / "0-1")
    assert 0 < float(share(report).removesuffix(" %")) < 1  # three of five boundaries, 1,024 elements of two tensors


def test_layouts_and_sizes_that_are_unusual(tmp_path: Path) -> None:
    parameters = [
        Parameter(torch.randn(8, 3, 5, 5).to(memory_format=torch.channels_last)),
        Parameter(torch.randn(20, 30).t()),
        Parameter(torch.randn(7, 3).bfloat16()),
        Parameter(torch.zeros(0, 3)),
        Parameter(torch.tensor(0.5)),
    ]
    optimizer = Adam(parameters, lr=0.1)
    with Recorder(optimizer, tmp_path, coordinates=2):
        take_steps(optimizer, parameters, range(1, 6))
    report = replay(tmp_path)
    assert not [finding for finding in report.findings if finding.check == "continuity"], str(report)
    assert share(report) == "all"
