"""Every way in which a loss scale can be wrong is planted in the record of a real torch.amp.GradScaler."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscheck import Claims, Finding, Recorder, Report, replay
from crosscheck.checks.loss_scale.scaler_rule import ScaleUsed, check_loss_scale, left_by
from crosscheck.trace.format import Scaler

Skips = Sequence[int]
Update = Callable[[torch.amp.GradScaler, int, bool], None]
"""A function that updates the scale after an attempt, given the scaler, the step, and whether it was applied."""

CLAIMED = Scaler(scale=1024.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=4)


def rightly(scaler: torch.amp.GradScaler, step: int, applied: bool) -> None:
    del step, applied
    scaler.update()


def train(update: Update = rightly, *, skip: Skips = (), steps: int = 12, claimed: Scaler = CLAIMED) -> list[ScaleUsed]:
    """Run a loop with a real scaler, whose gradients overflow at the steps in `skip`. Return the scales that it used."""
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = torch.amp.GradScaler(
        "cpu", claimed.scale, claimed.growth_factor, claimed.backoff_factor, claimed.growth_interval
    )
    record: list[ScaleUsed] = []
    for step in range(1, steps + 1):
        scaler.scale(weight.sum()).backward()  # pyright: ignore[reportUnknownMemberType]
        if step in skip:
            assert weight.grad is not None
            weight.grad.fill_(math.inf)
        before, scale = weight.detach().clone(), scaler.get_scale()
        scaler.step(optimizer)
        applied = not torch.equal(before, weight)
        assert applied == (step not in skip)
        record.append(ScaleUsed(step, applied, scale))
        update(scaler, step, applied)
        optimizer.zero_grad()
    return record


def only_finding(record: Sequence[ScaleUsed], claimed: Scaler = CLAIMED) -> Finding:
    findings = check_loss_scale(claimed, record)
    assert len(findings) == 1, findings
    return findings[0]


def set_to(factor: float, *, at: int) -> Update:
    """Return an update that multiplies the scale by hand after the step `at`."""

    def update(scaler: torch.amp.GradScaler, step: int, applied: bool) -> None:
        del applied
        scaler.update(scaler.get_scale() * factor if step == at else None)

    return update


def tracker_kept(scaler: torch.amp.GradScaler, step: int, applied: bool) -> None:
    """Update the scale, but do not reset the growth tracker after a skipped step."""
    del step
    tracker = scaler.state_dict()["_growth_tracker"]
    scaler.update()
    if not applied:
        scaler._growth_tracker.fill_(tracker)  # pyright: ignore


@pytest.mark.parametrize("skip", [(), (1,), (1, 2, 3), (4,), (5,), (2, 7, 8), (12,), tuple(range(1, 13))], ids=str)
def test_a_real_scaler_is_right(skip: Skips) -> None:
    assert check_loss_scale(CLAIMED, train(skip=skip)) == []


@pytest.mark.parametrize("start", [3e38, 1e-45, 0.1, 65536.1], ids=str)
@pytest.mark.parametrize(("growth", "backoff"), [(2.0, 0.5), (1.1, 0.9), (1e30, 1e-30)])
def test_a_real_scaler_is_right_where_float32_rounds_and_ends(start: float, growth: float, backoff: float) -> None:
    claimed = Scaler(scale=start, growth_factor=growth, backoff_factor=backoff, growth_interval=2)
    used = kernel(claimed, [True] * 9 + [False, False, True] * 4)
    assert check_loss_scale(claimed, used) == []


def kernel(claimed: Scaler, applied: Sequence[bool]) -> list[ScaleUsed]:
    """Return the scales that torch's own kernel gives for a pattern of applied and skipped steps."""
    scale = torch.full((), claimed.scale, dtype=torch.float32)
    tracker = torch.full((), claimed.growth_tracker, dtype=torch.int32)
    record: list[ScaleUsed] = []
    for step, was_applied in enumerate(applied, 1):
        record.append(ScaleUsed(step, was_applied, scale.item()))
        torch._amp_update_scale_(  # pyright: ignore
            scale,
            tracker,
            torch.full((), float(not was_applied)),
            claimed.growth_factor,
            claimed.backoff_factor,
            claimed.growth_interval,
        )
    return record


