"""Each kind of error of a small command has one exit code and prints one line."""

import errno
from importlib import import_module

import pytest

from distrib.errors import BadInput, PeerLost, RunFault
from distrib.exits import run_command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (BadInput("no \x1b[31mfile"), 2, "bad input: no \\x1b[31mfile\n"),
        (RunFault("it parts"), 1, "fault: it parts\n"),
        (PeerLost("rank 1 is gone", reported_here=True), 1, "fault: rank 1 is gone\n"),
        (OSError(errno.ENOSPC, "No space left", "a/b"), 2, "bad input: a/b: No space left\n"),
        (OSError(errno.EIO, "Input/output error"), 1, "fault: standard output: Input/output error\n"),
    ],
)
def test_each_error_has_its_exit_code(
    capsys: pytest.CaptureFixture[str], error: Exception, code: int, said: str
) -> None:
    def work() -> int:
        raise error

    assert run_command(work) == code
    assert capsys.readouterr().err == said
    assert run_command(lambda: 75) == 75


def test_an_error_that_nobody_foresaw_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


@pytest.mark.parametrize("module", ["bench", "doctor", "predict", "compare", "export", "sweep", "page"])
def test_every_small_command_shows_its_arguments_escaped(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An escape sequence in an argument would be obeyed by the terminal."""
    main = import_module(f"distrib.{module}" if module in ("bench", "predict") else f"distrib.{module}.__main__").main
    words = {"predict": ["\x1b[31m", __file__], "compare": ["\x1b[31m", "b"], "doctor": ["\x1b[31m"]}
    assert main(words.get(module, ["\x1b[31m"])) == 2
    out, err = capsys.readouterr()
    assert err.startswith("bad input: ")
    assert "\x1b" not in out + err
    assert "x1b" in err
