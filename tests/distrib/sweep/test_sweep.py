"""`python -m distrib.sweep`: each run of a file, in order or some at a time, and on from where it was stopped."""

import re
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from distrib.errors import BadInput
from distrib.sweep.__main__ import main
from distrib.sweep.lines import Line, read
from distrib.sweep.queue import PlannedRun, Queue, plan
from tests.support import QUICKSTART, SMALL, read_json, wait_until


def test_lines_are_shell_words(tmp_path: Path) -> None:
    file = tmp_path / "runs"
    file.write_text("# all of them\n\na.toml --x 'two words'  # why\n  b.toml --y=a#b\nc.toml 'open\n")
    first, second, third = read(str(file))
    assert (first.number, first.words) == (3, ("a.toml", "--x", "two words"))
    assert (second.number, second.words) == (4, ("b.toml", "--y=a#b"))
    assert (third.words, third.problem) == ((), "line 5: no closing quotation")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for name, words in ((tmp_path, "no regular file"), (tmp_path / "none", "No such file"), ("a\0b", "null")):
        with pytest.raises(BadInput, match=words):
            read(str(name))


def test_overrides_go_before_the_lines_own_and_a_folder_is_given_once() -> None:
    lines = [
        Line(1, ("a.toml", "--training.seed", "1")),
        Line(7, ("b.toml", "--output.dir", "x")),
        Line(8, ("c.toml", "--output.dir=x", "--output.dir=~/y")),
        Line(9, ("launch/d.toml", "--output.dir", "none")),
    ]
    one, other, third, fourth = plan(lines, Path("runs/s"), ["--training.seed", "0"])
    assert one.arguments == (
        *("a.toml", "--training.seed", "0", "--training.seed", "1"),
        *("--output.dir", str(one.folder)),
    )
    assert one.folder.parent == Path("runs/s")
    assert re.fullmatch(r"a-training\.seed-1-[0-9a-f]{8}", one.folder.name)
    assert (other.folder, other.arguments[-2:]) == (Path("x"), ("--output.dir", "x"))
    assert third.folder == Path.home() / "y"
    assert fourth.folder.name.startswith("d-output.dir-none-")
    assert fourth.arguments[-1] == str(fourth.folder)


def test_a_run_has_its_folder_by_its_words_wherever_they_stand(tmp_path: Path) -> None:
    """A line that is inserted or changed must not continue the checkpoint of another."""
    words = ("a.toml", "--training.seed", "1")
    [first] = plan([Line(1, words)], tmp_path, [])
    inserted, again = plan([Line(1, ("a.toml", "--training.seed", "2")), Line(2, words)], tmp_path, ["--x", "1"])
    assert again.folder == first.folder != inserted.folder
    [odd] = plan([Line(1, ("a/../b c.toml", "--x=\udcff/é" * 99))], tmp_path, [])
    assert odd.folder.parent == tmp_path
    assert re.fullmatch(r"[\w.-]{1,69}", odd.folder.name, re.ASCII)


@pytest.mark.parametrize(
    ("lines", "overrides"),
    [
        ([("a", "--output.dir=x"), ("b", "--output.dir", "y/../x")], []),
        ([("a",), ("b",)], ["--output.dir", "x"]),
        ([("a", "--x", "1"), ("a", "--x", "1")], []),
    ],
)
def test_two_runs_with_one_folder_are_refused(lines: list[tuple[str, ...]], overrides: list[str]) -> None:
    with pytest.raises(BadInput, match="lines 1 and 2 would both train in "):
        plan([Line(number, words) for number, words in enumerate(lines, 1)], Path("runs"), overrides)


@dataclass
class Script:
    """A run that is any program."""

    line: Line
    program: str

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", self.program]


def queue(*programs: str, jobs: int = 1) -> tuple[Queue, list[tuple[int, int | None]]]:
    told: list[tuple[int, int | None]] = []
    runs = [Script(Line(number, ("a",)), program) for number, program in enumerate(programs)]
    return Queue(cast(list[PlannedRun], runs), jobs, lambda run, code: told.append((run.line.number, code))), told


def test_one_after_the_other() -> None:
    done, told = queue("import sys; sys.exit(3)", "pass")
    done.work()
    assert told == [(0, None), (0, 3), (1, None), (1, 0)]


def test_two_at_a_time_share_the_cores(tmp_path: Path) -> None:
    """Each waits for the other, which would be for ever if it came after it."""
    program = """
import os, pathlib, time
mine, other = {mine!r}, {other!r}
pathlib.Path(mine).write_text(os.environ["SLURM_CPUS_PER_TASK"])
while not os.path.exists(other):
    time.sleep(0.01)
"""
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    done, told = queue(program.format(mine=one, other=two), program.format(mine=two, other=one), jobs=2)
    done.work()
    assert sorted(told, key=str) == sorted([(0, None), (1, None), (0, 0), (1, 0)], key=str)
    assert int((tmp_path / "one").read_text()) >= 1


def test_a_request_to_stop_reaches_the_run_and_begins_no_other(tmp_path: Path) -> None:
    program = f"""
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
pathlib.Path({str(tmp_path / "ready")!r}).touch()
time.sleep(600)
"""
    done, told = queue(program, "pass")
    worker = threading.Thread(target=done.work)
    worker.start()
    assert wait_until((tmp_path / "ready").exists, 120)
    done.stop(signal.SIGTERM, pass_on=True)
    worker.join(120)
    assert told == [(0, None), (0, 75)]


def sweep(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_runs_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "two.txt"
    file.write_text(f"{QUICKSTART} --training.seed 5\n{QUICKSTART} --training.nothing 1\n'open\n")
    short = [*SMALL, "--data.train_images=64", "--training.epochs=1"]
    code, out, err = sweep(capsys, file, "--dir", tmp_path / "runs", *short)
    assert (code, err) == (1, "bad input: line 3: no closing quotation\n")
    [folder] = (tmp_path / "runs").glob("quickstart-training.seed-5-*")
    assert read_json(folder / "summary.json")["seed"] == 5
    lines = out.splitlines()
    assert lines[0].startswith("== 1 of 3, line 1: ")
    assert any(folder.name[-16:] in line and "not recorded" in line for line in lines)
    assert any(re.search(r"/runs/quickstart-training.nothing-1-\w{8}: exit code 2$", line) for line in lines)
    assert f"{tmp_path}/runs/line-003: line 3: no closing quotation" in lines
    assert lines[-1] == "1 of 3 runs done"


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").write_text("# nothing\n")
    cases: dict[tuple[Any, ...], str] = {
        (tmp_path / "none",): "cannot be read",
        (tmp_path / "empty",): "holds no run",
        (tmp_path / "empty", "--jobs", "0"): "--jobs 0",
        (): "the following arguments are required: FILE",
    }
    for arguments, words in cases.items():
        code, out, err = sweep(capsys, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert words in err
