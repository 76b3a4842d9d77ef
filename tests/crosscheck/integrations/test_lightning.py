"""A fit of Lightning is recorded by a callback: automatic and manual optimization, clipping, accumulation, resuming."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from crosscheck import Claims, Report, TraceError, Verdict, replay
from crosscheck.trace.reader import open_trace
from tests.crosscheck.recording import applied

pytestmark = [
    pytest.mark.skipif(
        find_spec("lightning") is None, reason="Lightning is not installed: pip install 'lightning>=2.6'"
    ),
    pytest.mark.filterwarnings("ignore"),  # of Lightning: workers, loggers, and how torch loads
    pytest.mark.xdist_group("integrations"),  # one worker imports these libraries
]


@pytest.fixture(scope="module")
def loops() -> Any:
    return import_module("tests.crosscheck.integrations.lightning_loops")


CLIPPED: dict[str, Any] = {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2}


def matches(trace: Path, *checks: str, steps: int) -> Report:
    report = replay(trace)
    assert report.verdict is Verdict.MATCH, str(report)
    assert not report.claims_not_tested
    assert {name: report.checks[name] for name in checks} == dict.fromkeys(checks, "match")
    assert report.steps == steps
    return report


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_automatic_optimization_and_a_run_that_is_resumed(loops: Any, interval: str, tmp_path: Path) -> None:
    """Seven batches an epoch are four steps: Lightning steps on the last batch as well."""
    trace = tmp_path / "trace"
    trainer = loops.fit(loops.Automatic({"interval": interval}), tmp_path, loops.RecorderCallback(trace), **CLIPPED)
    matches(trace, "clipping", "learning rate", steps=12)
    trainer.save_checkpoint(tmp_path / "state.ckpt")
    again = loops.Automatic({"interval": interval})
    loops.fit(again, tmp_path, loops.RecorderCallback(trace), epochs=5, load=tmp_path / "state.ckpt", **CLIPPED)
    matches(trace, "clipping", "learning rate", steps=20)
    assert [segment.header.first_step for segment in open_trace(trace)] == [1, 13]


@pytest.mark.parametrize(
    ("how", "given", "claimed"),
    [
        ({"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"}, {}, (None, 0.05)),
        ({}, {}, (None, None)),
        (CLIPPED, {"clip_norm": 0.7}, (0.7, None)),
        (CLIPPED, {"claims": Claims(clip_norm=0.7)}, (0.7, None)),
    ],
    ids=["by value", "not at all", "an argument counts more", "a claim counts more"],
)
def test_which_bound_is_claimed(loops: Any, how: Any, given: Any, claimed: Any, tmp_path: Path) -> None:
    callback = loops.RecorderCallback(tmp_path / "trace", **given)
    loops.fit(loops.Automatic({"interval": "step"}), tmp_path, callback, epochs=1, **how)
    (segment,) = open_trace(tmp_path / "trace")
    assert segment.header.claims is not None
    assert (segment.header.claims.clip_norm, segment.header.claims.clip_value) == claimed
    assert all(step.backward_norm is not None for part in segment.parts() for step in part.meta.steps)


@pytest.mark.parametrize("decay", [0.01, 0.02])
def test_options_that_are_claimed_are_checked(loops: Any, decay: float, tmp_path: Path) -> None:
    claims = Claims(options={"inner.weight": {"weight_decay": decay}})
    callback = loops.RecorderCallback(tmp_path / "trace", claims=claims)
    loops.fit(loops.Automatic({"interval": "step"}), tmp_path, callback, epochs=1, **CLIPPED)
    if decay == 0.01:  # torch's default
        matches(tmp_path / "trace", "clipping", "learning rate", "options", steps=4)
    else:
        (finding,) = replay(tmp_path / "trace").findings
        assert (finding.check, finding.slot, finding.recorded) == ("options", "weight_decay", 0.01)


def test_a_module_that_clips_in_its_own_way_is_not_accused(loops: Any, tmp_path: Path) -> None:
    loops.fit(
        loops.OwnClipping({"interval": "step"}),
        tmp_path,
        loops.RecorderCallback(tmp_path / "trace"),
        epochs=1,
        **CLIPPED,
    )
    assert matches(tmp_path / "trace", "learning rate", steps=4).checks["clipping"] == "not recorded"


def test_a_module_that_changes_gradients_before_the_step_is_not_accused(loops: Any, tmp_path: Path) -> None:
    callback = loops.RecorderCallback(tmp_path / "trace")
    loops.fit(loops.ChangesGradients({"interval": "step"}), tmp_path, callback, epochs=1)
    report = matches(tmp_path / "trace", "learning rate", steps=7)
    assert report.checks["clipping"] == "not tested"


@pytest.mark.parametrize(
    ("module", "callback", "why"),
    [
        ("Automatic", ("GradientAccumulationScheduler", {"scheduling": {0: 1, 1: 2}}), "how many updates an epoch has"),
        ("Automatic", ("StochasticWeightAveraging", {"swa_lrs": 0.005}), "replaces the scheduler"),
        ("EndsEpochs", None, "EndsEpochs.on_train_batch_start may change how many updates an epoch has"),
        ("OwnOptimizerStep", None, "OwnOptimizerStep steps the optimizer in a way of its own"),
        ("TwoSchedulers", None, "2 schedulers step this optimizer"),
        ("OwnSchedulerStep", None, "OwnSchedulerStep steps the scheduler in a way of its own"),
    ],
)
def test_a_schedule_that_lightning_does_not_step_regularly_is_left_out(
    loops: Any, module: str, callback: Any, why: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    others = [getattr(loops.pl.callbacks, callback[0])(**callback[1])] if callback else []
    with pytest.warns(UserWarning, match=f"the learning rate is not checked: .*{why}"):
        loops.fit(getattr(loops, module)({"interval": "epoch"}), tmp_path, loops.RecorderCallback(trace), *others)
    (segment,) = open_trace(trace)
    assert segment.header.claims is None or segment.header.claims.schedule is None
    assert replay(trace).verdict is Verdict.MATCH


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_epochs_whose_data_are_loaded_anew_may_have_other_lengths(loops: Any, interval: str, tmp_path: Path) -> None:
    """Only a scheduler that is stepped by epochs is left out then."""
    callback = loops.RecorderCallback(tmp_path / "trace")
    module = loops.Growing({"interval": interval})
    trainer = loops.fit(module, tmp_path, callback, own_data=True, reload_dataloaders_every_n_epochs=1)
    assert trainer.global_step == 2 + 4 + 6
    if interval == "step":
        matches(tmp_path / "trace", "learning rate", steps=12)
    else:
        assert matches(tmp_path / "trace", steps=12).checks["learning rate"] == "not recorded"


@pytest.mark.parametrize(("fused", "how"), [(False, {}), (False, CLIPPED), (True, {})])
def test_half_precision_with_a_run_that_is_resumed(loops: Any, fused: bool, how: Any, tmp_path: Path) -> None:
    """Skipped steps are noticed, whether the optimizer is called or not; Lightning clips no fused ones under a scaler."""
    trace, skipped = tmp_path / "trace", 2 * 3
    steps = 12 if how else 21
    module = loops.Overflowing(fused=fused, scheduled=False)
    trainer = loops.fit(module, tmp_path, loops.RecorderCallback(trace), plugins=[loops.half_precision()], **how)
    report = matches(trace, "clipping", "loss scale", steps=steps)
    assert report.skipped == skipped
    trainer.save_checkpoint(tmp_path / "state.ckpt")
    again = loops.Overflowing(fused=fused, scheduled=False)
    callback, plugins = loops.RecorderCallback(trace), [loops.half_precision()]
    loops.fit(again, tmp_path, callback, epochs=4, load=tmp_path / "state.ckpt", plugins=plugins, **how)
    report = matches(trace, "clipping", "loss scale", steps=steps // 3 * 4)
    assert report.skipped == skipped // 3 * 4


def test_lightning_steps_the_scheduler_after_skipped_steps_too(loops: Any, tmp_path: Path) -> None:
    callback = loops.RecorderCallback(tmp_path / "trace")
    module = loops.Overflowing(fused=False, scheduled=True)
    loops.fit(module, tmp_path, callback, epochs=1, plugins=[loops.half_precision()])
    report = replay(tmp_path / "trace")
    assert report.checks["optimizer"] == report.checks["loss scale"] == "match"
    assert {finding.check for finding in report.findings} == {"learning rate"}
    assert "the schedule counts skipped steps" in report.findings[0].cause


def test_manual_optimization_with_two_optimizers(loops: Any, tmp_path: Path) -> None:
    callbacks = [loops.RecorderCallback(tmp_path / str(number), optimizer=number) for number in range(2)]
    loops.fit(loops.Manual(), tmp_path, *callbacks, epochs=2)
    matches(tmp_path / "0", steps=14)
    matches(tmp_path / "1", steps=6)


def test_an_optimizer_that_is_none(loops: Any, tmp_path: Path) -> None:
    callback = loops.RecorderCallback(tmp_path / "trace", optimizer=1)
    with pytest.raises(TraceError, match=r"RecorderCallback\(optimizer=1\): accepted are 0 to 0"):
        loops.fit(loops.Automatic({"interval": "step"}), tmp_path, callback)


def test_what_was_recorded_before_an_error_is_kept(loops: Any, tmp_path: Path) -> None:
    class Failing(loops.Automatic):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            del batch
            if batch_idx == 5:
                raise ValueError("no more data")

    with pytest.raises(ValueError, match="no more data"):
        loops.fit(Failing({"interval": "step"}), tmp_path, loops.RecorderCallback(tmp_path / "trace"))
    assert len(applied(tmp_path / "trace")) == 5
