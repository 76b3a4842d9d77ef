"""Tests the figures of a run on its page: those that it has, in units that a person reads."""

import json
from pathlib import Path

import pytest

from distrib.page.figures import figures, scaled
from distrib.page.render import render
from distrib.page.run_files import read_run
from tests.distrib.page.folders import hostile_run
from tests.markup import Elements


def test_all_of_a_run(tmp_path: Path) -> None:
    assert dict(figures(read_run(hostile_run(tmp_path)))) == {
        "images a second, last epoch": "1,280",
        "waiting for batches, last epoch": "4.0% of a step",
        "FLOP a second, last epoch": "90 GFLOP/s",
        "measured peak": "200 GFLOP/s, of which 45.0% is used",
        "FLOP of an image": "70 MFLOP, forward and backward",
        "FLOP of training": "538 GFLOP",
        "peak memory of rank 0": "1,024 MiB",
    }


def test_a_run_before_its_first_epoch_and_one_from_before_there_were_figures(tmp_path: Path) -> None:
    young = hostile_run(tmp_path, epochs=1, steps_per_epoch=6)
    (young / "metrics.jsonl").write_text("")
    assert set(dict(figures(read_run(young)))) == {"FLOP of an image", "measured peak"}
    (young / "page" / "facts.json").unlink()
    assert "Speed and cost" not in render(read_run(young))


def test_no_more_than_all_of_the_measured_peak_is_used(tmp_path: Path) -> None:
    """The line of an epoch may have a share above 1: it was written so once."""
    run = hostile_run(tmp_path)
    facts = json.loads((run / "page" / "facts.json").read_text())
    (run / "page" / "facts.json").write_text(json.dumps(facts | {"peak_flop_per_second": 9e9}))
    said = dict(figures(read_run(run)))["measured peak"]
    assert said == "9 GFLOP/s, which the run exceeds: the device was probably busy while it was measured"


def test_two_speeds_say_over_what_each_is(tmp_path: Path) -> None:
    run = hostile_run(tmp_path)
    assert "images a second, last start" in render(read_run(run))
    assert "images a second, last epoch" in render(read_run(run))
    (run / "page" / "facts.json").unlink()
    assert "images a second, whole run" in render(read_run(run))


def test_a_profile_is_linked_if_there_is_one(tmp_path: Path) -> None:
    folder = hostile_run(tmp_path, epochs=1, steps_per_epoch=6)
    profile = {"profile.txt", "profile.json"}
    assert not profile & {a["href"] for a in Elements(render(read_run(folder))).named("a")}
    for name in profile:
        (folder / name).write_text("")
    assert profile <= {a["href"] for a in Elements(render(read_run(folder))).named("a")}


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (999.4, "999 B"), (999.6, "1 kB"), (69_209_856, "69.2 MB"), (3.6e17, "360 PB"), (1e29, "1e+08 ZB")],
)
def test_numbers_have_three_digits_and_a_prefix(value: float, shown: str) -> None:
    assert scaled(value, "B") == shown