scalers = st.builds(
    Scaler,
    scale=st.floats(0, 3.4e38) | st.sampled_from([math.inf, math.nan, 65536.0, 1.0]),
    growth_factor=st.floats(1.0001, 1e10),
    backoff_factor=st.floats(1e-10, 0.9999),
    growth_interval=st.integers(1, 5),
    growth_tracker=st.integers(0, 7),  # beyond growth_interval it never reaches it again
)


@settings(max_examples=200, deadline=None)
@given(claimed=scalers, applied=st.lists(st.booleans(), max_size=30))
def test_whatever_torchs_kernel_does_is_right(claimed: Scaler, applied: list[bool]) -> None:
    assert check_loss_scale(claimed, kernel(claimed, applied)) == []


several = st.lists(st.lists(st.booleans(), max_size=4).map(tuple), min_size=1, max_size=12)


def shared(claimed: Scaler, updates: Sequence[tuple[bool, ...]]) -> list[ScaleUsed]:
    """Return the scales that torch's own kernel gives to steps before each of which there were those updates."""
    scales = kernel(claimed, [not overflowed for between in updates for overflowed in between] + [True])
    position, used = 0, list[ScaleUsed]()
    for step, between in enumerate(updates, 1):
        position += len(between)
        used.append(ScaleUsed(step, True, scales[position].loss_scale, between))
    return used


@settings(max_examples=200, deadline=None)
@given(claimed=scalers, updates=several)
def test_any_number_of_updates_between_two_steps_is_right(claimed: Scaler, updates: list[tuple[bool, ...]]) -> None:
    assert check_loss_scale(claimed, shared(claimed, updates)) == []


@settings(max_examples=100, deadline=None)
@given(updates=several, at=st.integers(0, 11), factor=st.sampled_from([0.5, 3.0]))
def test_what_several_updates_do_not_do_is_found(updates: list[tuple[bool, ...]], at: int, factor: float) -> None:
    at = min(at, len(updates) - 1)
    record = shared(CLAIMED, updates)
    changed = [used._replace(loss_scale=used.loss_scale * (factor if used.step > at else 1.0)) for used in record]
    found = only_finding(changed)
    assert (found.step, found.recorded, found.expected) == (at + 1, changed[at].loss_scale, record[at].loss_scale)


@settings(max_examples=200, deadline=None)
@given(
    claimed=scalers, applied=st.lists(st.booleans(), min_size=1, max_size=30), more=st.lists(st.booleans(), max_size=9)
)
def test_what_a_scaler_is_left_at_goes_on_as_the_scaler_does(
    claimed: Scaler, applied: list[bool], more: list[bool]
) -> None:
    whole = kernel(claimed, applied + more)
    left = left_by(claimed, whole[: len(applied)])
    assert left is not None
    assert check_loss_scale(left, whole[len(applied) :]) == []


@settings(max_examples=200, deadline=None)
@given(
    applied=st.lists(st.booleans(), min_size=1, max_size=30), at=st.integers(0, 29), factor=st.sampled_from([0.5, 3.0])
)
def test_whatever_else_happens_is_found_where_it_happens(applied: list[bool], at: int, factor: float) -> None:
    at = min(at, len(applied) - 1)
    record = kernel(CLAIMED, applied)
    changed = [used._replace(loss_scale=used.loss_scale * (factor if used.step > at else 1.0)) for used in record]
    findings = check_loss_scale(CLAIMED, changed)
    assert findings
    assert findings[0].step == at + 1
    assert findings[0].recorded == changed[at].loss_scale
    assert findings[0].expected == record[at].loss_scale


def test_no_backoff_after_a_skip() -> None:
    found = only_finding(train(set_to(1.0, at=6), skip=[6], steps=8))
    assert (found.step, found.last_step, found.steps) == (7, 7, 1)
    assert (found.recorded, found.expected, found.eta) == (2048.0, 1024.0, 2.0**53)
    assert (found.tensor, found.slot) == ("loss scaler", "loss_scale")
    assert found.cause == "the loss scale did not back off after step 6, which was skipped"


