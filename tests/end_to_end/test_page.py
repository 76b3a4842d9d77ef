"""Tests the page that the real trainer leaves, also of a run that its disk or its libraries fail.

The page of a stopped run is tested in test_training.py.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from distrib.page.render import render
from distrib.page.run_files import read_run
from distrib.page.timeline import events
from tests.support import QUICKSTART, SMALL, train, train_well


def charts_of(folder: Path) -> dict[str, Any]:
    """Return the charts of the run's page by name, as its script gets them."""
    page = (folder / "index.html").read_text(encoding="utf-8")
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return {chart["name"]: chart for chart in json.loads(data)["charts"]}


def test_a_whole_run(tmp_path: Path) -> None:
    train_well(tmp_path, *SMALL, "--training.clip_norm=0.5")
    run = read_run(tmp_path)
    assert [(event.kind, event.step) for event in events(run)] == [("start", 0), ("done", 20)]
    charts = charts_of(tmp_path)
    assert set(charts) == {"loss", "accuracy", "rate", "speed", "data", "gradient"}
    assert charts["loss"]["series"][0]["steps"] == list(range(1, 21))
    assert all(None not in chart["series"][0]["mean"] for chart in charts.values())
    assert run.facts.classes[:2] == ["disc", "ring"]
    assert str(QUICKSTART) in run.facts.command
    assert run.images is not None
    assert len(run.images.images) == 16
    assert run.mistakes is not None
    assert sum(map(sum, run.mistakes.confusion)) == 50, "each test image counts once"
    assert render(run).count("<img ") == 16 + len(run.mistakes.worst)
    defaults, config = run.facts.defaults, run.config
    assert {
        key for key in ("training.clip_norm", "training.seed", "schedule.name") if config.get(key) != defaults[key]
    } == {
        "training.clip_norm",
        "schedule.name",
    }


def test_a_run_without_the_template_library_says_how_to_get_the_page(tmp_path: Path) -> None:
    [result] = train([QUICKSTART, *SMALL, "--output.dir", tmp_path], plant=without_jinja2)
    assert (result.code, result.err) == (0, "")
    assert result.out.count("pip install '.[page]' in a clone of Twinstep") == 1
    assert not (tmp_path / "index.html").exists()


def without_jinja2(_rank: int) -> None:
    """Let the library look as if it were not installed."""
    sys.modules["jinja2"] = None  # pyright: ignore[reportArgumentType] (what Python takes for a module that is not there)


@pytest.mark.parametrize("name", ["index.html", "page"])
def test_a_page_that_cannot_be_written_costs_the_run_nothing(tmp_path: Path, name: str) -> None:
    """A folder stands in the page's place, and a file in that of the folder of its facts."""
    if name == "page":
        (tmp_path / name).write_text("")
    else:
        (tmp_path / name).mkdir()
    [result] = train([QUICKSTART, *SMALL, "--output.dir", tmp_path])
    assert (result.code, result.err) == (0, "")
    assert result.out.count("note: ") == 1
    assert f"note: {tmp_path / name}" in result.out


def test_a_run_that_fails_says_so_on_its_page(tmp_path: Path) -> None:
    [result] = train([QUICKSTART, *SMALL, "--output.dir", tmp_path, "--optimizer.lr=1e30", "--training.clip_norm=none"])
    assert result.code == 1
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "the global loss is" in page
    assert [event.kind for event in events(read_run(tmp_path))] == ["start", "fault"]
