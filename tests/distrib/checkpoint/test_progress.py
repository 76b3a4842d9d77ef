"""What is best, and when it is enough, follows from the evaluations alone."""

from dataclasses import asdict

import pytest

from distrib.checkpoint.progress import Progress


def after(*accuracies: float) -> Progress:
    """Return the progress of a run whose epochs had these accuracies; epoch e ends with step 10 e."""
    progress = Progress()
    for epoch, accuracy in enumerate(accuracies, start=1):
        progress.end_epoch(10)
        progress.evaluated(10 * epoch, accuracy)
    return progress


@pytest.mark.parametrize(
    ("accuracies", "best", "step", "without_gain"),
    [
        ((), None, None, 0),
        ((0.0,), 0.0, 10, 0),
        ((0.2, 0.5, 0.4), 0.5, 20, 1),
        ((0.5, 0.5, 0.5), 0.5, 10, 2),
        ((0.5, 0.4, 0.6), 0.6, 30, 0),
    ],
)
def test_the_first_of_the_best(accuracies: tuple[float, ...], best: float, step: int, without_gain: int) -> None:
    progress = after(*accuracies)
    assert (progress.best_accuracy, progress.best_step, progress.epochs_without_gain) == (best, step, without_gain)


@pytest.mark.parametrize(
    ("accuracies", "stop_at_accuracy", "patience", "ends"),
    [
        ((), 0.1, 1, False),
        ((0.3,), None, None, False),
        ((0.3,), 0.3, None, True),
        ((0.3,), 0.31, None, False),
        ((0.4, 0.3), 0.35, None, True),
        ((0.4, 0.3), None, 1, True),
        ((0.4, 0.3), None, 2, False),
        ((0.4, 0.3, 0.4), None, 2, True),
        ((0.4, 0.3, 0.41), None, 2, False),
    ],
)
def test_what_is_enough(
    accuracies: tuple[float, ...], stop_at_accuracy: float | None, patience: int | None, ends: bool
) -> None:
    progress = after(*accuracies)
    assert (progress.enough(stop_at_accuracy=stop_at_accuracy, patience=patience) is not None) == ends
    assert Progress(**asdict(progress)) == progress


def test_an_epoch_that_is_not_evaluated_is_not_enough() -> None:
    progress = after(0.9)
    progress.end_epoch(10)
    assert progress.enough(stop_at_accuracy=0.5, patience=1) is None