def test_the_same_fault_many_times_is_one_finding() -> None:
    def never_back_off(scaler: torch.amp.GradScaler, step: int, applied: bool) -> None:
        del step
        scale = scaler.get_scale()
        scaler.update()
        if not applied:
            scaler._scale.fill_(scale)  # pyright: ignore

    found = only_finding(train(never_back_off, skip=[2, 3, 5, 7], steps=9))
    assert (found.step, found.last_step, found.steps, found.elements) == (3, 8, 4, 4)
    assert found.cause == "the loss scale did not back off after step 2, which was skipped"


def test_backoff_without_a_skip() -> None:
    found = only_finding(train(set_to(0.5, at=2), steps=4))
    assert (found.step, found.recorded, found.expected) == (3, 512.0, 1024.0)
    assert found.cause == "the loss scale backed off after step 2, which was applied"


def test_growth_too_early() -> None:
    record = train(claimed=Scaler(scale=1024.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=3), skip=[2])
    found = only_finding(record)  # the first growth alone could also come from a tracker that was not reset
    assert (found.step, found.last_step, found.steps) == (6, 12, 3)  # it grew after steps 3 to 5, 6 to 8 and 9 to 11
    assert found.cause == "the loss scale grew too early, after 3 applied steps in a row; growth_interval is 4"


def test_growth_too_late() -> None:
    record = train(claimed=Scaler(scale=1024.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=6), steps=14)
    found = only_finding(record)
    assert (found.step, found.last_step, found.steps) == (5, 12, 4)  # steps 5 and 6, 11 and 12 are wrong
    assert (found.recorded, found.expected) == (1024.0, 2048.0)
    assert found.cause == "the loss scale grew too late, after 6 applied steps in a row; growth_interval is 4"


@pytest.mark.parametrize("skip", [(), (8,)])
def test_no_growth(skip: Skips) -> None:
    record = train(claimed=Scaler(scale=1024.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=99), skip=skip)
    found = only_finding(record)
    assert (found.step, found.last_step, found.steps) == (5, 8 if skip else 12, 4 if skip else 8)
    assert found.cause == "the loss scale did not grow after 4 applied steps in a row, which is growth_interval"


def test_growth_missed_and_then_backed_off_without_a_skip_is_two_findings() -> None:
    def update(scaler: torch.amp.GradScaler, step: int, applied: bool) -> None:
        del applied
        scaler.update({4: 1024.0, 6: 512.0}.get(step, 1024.0 if step < 6 else None))

    causes = [(found.step, found.cause) for found in check_loss_scale(CLAIMED, train(update, steps=7))]
    assert causes == [
        (5, "the loss scale did not grow after 4 applied steps in a row, which is growth_interval"),
        (7, "the loss scale backed off after step 6, which was applied"),
    ]


def test_growth_tracker_not_set_back_by_a_skip() -> None:
    found = only_finding(train(tracker_kept, skip=[3], steps=8))
    assert (found.step, found.recorded, found.expected) == (6, 1024.0, 512.0)
    assert found.cause == (
        "the growth tracker is not set back by a skipped step: the loss scale grew too early, after 2 applied steps in a row; "
        "growth_interval is 4"
    )


def test_growth_tracker_that_grows_late_because_of_a_skip_is_told_from_one_that_is_not_set_back() -> None:
    record = train(skip=[3], steps=8)
    assert [used.loss_scale for used in record[3:]] == [512.0, 512.0, 512.0, 512.0, 1024.0]
    assert check_loss_scale(CLAIMED, record) == []


