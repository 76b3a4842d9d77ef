"""On a terminal a report is colored and cut; everywhere else it is as it always was."""

import re
from dataclasses import replace

import pytest

from crosscheck import Report
from crosscheck.commands.output import say_report
from crosscheck.report.console import for_terminal
from tests.crosscheck.page.reports import ALL, hostile, large, matching, mismatching, vacuous


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.mark.parametrize(("report", "color"), [(matching(), 32), (mismatching(), 31), (vacuous(), 33)])
def test_the_verdict_has_its_color_and_nothing_else_changes(report: Report, color: int) -> None:
    assert for_terminal(report).startswith(f"\x1b[1;{color}m{report.verdict}\x1b[0m: ")
    assert plain(for_terminal(report)) == str(report)


def test_what_there_is_much_of_is_cut_and_counted() -> None:
    report = mismatching()
    power = {f"group {k}": report.power["group 0"] for k in range(40)}
    said = for_terminal(replace(report, findings=report.findings * 30, power=power, notes=("a note",) * 9))
    lines = plain(said).splitlines()
    assert len(lines) < 24
    assert sum(line.startswith("- step ") for line in lines) == 5
    cut = str(replace(report, findings=report.findings * 30, power=power, notes=("a note",) * 9)).count("\n") + 1
    assert lines[-1].startswith(f"… and {cut - len(lines) + 1} lines more")


def test_what_a_line_begins_with_does_not_color_it() -> None:
    """The name of a situation is a user's, and may begin as a warning or a note does."""
    report = replace(matching(), situations={f"step {k}, warning: none": "not tried" for k in range(9)})
    said = for_terminal(report)
    assert plain(said).count("not tried") == 9
    assert plain(said) == str(report)


def test_names_cannot_color_anything() -> None:
    assert "\x1b[31m" not in for_terminal(hostile()).replace("\x1b[1;31m", "")


@pytest.mark.parametrize(
    ("terminal", "environment", "colored"),
    [(True, {}, True), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False), (False, {}, False)],
)
def test_only_a_terminal_is_told_so(
    terminal: bool,
    environment: dict[str, str],
    colored: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    say_report(large())
    assert capsys.readouterr().out == f"{for_terminal(large()) if colored else large()}\n"


@pytest.mark.parametrize("name", ALL)
def test_every_report_fits_a_screen(name: str) -> None:
    assert len(for_terminal(ALL[name]()).splitlines()) <= 32
