"""`python -m distrib.page RUN` makes a page again, without torch."""

import os
import sys
from pathlib import Path

import pytest

from distrib.page.__main__ import main
from tests.distrib.page.folders import hostile_run
from tests.support import JAX, TORCH, run_without

_MAKE = "import sys\nfrom distrib.page.__main__ import main\nsys.exit(main(sys.argv[1:]))"


def test_it_needs_no_torch(tmp_path: Path) -> None:
    result = run_without((*JAX, *TORCH), _MAKE, hostile_run(tmp_path, epochs=1))
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "index.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_without_its_library_it_names_the_line_that_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main([str(hostile_run(tmp_path, epochs=1))]) == 2
    assert capsys.readouterr().err.endswith(
        "Jinja2, which is not installed here: pip install '.[page]' in a clone of Twinstep\n"
    )


def test_help_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "Make RUN/index.html again" in said
    assert "Exit codes: 0 done, 2 bad input." in said


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_it_takes_one_folder(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "expected the folder of one run" in capsys.readouterr().err


def test_another_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (hostile_run(tmp_path, epochs=1) / "index.html").mkdir()
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"bad input: {tmp_path}/index.html cannot be written (Is a directory)\n"


def test_metrics_that_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = hostile_run(tmp_path, epochs=1) / "metrics.jsonl"
    metrics.unlink()
    os.mkfifo(metrics)
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"bad input: {metrics} cannot be read (it is a pipe, not a regular file)\n"