@pytest.mark.parametrize(
    ("update", "skip", "step", "cause"),
    [
        (
            set_to(4.0, at=4),
            [],
            5,
            "from 1024 to 4096 after step 4, which was applied: torch.amp.GradScaler makes 2048",
        ),
        (
            set_to(0.25, at=4),
            [],
            5,
            "from 1024 to 256 after step 4, which was applied: torch.amp.GradScaler makes 2048",
        ),
        (
            set_to(0.25, at=2),
            [2],
            3,
            "from 1024 to 256 after step 2, which was skipped: torch.amp.GradScaler makes 512",
        ),
        (
            set_to(2.0, at=2),
            [2],
            3,
            "from 1024 to 2048 after step 2, which was skipped: torch.amp.GradScaler makes 512",
        ),
        (
            set_to(1.5, at=2),
            [],
            3,
            "from 1024 to 1536 after step 2, which was applied: torch.amp.GradScaler makes 1024",
        ),
    ],
)
def test_any_other_change(update: Update, skip: Skips, step: int, cause: str) -> None:
    found = only_finding(train(update, skip=skip, steps=step))
    assert found.step == step
    assert found.cause == f"the loss scale went {cause} of it"


@pytest.mark.parametrize("wild", [math.inf, -math.inf, math.nan, 0.0, -1024.0, 1e300])
@pytest.mark.parametrize("skip", [(), (2,)])
def test_wild_scales_are_found_where_they_appear(wild: float, skip: Skips) -> None:
    record = train(skip=skip, steps=3)
    found = only_finding([*record[:2], record[2]._replace(loss_scale=wild)])
    assert found.step == 3
    assert found.eta > 1e10
    assert "torch.amp.GradScaler makes" in found.cause


def test_a_run_that_does_not_start_at_the_scale_it_says() -> None:
    record = train(steps=4)
    found = only_finding(record, Scaler(scale=65536.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=4))
    assert (found.step, found.recorded, found.expected) == (1, 1024.0, 65536.0)
    assert found.cause == "the first loss scale is not the scaler's"


def test_a_resumed_run_needs_the_tracker() -> None:
    rest = train(skip=[2], steps=9)[4:]  # steps 3 and 4 were applied
    tracker = Scaler(scale=512.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=4, growth_tracker=2)
    assert check_loss_scale(tracker, rest) == []
    lost = only_finding(rest, Scaler(scale=512.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=4))
    assert (lost.step, lost.cause) == (
        7,
        "the loss scale grew too early, after 2 applied steps in a row; growth_interval is 4",
    )


def test_no_attempts_no_findings() -> None:
    assert check_loss_scale(CLAIMED, []) == []


Restored = Callable[[torch.amp.GradScaler, torch.amp.GradScaler], object]
"""Takes over the state of an earlier run's scaler, which comes second."""


def lost(scaler: torch.amp.GradScaler, earlier: torch.amp.GradScaler) -> None:
    del scaler, earlier


def loaded(scaler: torch.amp.GradScaler, earlier: torch.amp.GradScaler) -> None:
    scaler.load_state_dict(earlier.state_dict())


def without_tracker(scaler: torch.amp.GradScaler, earlier: torch.amp.GradScaler) -> None:
    scaler.load_state_dict(earlier.state_dict() | {"_growth_tracker": 0})


def resumed(trace: Path, restore: Restored, *, skip: Skips = (), updates: int = 1, **claims: Any) -> Report:
    """Record a run that goes on after step 10 with a scaler of its own, which counts other gradients in further updates."""
    weight, other = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([("weight", weight)], lr=0.1)
    earlier: torch.amp.GradScaler | None = None
    for first, last in ((1, 10), (11, 20)):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=4)
        if earlier is not None:
            restore(scaler, earlier)
        claimed = Claims(**claims) if earlier is not None and claims else None
        with Recorder(optimizer, trace, scaler=scaler, append=first > 1, first_step=first, claims=claimed):
            for step in range(first, last + 1):
                optimizer.zero_grad()
                slope = math.inf if step in skip else 1.0
                scaler.scale((weight * slope).sum()).backward()  # pyright: ignore[reportUnknownMemberType]
                scaler.step(optimizer)
                scaler.update()
                for _ in range(updates - 1):
                    other.grad = torch.ones(1)
                    scaler.step(torch.optim.SGD([other], lr=0.1))
                    scaler.update()
        earlier = scaler
    return replay(trace)


