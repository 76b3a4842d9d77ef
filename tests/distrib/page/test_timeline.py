"""Starts, stops, resumes and faults, from what the starts wrote and status.json."""

import json
from pathlib import Path

from distrib.page import timeline
from distrib.page.run_files import read_run
from tests.distrib.page.folders import hostile_run


def test_a_run_that_was_stopped_killed_and_failed(tmp_path: Path) -> None:
    found = list(timeline.events(read_run(hostile_run(tmp_path))))
    assert [(event.kind, event.step, event.marked) for event in found] == [
        ("start", 0, False),
        ("stop", 40, True),
        ("resume", 40, True),
        ("fault", 80, True),
        ("resume", 45, True),
        ("fault", 120, True),
    ]
    assert found[0].text == "started with 2 processes"
    assert found[3].text.startswith("ended without a word")
    assert found[4].text == "resumed after step 45 with 1 process"


def test_a_run_that_goes_on_has_no_end(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"state": "running", "exit_code": None}))
    assert list(timeline.events(read_run(tmp_path))) == []


def test_a_run_that_is_done_is_not_marked(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"state": "done", "exit_code": 0, "step": 9}))
    [end] = timeline.events(read_run(tmp_path))
    assert (end.kind, end.step, end.marked) == ("done", 9, False)
