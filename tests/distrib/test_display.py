"""Tests which process prints what."""

import contextlib
import os
import pty
import select
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from distrib.display import Display
from distrib.text import count, print_error
from tests.support import ROOT


@pytest.mark.parametrize(
    ("main", "quiet", "say", "line"),
    [(True, False, True, True), (True, True, True, False), (False, False, False, False), (False, True, False, False)],
)
def test_lines(capsys: pytest.CaptureFixture[str], main: bool, quiet: bool, say: bool, line: bool) -> None:
    display = Display(main=main, quiet=quiet)
    display.say("said")
    display.line("line")
    captured = capsys.readouterr()
    assert captured.out == ("said\n" if say else "") + ("line\n" if line else "")
    assert captured.err == ""


def drive(display: Display) -> None:
    display.open_bar(done=100, total=1000)
    display.advance(900, 0.125, "epoch 2/6")
    display.line("epoch 1")
    display.close_bar()
    display.close_bar()  # once more does no harm


def test_pipe_gets_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    drive(Display(main=True, quiet=False))
    captured = capsys.readouterr()
    assert captured.out == "epoch 1\n"
    assert captured.err == ""


def test_display_without_a_bar_takes_everything(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(main=True, quiet=False)
    display.advance(1, 0.5, "epoch 1/1")
    display.close_bar()
    assert capsys.readouterr() == ("", "")


class Terminal:
    """A real terminal as standard error, while a test is inside."""

    def __enter__(self) -> "Terminal":
        self.screen, end = pty.openpty()
        termios.tcsetwinsize(end, (24, 100))
        self.stream = os.fdopen(end, "w", encoding="utf-8")
        self.redirected = contextlib.redirect_stderr(self.stream)
        self.redirected.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.redirected.__exit__(*error)
        self.stream.close()
        os.close(self.screen)

    def shown(self) -> str:
        """What it was sent so far. It arrives a moment later, so an end mark is sent behind it."""
        print("\0", end="", file=self.stream, flush=True)
        shown = b""
        while not shown.endswith(b"\0"):
            assert select.select([self.screen], [], [], 5.0)[0], "the terminal is silent"
            shown += os.read(self.screen, 65536)
        return shown.removesuffix(b"\0").decode()


def test_terminal_gets_a_bar_over_images(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal() as terminal:
        drive(Display(main=True, quiet=False))
        shown = terminal.shown()
    for word in ("100/1.00k", "img"):
        assert word in shown
    assert capsys.readouterr().out == "epoch 1\n"


@pytest.mark.parametrize(("main", "quiet"), [(True, True), (False, False), (False, True)])
def test_quiet_and_other_ranks_get_no_bar(main: bool, quiet: bool) -> None:
    with Terminal() as terminal:
        drive(Display(main=main, quiet=quiet))
        assert terminal.shown() == ""


BROKEN = """
import os
from distrib.display import Display
from distrib.text import print_error
from tests.support import ROOT
read, write = os.pipe()
os.close(read)
os.dup2(write, 1)
display = Display(main=True, quiet=False)
display.say("nobody reads this")
display.line("nor this")
"""


def test_a_reader_that_is_gone_ends_nothing() -> None:
    """`… | tee log`, and Ctrl-C ends tee first: the checkpoint must still be written."""
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_a_terminal_obeys_is_shown_instead(capsys: pytest.CaptureFixture[str]) -> None:
    name = "café\x1b[2J\r\x07\u202e" + os.fsdecode(b"\xff")
    Display(main=True, quiet=False).say(f"class {name}\nnext")
    print_error(f"bad input: {name}")
    captured = capsys.readouterr()
    escaped = "café\\x1b[2J\\r\\x07\\u202e\\udcff"
    assert (captured.out, captured.err) == (f"class {escaped}\nnext\n", f"bad input: {escaped}\n")


@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_stream_is_not_given_to_a_file(closed: int, tmp_path: Path) -> None:
    """Whatever is printed would end in the first file that was opened."""
    script = (
        "import sys; from crosscheck.streams import open_streams; from distrib.display import Display; "
        "from distrib.text import print_error; open_streams(); "
        "file = open(sys.argv[1], 'w'); Display(main=True, quiet=False).say('said ü'); print_error('told'); file.close()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a")]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    shell = ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *command]
    found = subprocess.run(shell, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == ("" if closed == 1 else "said \\xfc\n")
    assert found.stderr == ("" if closed == 2 else "told\n")
    assert (tmp_path / "a").read_text() == ""


@pytest.mark.parametrize(
    ("number", "thing", "said"),
    [
        *((1, "epoch", "1 epoch"), (0, "step", "0 steps"), (1170, "step", "1,170 steps")),
        *((2, "process", "2 processes"), (1, "process", "1 process")),
    ],
)
def test_one_is_no_plural(number: int, thing: str, said: str) -> None:
    assert count(number, thing) == said