@pytest.mark.parametrize("skip", [(), (10,), (8,)], ids=str)
def test_a_scaler_that_was_restored_is_right(skip: Skips, tmp_path: Path) -> None:
    assert resumed(tmp_path, loaded, skip=skip).checks["loss scale"] == "match"


@pytest.mark.parametrize(
    ("restore", "skip", "slot", "recorded", "expected", "cause"),
    [
        (lost, (), "loss_scale", 1024.0, 4096.0, "the loss scale was not restored: step 10 left 4096, and the resumed run"),
        (lost, (10,), "loss_scale", 1024.0, 2048.0, "the loss scale was not restored: step 10 left 2048"),
        (without_tracker, (), "growth_tracker", 0.0, 2.0, "the growth tracker of the loss scale was not restored: step 10"),
    ],
)  # fmt: skip
def test_a_scaler_that_was_not_restored(
    restore: Restored, skip: Skips, slot: str, recorded: float, expected: float, cause: str, tmp_path: Path
) -> None:
    [found] = [found for found in resumed(tmp_path, restore, skip=skip).findings if found.check == "loss scale"]
    assert (found.step, found.slot, found.recorded, found.expected) == (11, slot, recorded, expected)
    assert found.cause.startswith(cause)


@pytest.mark.parametrize("restore", [loaded, lost])
def test_how_often_a_shared_scaler_was_updated_after_the_last_step_is_not_known(
    restore: Restored, tmp_path: Path
) -> None:
    report = resumed(tmp_path, restore, updates=2)
    assert report.checks["loss scale"] == "match", str(report)
    assert any("how often it was after step 10 is not on record" in note for note in report.notes)


def test_a_scale_that_is_changed_on_purpose_can_be_claimed(tmp_path: Path) -> None:
    report = resumed(tmp_path, lost, between=("loss_scale",))
    assert (str(report.verdict), report.checks["loss scale"]) == ("match", "match")
    assert any(note.startswith("loss_scale was changed before step 11, otherwise than") for note in report.notes)


def set_back(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Have the scaler forget what it found of the gradients."""
    for found in scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values():  # pyright: ignore
        found.zero_()


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("when", ["before", "after", "never"])
def test_a_step_that_overflowed_and_was_applied(when: str, given: bool, tmp_path: Path) -> None:
    """The gradient is mended before the scaler looks at it, or after that; it is only skipped if it is not mended."""
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Recorder(optimizer, tmp_path, scaler=scaler if given else None) as recorder:
        for step in range(1, 7):
            optimizer.zero_grad()
            scaler.scale((weight * (math.inf if step == 4 else 1.0)).sum()).backward()  # pyright: ignore[reportUnknownMemberType]
            recorder.after_backward()
            assert weight.grad is not None
            if step == 4 and when == "before":
                weight.grad.nan_to_num_(0, 0, 0)
            scaler.unscale_(optimizer)
            if step == 4 and when == "after":
                weight.grad.nan_to_num_(0, 0, 0)
                set_back(optimizer, scaler)
            scaler.step(optimizer)
            scaler.update()
    report = replay(tmp_path)
    found = [(found.check, found.step, found.slot) for found in report.findings]
    assert found == ([("loss scale", 4, "found_inf")] if given and when != "never" else []), str(report)
    warned = any(
        "not finite at the end of backward in step 4, and the optimizer was" in told for told in report.warnings
    )
    assert warned == (not given and when != "never"), str(report)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e38), (torch.float64, 1e200)], ids=str)
def test_a_norm_that_is_not_finite_while_every_gradient_is(dtype: torch.dtype, size: float, tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.zeros(9, dtype=dtype))
    optimizer = torch.optim.SGD([weight], lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    with Recorder(optimizer, tmp_path, scaler=scaler) as recorder:
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale((weight * size).sum()).backward()  # pyright: ignore[reportUnknownMemberType]
            recorder.after_backward()
            scaler.step(optimizer)
            scaler.update()
    report = replay(tmp_path)
    assert (report.skipped, [found for found in report.findings if found.check == "loss scale"]) == (0, [])
