"""Trackers are told every curve once, and can neither slow nor end a run.

TensorBoard is the one that is always installed here.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import TensorBoardTracker

from distrib.training.metrics import trackers
from distrib.training.metrics.trackers import _Window  # pyright: ignore[reportPrivateUsage]
from tests.support import QUICKSTART, SMALL, checkpoint_of, epochs, replace_attribute, steps, train, train_well

TENSORBOARD = "--output.trackers=tensorboard"


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Return what TensorBoard shows of a run: by tag and step. A step that is there twice is an error."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader: Any = EventAccumulator(str(folder / "twinstep"))
    reader.Reload()
    found: dict[str, dict[int, float]] = {}
    for tag in reader.Tags()["scalars"]:
        events = reader.Scalars(tag)
        found[tag] = {event.step: event.value for event in events}
        assert len(found[tag]) == len(events), f"{tag} has a step twice"
    return found


def test_every_curve_is_there_once_also_where_a_resumed_run_took_steps_again(tmp_path: Path) -> None:
    train_well(tmp_path, *SMALL, TENSORBOARD)
    shutil.rmtree(checkpoint_of(tmp_path, 20))
    summary = train_well(tmp_path, *SMALL, TENSORBOARD)
    assert summary["resumed_from"].endswith("step-00000010")
    found = scalars(tmp_path)
    lines = {line["step"]: line for line in steps(tmp_path)}
    assert list(lines) == list(range(1, 21))
    for name in ("loss", "lr", "gradient_norm"):
        expected = {step: line[name] for step, line in lines.items() if name in line}
        assert found[name] == pytest.approx(expected, rel=1e-6)
    accuracies = {line["step"]: line["test_accuracy"] for line in epochs(tmp_path)}
    assert list(accuracies) == [10, 20]
    assert found["test_accuracy"] == pytest.approx(accuracies, rel=1e-6)
    for name in ("images_per_second", "data_share", "skipped_steps"):
        assert list(found[name]) == list(lines), name
    for name in ("peak_memory_mib", "flop_per_second", "share_of_peak"):
        assert list(found[name]) == [10, 20], name
    assert found["flop"][20] == pytest.approx(summary["flop"])
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "summary.json").unlink()  # the run begins anew
    train_well(tmp_path, *SMALL, TENSORBOARD)
    assert scalars(tmp_path)["loss"] == pytest.approx(found["loss"])
    [hyperparameters] = tmp_path.rglob("hparams.yml")  # of the first start alone
    assert "training.batch_size: 16\n" in hyperparameters.read_text()


def breaks_at_step_5(_rank: int) -> None:
    typed_in_part: Any = TensorBoardTracker
    log = typed_in_part.log

    def fails(self: TensorBoardTracker, values: dict[str, float], step: int) -> None:
        if step == 5:
            raise ConnectionError("no route to the tracker")
        log(self, values, step)

    replace_attribute(TensorBoardTracker, "log", fails)


def takes_its_time(_rank: int) -> None:
    def waits(_self: TensorBoardTracker, _values: dict[str, float], step: int) -> None:
        time.sleep(60 if step == 2 else 0)

    replace_attribute(TensorBoardTracker, "log", waits)
    replace_attribute(trackers, "_CLOSE_SECONDS", 0.1)


def does_not_start(_rank: int) -> None:
    def fails(_self: TensorBoardTracker) -> None:
        raise ValueError("nobody is logged in")

    replace_attribute(TensorBoardTracker, "start", fails)


def test_a_tracker_that_fails_in_the_middle_ends_nothing(tmp_path: Path) -> None:
    [result] = train([QUICKSTART, *SMALL, TENSORBOARD, "--output.dir", tmp_path], plant=breaks_at_step_5)
    assert result.code == 0
    warning = "warning: tensorboard failed, and the run goes on without it: ConnectionError: no route to the tracker"
    assert result.out.count("warning: ") == result.out.count(warning) == 1
    assert list(scalars(tmp_path)["loss"]) == [1, 2, 3, 4]
    assert len(steps(tmp_path)) == 20


def test_a_tracker_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    [result] = train([QUICKSTART, *SMALL, TENSORBOARD, "--output.dir", tmp_path], plant=takes_its_time)
    assert result.code == 0
    assert time.monotonic() - began < 60
    assert "warning: tensorboard did not take everything within 0 s after the run's end" in result.out
    assert len(steps(tmp_path)) == 20


def test_a_tracker_that_does_not_start_is_bad_input_to_a_run_that_begins(tmp_path: Path) -> None:
    [result] = train([QUICKSTART, *SMALL, TENSORBOARD, "--output.dir", tmp_path], plant=does_not_start)
    assert result.code == 2
    assert (
        "output.trackers = tensorboard: ValueError: nobody is logged in; mend it, or leave the tracker out"
        in result.err
    )
    train_well(tmp_path, *SMALL, "--training.epochs=1")
    [result] = train([QUICKSTART, *SMALL, TENSORBOARD, "--output.dir", tmp_path], plant=does_not_start)
    assert result.code == 0, "a run that goes on is worth more"
    assert "warning: the trackers did not start, and the run goes on without them" in result.out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            "wandbee",
            "wandbee is no tracker; accepted are aim, clearml, comet_ml, dvclive, mlflow, swanlab, tensorboard",
        ),
        ("tensorboard,comet_ml", "comet_ml is not installed here: pip install comet-ml; installed are "),
    ],
)
def test_what_is_not_installed_is_refused_before_anything_is_written(tmp_path: Path, given: str, words: str) -> None:
    [result] = train([QUICKSTART, *SMALL, "--output.dir", tmp_path / "run", "--output.trackers", given])
    assert result.code == 2
    assert words in result.err
    assert "output.trackers is from the command line" in result.err
    assert not (tmp_path / "run").exists()


def test_a_smaller_batch_weighs_less_in_its_window() -> None:
    window = _Window(2, 2)
    line = {"lr": 0.1, "applied_updates": 1, "seconds": 0.5, "data_seconds": 0.0}
    assert window.add(1, {"loss": 1.0, **line}, images=30) == {}
    told = window.add(2, {"loss": 2.0, **line}, images=10)
    assert (told["loss"], told["images_per_second"]) == (1.25, 40.0)


def test_a_long_run_is_told_in_windows() -> None:
    window, told = _Window(3, 8), dict[int, dict[str, float]]()
    for step in range(1, 9):
        norm = {"gradient_norm": 10.0 * step} if step % 4 == 1 else {}
        line: dict[str, Any] = {
            "loss": float(step),
            "lr": 0.1 * step,
            "applied_updates": step - step // 2,
            "seconds": 0.5,
            "data_seconds": 0.01 * step,
            **norm,
        }
        told[step] = window.add(step, json.loads(json.dumps(line)), images=32)
    assert {step: values["loss"] for step, values in told.items() if values} == {3: 2.0, 6: 5.0, 8: 7.5}
    assert [told[3].get("gradient_norm"), told[6].get("gradient_norm"), told[8].get("gradient_norm")] == [
        10.0,
        50.0,
        None,
    ]
    assert [told[step]["skipped_steps"] for step in (3, 6, 8)] == [1.0, 3.0, 4.0]
    assert [told[step]["images_per_second"] for step in (3, 6, 8)] == [64.0, 64.0, 64.0]
    assert [told[step]["data_share"] for step in (3, 6, 8)] == pytest.approx([0.04, 0.10, 0.15])
