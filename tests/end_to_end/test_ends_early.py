"""Tests a run that ends early, and the checkpoint that was the best, whatever interrupts it."""

from functools import partial
from pathlib import Path

import pytest

from distrib.errors import BadInput
from distrib.inference.saved_run import SavedRun
from tests.end_to_end.faults import UPDATE, asked_in
from tests.support import QUICKSTART, SMALL, checkpoint_of, read_json, steps, tensor_bytes, train, train_well

LONG = (*SMALL, "--training.epochs=30", "--optimizer.lr=1e-5", "--schedule.name=constant")
"""Its accuracy hardly moves, so that soon two epochs in a row bring no gain; ten steps an epoch."""
PATIENT = (*LONG, "--training.patience=2", "--checkpoint.best=true", "--checkpoint.keep=1")


def kept(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended early by itself."""
    folder = tmp_path_factory.mktemp("whole")
    train_well(folder, *PATIENT)
    return folder


def test_it_ends_after_the_epochs_without_gain(whole: Path) -> None:
    summary, status = read_json(whole / "summary.json"), read_json(whole / "status.json")
    end, best = summary["steps"], summary["best_step"]
    assert end == best + 20 < 300
    assert summary["epochs"] == end // 10
    assert "training.patience = 2" in summary["ended_early"]
    assert (status["state"], status["step"]) == ("done", end)
    assert len(steps(whole)) == end
    assert kept(whole) == {checkpoint_of(whole, best).name, checkpoint_of(whole, end).name}


def test_the_best_checkpoint_is_taken_on_request(whole: Path) -> None:
    summary, run = read_json(whole / "summary.json"), SavedRun(whole)
    assert run.classifier(best=True).path == checkpoint_of(whole, summary["best_step"])
    assert run.classifier().path == checkpoint_of(whole, summary["steps"])


def test_a_best_checkpoint_that_was_not_kept(tmp_path: Path) -> None:
    train_well(tmp_path, *LONG, "--training.patience=1", "--checkpoint.keep=1")
    with pytest.raises(BadInput, match=r"the best checkpoint of .* is step-.*checkpoint\.best"):
        SavedRun(tmp_path).classifier(best=True)


@pytest.mark.parametrize(
    "moment", [(*UPDATE, 15), ("distrib.training.run:Run", "evaluate", 3)], ids=["training", "evaluation"]
)
def test_an_interrupted_run_ends_after_the_same_step(whole: Path, tmp_path: Path, moment: tuple[str, str, int]) -> None:
    end = read_json(whole / "summary.json")["steps"]
    best = read_json(whole / "summary.json")["best_step"]
    [stopped] = train([QUICKSTART, *PATIENT, "--output.dir", tmp_path], plant=partial(asked_in, *moment))
    assert stopped.code == 75
    summary = train_well(tmp_path, *PATIENT)
    assert (summary["steps"], summary["best_step"]) == (end, best)
    assert kept(tmp_path) == kept(whole)
    for step in (best, end):
        assert tensor_bytes(checkpoint_of(tmp_path, step)) == tensor_bytes(checkpoint_of(whole, step))


def test_a_run_that_ended_early_is_complete(whole: Path) -> None:
    [again] = train([QUICKSTART, *PATIENT, "--output.dir", whole])
    assert again.code == 0
    assert "holds this run complete" in again.out
    assert "raise or unset training.stop_at_accuracy and training.patience to train on" in again.out


def test_the_accuracy_that_is_enough(tmp_path: Path) -> None:
    summary = train_well(tmp_path, *LONG, "--training.stop_at_accuracy=0.01")
    assert (summary["steps"], summary["epochs"]) == (10, 1)
    assert "training.stop_at_accuracy = 0.01" in summary["ended_early"]
    longer = train_well(tmp_path, *LONG, "--training.epochs=2")
    assert (longer["steps"], longer["ended_early"]) == (20, None)
