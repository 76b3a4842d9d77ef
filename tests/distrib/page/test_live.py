"""Pages come in time, cost a hundredth of the run at most, and never end it."""

import sys
from pathlib import Path

import pytest

from distrib.display import Display
from distrib.page import render
from distrib.page.live import LivePage
from tests.clock import FakeClock
from tests.distrib.page.folders import hostile_run


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def page(clock: FakeClock) -> LivePage:
    return LivePage(Display(main=True, quiet=False), clock)


def test_it_is_written_every_half_minute_and_at_epochs(
    clock: FakeClock, page: LivePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_: Path) -> None:
        clock.now += 0.05

    monkeypatch.setattr(render, "write", write)
    written: list[int] = []
    for second in range(1, 301):
        clock.now = 1000.0 + second
        if page.due(epoch_ended=second % 100 == 0):
            page.write(Path())
            written.append(second)
    assert written == [30, 61, 92, 100, 131, 162, 193, 200, 231, 262, 293, 300]


def test_it_costs_a_hundredth_at_most(clock: FakeClock, page: LivePage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of a second, and pages that take longer and longer."""
    cost = 0.1

    def write(_: Path) -> None:
        clock.now += cost

    monkeypatch.setattr(render, "write", write)
    for _ in range(3000):
        clock.now += 1.0
        if page.due(epoch_ended=True):
            page.write(Path())
            assert page.spent <= 0.0101 * (clock.now - 1000.0) + 0.01 * cost
            cost *= 1.02
    assert page.spent > 0.005 * 3000, "what it may cost is used"


def test_a_page_that_cannot_be_written_is_told_of_once(
    page: LivePage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is tried again: a disk may have room by then."""
    folder = hostile_run(tmp_path, epochs=1)
    (folder / "index.html").mkdir()
    for _ in range(2):
        page.write(folder)
    assert capsys.readouterr().out == (
        f"note: {folder}/index.html could not be written (Is a directory); the run goes on without it\n"
    )
    (folder / "index.html").rmdir()
    page.write(folder)
    assert (folder / "index.html").is_file()


def test_a_mistake_in_the_template_is_told_of(
    page: LivePage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Path) -> None:
        raise ZeroDivisionError("in the template")

    monkeypatch.setattr(render, "write", broken)
    page.write(tmp_path)
    assert "(ZeroDivisionError: in the template); the run goes on" in capsys.readouterr().out


def test_without_the_template_library_there_is_none(
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    page = LivePage(Display(main=True, quiet=False), clock)
    clock.now += 1000
    assert not page.due(epoch_ended=True)
    page.write(tmp_path)
    assert list(tmp_path.iterdir()) == []
