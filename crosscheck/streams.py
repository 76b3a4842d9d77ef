"""Standard input, output and error of a command, which may be closed, full, or read by nobody any more."""

import contextlib
import io
import os
import sys


def open_streams() -> None:
    """Open standard input, output and error where they are closed, and let the last two take any text.

    A process without them would give their numbers to the files that it opens, and print into these. An error while it prints
    would change its exit code.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest number that is free
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Drop what standard output did not take, and what is still printed, or Python would try again when it ends."""
    with contextlib.suppress(io.UnsupportedOperation):  # a stream that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
