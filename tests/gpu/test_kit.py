"""Tests the kit itself, on the CPU: the report is whole whatever becomes of a part, and of the kit."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.gpu import kit, report
from tests.gpu.kit import Slot
from tests.gpu.part import Setting
from tests.gpu.report import Report
from tests.processes import marked
from tests.support import ROOT, wait_until

_PLANTED = "tests.gpu.planted"


def run_planted(folder: Path, names: Sequence[str], *, total: float = 600, seconds: float = 200) -> Report:
    """Run parts with a fault; the report, which the files hold as well."""
    (folder / "work").mkdir(exist_ok=True)
    whole = report.read(folder / "report.json") or Report(device="cpu")
    slots = {name: Slot(f"{_PLANTED}.{name}", seconds) for name in names}
    setting = Setting(device="cpu", work=folder / "work")
    kit.run(whole, slots, folder, setting=setting, start=time.monotonic(), total=total)
    written = report.read(folder / "report.json")
    assert written == whole
    return whole


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "tests.gpu", *map(str, arguments)]


def refused(*arguments: str | Path, **environment: str) -> str:
    """What the kit says of bad input, in one line."""
    result = subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert result.stderr.startswith("bad input: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_each_case_is_a_row_however_it_ends(tmp_path: Path) -> None:
    part = run_planted(tmp_path, ["cases"]).parts["cases"]
    assert part.state == "done"
    assert not part.is_good
    assert {name: row.figures for name, row in part.rows.items()} == {
        "late": {"x": 2.0},
        "good": {"x": 1.25},
        "wrong": {"x": 3.0},
        "left out": {},
        "broken": {},
        "good | too": {"x": "inf"},
    }
    assert {name: row.problem for name, row in part.rows.items() if row.problem} == {
        "wrong": "it is twice what it should be",
        "broken": "ZeroDivisionError: division by zero",
    }
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert "| good | 1.2 |  |" in lines
    assert "| wrong | 3.0 | **it is twice what it should be** |" in lines
    assert "| left out |  | left out: there is no such device |" in lines
    assert "| good \\| too | inf |  |" in lines


def test_a_part_that_crashes_is_one_line_and_not_the_end(tmp_path: Path) -> None:
    whole = run_planted(tmp_path, ["crash", "good"])
    crashed = whole.parts["crash"]
    assert (crashed.state, list(crashed.rows)) == ("crashed", ["one"])
    assert crashed.why == "SIGSEGV; log.txt ends with: the device fell off the bus"
    assert whole.parts["good"].is_good
    assert "Crashed, 1 of 2 cases" in (tmp_path / "report.md").read_text()
    assert "| two |  | not yet run |" in (tmp_path / "report.md").read_text()


def test_a_part_that_hangs_is_cut_off_with_all_that_it_started(tmp_path: Path) -> None:
    whole = run_planted(tmp_path, ["hang", "good"], total=75, seconds=15)
    assert (whole.parts["hang"].state, list(whole.parts["hang"].rows)) == ("cut off", ["one"])
    assert whole.parts["good"].is_good, "its time was its own"
    assert not marked(f"gpu-kit-{os.getpid()}")


def test_a_part_for_which_no_time_is_left_is_told(tmp_path: Path) -> None:
    whole = run_planted(tmp_path, ["good"], total=0.5)
    assert (whole.parts["good"].state, whole.parts["good"].why) == ("not run", "no time was left")
    assert not whole.is_good


def test_what_is_there_is_not_run_again_and_what_failed_is(tmp_path: Path) -> None:
    first = run_planted(tmp_path, ["good", "cases"]).model_copy(deep=True)
    first.parts["cases"].state = "cut off"
    report.write(first, tmp_path)
    marker = (tmp_path / "log.txt").read_text().count("ZeroDivisionError")
    second = run_planted(tmp_path, ["good", "cases"])
    assert second.parts["good"] == first.parts["good"]
    assert (tmp_path / "log.txt").read_text().count("ZeroDivisionError") == 2 * marker
    assert second.parts["cases"].rows == first.parts["cases"].rows


def test_tests_are_counted_by_function_and_failures_named(tmp_path: Path) -> None:
    part = run_planted(tmp_path, ["marked"]).parts["marked"]
    assert part.state == "done"
    counts = {
        name.split()[-1]: (row.figures["passed"], row.figures["failed"], row.figures["skipped"])
        for name, row in part.rows.items()
    }
    assert counts == {
        "test_numbers": (2, 1, 0),
        "test_fine": (1, 0, 0),
        "test_elsewhere": (0, 0, 1),
        "test_set_up": (0, 1, 0),
    }
    assert set(part.planned) == set(part.rows)
    problems = [row.problem for row in part.rows.values() if row.problem]
    assert problems == [
        "test_numbers[2] (call): AssertionError: two is",
        "test_set_up (setup): RuntimeError: no room",
    ]


@pytest.mark.parametrize(
    ("seconds", "total", "ends"),
    [
        ((10, 20, 30), 62, (10, 30, 60)),
        ((10, 20, 30), 122, (20, 60, 120)),  # more time than they need is shared out
        ((10, 20, 30), 32, (10, 30, 30)),  # less, and the last ones go without
    ],
)
def test_when_parts_must_have_ended(seconds: Sequence[float], total: float, ends: Sequence[float]) -> None:
    slots = {str(number): Slot("", each) for number, each in enumerate(seconds)}
    assert tuple(kit.end_times(slots, total).values()) == pytest.approx(ends)


def test_the_parts_fit_nine_minutes() -> None:
    assert sum(slot.seconds for slot in kit.PARTS.values()) <= 540


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project, as it comes to a machine that has neither git nor a virtual environment."""
    copy = tmp_path / "project"
    for name in ("distrib", "crosscheck", "tests", "launch"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def files_below(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.mark.timeout(1100)
@pytest.mark.matrix
def test_a_rehearsal_that_is_killed_goes_on_and_ends_well(tmp_path: Path, checkout: Path) -> None:
    """Every part in small, as `python -m tests.gpu --device cpu --minutes 2`, with time for a busy machine."""
    before = files_below(checkout)
    out = tmp_path / "out"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    rehearse = command("--device", "cpu", "--minutes", "18", "--out", out)
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    first = subprocess.Popen(rehearse, cwd=checkout, env=environment, stdout=subprocess.DEVNULL)

    def in_the_middle() -> bool:
        seen = report.read(out / "report.json")
        return seen is not None and "cross-check" in seen.parts and seen.parts["cross-check"].state == "running"

    assert wait_until(in_the_middle, 600)
    first.send_signal(signal.SIGKILL)
    first.wait()
    cut = report.read(out / "report.json")
    assert cut is not None
    assert cut.parts["facts"].is_good
    assert "## facts" in (out / "report.md").read_text()
    assert wait_until(lambda: not marked(f"gpu-kit-{first.pid}"), 300), "what it had started outlived it"
    second = subprocess.run(rehearse, cwd=checkout, env=environment, check=False, capture_output=True, text=True)
    whole = report.read(out / "report.json")
    assert whole is not None
    problems = {
        name: {case: row.problem for case, row in part.rows.items() if row.problem}
        for name, part in whole.parts.items()
    }
    assert second.returncode == 0, (problems, {name: part.why for name, part in whole.parts.items()}, second.stderr)
    assert list(whole.parts) == list(kit.PARTS)
    assert whole.is_good
    assert whole.parts["facts"] == cut.parts["facts"], "it was not run again"
    assert {file.name for file in out.iterdir()} == {"report.json", "report.md", "log.txt"}
    for name, part in whole.parts.items():
        assert set(part.rows) == set(part.planned)
        assert any(row.figures for row in part.rows.values()), name
    assert files_below(checkout) == before, "it wrote into the project"


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    assert "sees no CUDA device" in refused("--out", tmp_path)
    on_cpu = ("--device", "cpu", "--out", tmp_path)
    assert "there is no part 'x'; there are facts, cross-check" in refused(*on_cpu, "--parts", "facts,x")
    assert "--minutes 0.0: give a number of minutes above 0" in refused(*on_cpu, "--minutes", "0")
    assert "--minutes nan" in refused(*on_cpu, "--minutes", "nan")
    assert "is no folder with train/" in refused(*on_cpu, TWINSTEP_IMAGES=str(tmp_path / "images"))
    (tmp_path / "file").touch()
    assert "cannot be written" in refused("--device", "cpu", "--out", tmp_path / "file" / "out")


def test_reports_of_others_are_left_alone(tmp_path: Path) -> None:
    other = Report(device="NVIDIA H100", versions={"torch": "2.11.0"})
    report.write(other, tmp_path)
    assert "holds a report of NVIDIA H100" in refused("--device", "cpu", "--out", tmp_path)
    assert report.read(tmp_path / "report.json") == other
    (tmp_path / "report.json").write_text("{}")
    assert "is no report of this kit" in refused("--device", "cpu", "--out", tmp_path)
    assert (tmp_path / "report.json").read_text() == "{}"
