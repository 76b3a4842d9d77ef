"""The page of a comparison: all curves on one chart, the same tables as in the terminal, and nothing that data could run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from distrib.compare.page import MOST_DRAWN, render
from distrib.compare.read import read_run
from tests.distrib.compare.test_compare import compare, make_run


def data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_every_run_is_a_line_of_each_chart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, losses=[2.0, 1.0 + number]) for number, name in enumerate(("a", "b", "c"))]
    page = render([read_run(run) for run in runs])
    charts = {chart["name"]: chart for chart in data(page)["charts"]}
    assert set(charts) == {"loss", "test-loss", "accuracy"}, "of what no run has there is no chart"
    assert [series["label"] for series in charts["loss"]["series"]] == ["a", "b", "c"]
    assert [series["mean"] for series in charts["loss"]["series"]] == [[2.0, 1.0], [2.0, 2.0], [2.0, 3.0]]
    assert str(tmp_path) in page, "the folder that all of them are in is named once"
    assert "they part at step 2, loss: 1 and 2" in page


def test_a_run_has_one_color_and_its_name_in_every_chart(tmp_path: Path) -> None:
    bare, scaled = (
        make_run(tmp_path / "bare", losses=[2.0]),
        make_run(tmp_path / "scaled", losses=[2.0], loss_scale=8.0),
    )
    page = render([read_run(bare), read_run(scaled)])
    charts = {chart["name"]: chart for chart in data(page)["charts"]}
    assert [(series["label"], series["color"]) for series in charts["loss"]["series"]] == [("bare", 0), ("scaled", 1)]
    assert [(series["label"], series["color"]) for series in charts["scale"]["series"]] == [("scaled", 1)]
    assert page.count('<span class="key key-1">scaled</span>') == len(charts) == 4


def test_a_long_run_is_drawn_as_means(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", losses=[float(number % 2) for number in range(1000)])
    page = render([read_run(run), read_run(make_run(tmp_path / "b", losses=[0.5]))])
    long, short = data(page)["charts"][0]["series"]
    assert set(long["mean"][:-1]) <= {0.4, 0.6}, "five steps each"
    assert len(long["mean"]) == 200
    assert (long["steps"][1], long["until"][1]) == (6, 10)
    assert short["mean"] == [0.5]
    assert "the mean of up to 5 steps" in page


def test_of_many_runs_the_first_are_drawn_and_all_are_told(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"run-{number:02}", losses=[2.0]) for number in range(MOST_DRAWN + 3)]
    page = render([read_run(run) for run in runs])
    assert len(data(page)["charts"][0]["series"]) == MOST_DRAWN
    assert "3 more are in the tables" in page
    assert "run-10" in page


def test_names_and_values_are_text(tmp_path: Path) -> None:
    hostile = '<script>alert(1)</script>"‮'.replace("/", "-")
    runs = [make_run(tmp_path / hostile, losses=[2.0]), make_run(tmp_path / "b", losses=[2.0], name="<b>bold")]
    page = render([read_run(run) for run in runs])
    assert "<script>alert" not in page
    assert "<b>bold" not in page
    assert "\u202e" not in page.partition('id="data"')[0], "what turns the direction of writing is shown as its number"
    assert data(page)["charts"]


def test_runs_without_a_step_have_a_page(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, losses=[]) for name in ("a", "b")]
    for run in runs:
        (run / "metrics.jsonl").write_text("")
    assert "None of them has taken a step" in render([read_run(run) for run in runs])


def test_the_command_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [make_run(tmp_path / name, losses=[2.0]) for name in ("a", "b")]
    code, out, _ = compare(capsys, *runs, "--html", tmp_path / "page.html")
    assert code == 0
    assert "the same in the step" in out
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    code, _, err = compare(capsys, *runs, "--html", tmp_path / "nowhere" / "page.html")
    assert code == 2
    assert "nowhere" in err
    assert "cannot be written" in err
    monkeypatch.setattr("distrib.compare.__main__.available", lambda: False)
    code, _, err = compare(capsys, *runs, "--html", tmp_path / "page.html")
    assert code == 2
    assert "pip install '.[page]' in a clone of Twinstep" in err
