"""Lines of metrics become columns, whatever else stands between them, and long runs are thinned out."""

import json
from pathlib import Path

import numpy as np
import pytest

from distrib.page import curves

STRANGE = [
    "",
    "[1, 2]",
    "null",
    '{"kind": "step"}',
    '{"kind": "step", "step": "3"}',
    '{"kind": "step", "step": NaN}',
    '{"kind": ["step"], "step": 2}',
    '{"kind": "step", "step": 1e999}',
    '{"kind": "step", "step": 0}',
    '{"kind": "step", "step": 1}',  # again
    '{"kind": "step", "st',
    "[" * 10_000,
    "\xff\xfe",
]


def test_what_is_no_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        '{"kind": "step", "step": 1, "loss": 2.5}',
        *STRANGE,
        '{"kind": "step", "step": 2, "loss": "low", "lr": Infinity}',
    ]
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")
    steps, epochs = curves.read(path)
    assert list(steps.steps) == [1, 2]
    assert steps.values["loss"][0] == 2.5
    assert np.isnan(steps.values["loss"][1])
    assert not steps.has("lr")
    assert len(epochs) == 0


def test_a_run_without_metrics_has_no_lines(tmp_path: Path) -> None:
    assert [len(lines) for lines in curves.read(tmp_path / "metrics.jsonl")] == [0, 0]


def test_a_folder_in_place_of_the_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder"):
        curves.read(tmp_path)


def test_few_steps_stay_as_they_are() -> None:
    steps = np.arange(1.0, curves.MOST_POINTS + 1)
    curve = curves.thinned(steps, steps * 2)
    assert list(curve.mean) == list(steps * 2)
    assert not len(curve.low)


def test_many_steps_keep_their_extremes() -> None:
    """One step that jumps among 100,000 is still seen, and a gap is a gap."""
    steps = np.arange(1.0, 100_001)
    values = np.ones(len(steps))
    values[54_321], values[70_000:71_000] = 9.0, np.nan
    curve = curves.thinned(steps, values)
    assert len(curve.steps) <= curves.MOST_POINTS
    assert (np.nanmax(curve.high), np.nanmin(curve.low)) == (9.0, 1.0)
    assert 1.0 < np.nanmax(curve.mean) < 2.0
    gap = np.isnan(curve.mean)
    assert gap.any()
    assert (np.isnan(curve.low) == gap).all()
    assert (curve.until[:-1] + 1 == curve.steps[1:]).all()
    assert curve.until[-1] == 100_000


def test_a_file_that_grows_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = json.dumps({"kind": "epoch", "step": 10, "epoch": 1, "test_accuracy": 0.5})
    path.write_text(whole + "\n" + whole[:20])
    assert len(curves.read(path)[1]) == 1
