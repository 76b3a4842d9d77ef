"""Tests which charts a run has, and what they say in words."""

import json
from pathlib import Path
from typing import Any

import pytest

from distrib.page import charts
from distrib.page.run_files import read_run


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Return the run that has these lines of steps."""

    def from_lines(*lines: dict[str, Any], config: str = "") -> Any:
        text = "".join(json.dumps({"kind": "step", "step": i, **line}) + "\n" for i, line in enumerate(lines, start=1))
        (tmp_path / "metrics.jsonl").write_text(text)
        (tmp_path / "config.toml").write_text(config)
        return read_run(tmp_path)

    return from_lines


def test_only_what_was_measured_has_a_chart(run: Any) -> None:
    assert [chart.name for chart in charts.charts(run())] == []
    assert [chart.name for chart in charts.charts(run({"loss": 1.0, "lr": 0.1}))] == ["loss", "rate"]


def test_a_loss_scale_brings_the_steps_that_it_skipped(run: Any) -> None:
    lines = [
        {"loss_scale": 8.0, "applied": False},
        {"loss_scale": 4.0, "applied": True},
        {"loss_scale": 4.0, "applied": True},
    ]
    [chart] = charts.charts(run(*lines))
    assert [(series.label, list(series.steps)) for series in chart.series] == [
        ("loss scale", [1, 2, 3]),
        ("skipped steps", [1]),
    ]
    assert "1 of 3 steps were skipped" in chart.note
    [calm] = charts.charts(run(*lines[1:]))
    assert calm.note == "No step was skipped."


def test_clipped_steps_are_counted(run: Any) -> None:
    lines = [{"gradient_norm": norm} for norm in (0.5, 2.0, 3.0, None)]
    [chart] = charts.charts(run(*lines, config="[training]\nclip_norm = 1.5\n"))
    assert chart.limit == 1.5
    assert "2 of 3 steps were clipped" in chart.note
    [unclipped] = charts.charts(run(*lines))
    assert unclipped.limit is None


def test_throughput_is_the_batch_over_the_seconds_of_a_step(run: Any) -> None:
    lines = [{"seconds": 0.5}, {"seconds": 0.0}, {"seconds": -1}]
    [chart] = charts.charts(run(*lines, config="[training]\nbatch_size = 64\n"))
    assert chart.to_json()["series"][0]["mean"] == [128.0, None, None]
    assert list(charts.charts(run(*lines))) == [], "without the batch size nobody knows"


def test_the_last_step_of_an_epoch_may_have_fewer_images(run: Any, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "facts.json").write_text('{"steps_per_epoch": 2, "images_per_epoch": 80}')
    [chart] = charts.charts(run(*[{"seconds": 0.5}] * 4, config="[training]\nbatch_size = 64\n"))
    assert chart.to_json()["series"][0]["mean"] == [128.0, 32.0, 128.0, 32.0]


def test_words_say_what_the_chart_shows(run: Any) -> None:
    [chart] = charts.charts(run({"loss": 2.0}, {"loss": 3.0}, {"loss": 0.5}, {"loss": 1.0}))
    assert chart.in_words == (
        "training: first 2 at step 1, last 1 at step 4, lowest 0.5 at step 3, highest 3 at step 2."
    )


def test_words_on_a_long_run_are_of_single_steps_and_not_of_means(run: Any) -> None:
    losses = [1.0] * 4000
    losses[0], losses[1234], losses[2345], losses[-1] = 2.0, 9.0, 0.25, 3.0
    [chart] = charts.charts(run(*({"loss": loss} for loss in losses)))
    assert chart.in_words == (
        "training: first 2 at step 1, last 3 at step 4,000, lowest 0.25 at step 2,346, highest 9 at step 1,235."
    )


def test_a_point_of_several_steps_says_which(run: Any) -> None:
    [chart] = charts.charts(run(*[{"loss": 1.0}] * 3001))
    [series] = chart.to_json()["series"]
    assert (series["steps"][:2], series["until"][:2]) == ([1, 4], [3, 6])
    assert (series["steps"][-1], series["until"][-1]) == (3001, 3001)
    [short] = charts.charts(run({"loss": 1.0}))
    assert short.to_json()["series"][0]["until"] == []


@pytest.mark.parametrize("scale", [0.25, 1.0, 131_072.0, 2.0**24])
def test_a_loss_scale_keeps_all_of_its_digits(run: Any, scale: float) -> None:
    found = run({"loss_scale": scale, "loss": 1 / 3})
    loss, chart = charts.charts(found)
    assert chart.to_json()["series"][0]["mean"] == [scale]
    assert loss.to_json()["series"][0]["mean"] == [0.33333]
    shown = {0.25: "0.25", 1.0: "1", 131_072.0: "131,072", 2.0**24: "16,777,216"}[scale]
    assert charts.table_of_steps(found).rows == (("1", "0.3333", shown),)
    assert f"first {shown} at step 1" in chart.in_words


def test_the_table_holds_the_first_and_the_last_step(run: Any) -> None:
    table = charts.table_of_steps(run(*({"loss": 1 / step} for step in range(1, 1001))))
    assert table.head == ("Step", "Loss")
    assert (table.rows[0], table.rows[-1]) == (("1", "1"), ("1,000", "0.001"))
    assert len(table.rows) < 30
