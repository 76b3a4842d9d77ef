"""Prints results to standard output and all else to standard error, and bears closed pipes and full disks."""

import contextlib
import errno
import os
import sys
from collections.abc import Generator
from pathlib import Path

from crosscheck.files import write_whole
from crosscheck.report.console import for_terminal
from crosscheck.report.report import Report
from crosscheck.streams import discard_output
from crosscheck.text import one_line

EXIT_BAD_INPUT = 2
EXIT_FAULT = 70
"""There is no verdict, because of a mistake in this program: never 1, which says that something does not match."""
EXIT_INTERRUPTED = 130  # as shells number it


class Unwritable(Exception):
    """A file that an option names, or standard output; the message says why."""


def say(result: object) -> None:
    """Print the result. If the reader closes the pipe early (`| head -1`), the exit code stays the same.

    Raises Unwritable where standard output takes nothing more, as on a full disk.
    """
    try:
        print(result, flush=True)
    except OSError as error:
        discard_output()
        if not isinstance(error, BrokenPipeError):
            raise Unwritable(f"standard output cannot be written ({error.strerror})") from None


def say_report(report: Report) -> None:
    """Print a report: on a terminal colored and cut to what fits a screen, elsewhere whole and plain. Raises Unwritable."""
    colored = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    say(for_terminal(report) if colored else report)


def tell(message: str) -> None:
    """Print a line about the command itself to standard error."""
    print(f"crosscheck: {one_line(message)}", file=sys.stderr, flush=True)


def refuse(message: str) -> int:
    """Print what is wrong with the input, and return the exit code that says so."""
    print(f"bad input: {one_line(message)}", file=sys.stderr)
    return EXIT_BAD_INPUT


def expect_writable(option: str, to: str) -> None:
    """Check before the work whether the file that an option names can be written. Raises Unwritable."""
    with _writing(option, to) as path:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no regular file")
        if not path.parent.is_dir():
            raise OSError(errno.ENOTDIR, "there is no such folder")


def write(option: str, to: str, text: str) -> None:
    """Write the file that an option names; an old one stays until the new one is complete. Raises Unwritable."""
    with _writing(option, to) as path:
        write_whole(path, text.encode(), shared=True)


@contextlib.contextmanager
def _writing(option: str, to: str) -> Generator[Path]:
    """Yield the path of `to`, and turn an OSError into Unwritable, which names the file as the user did."""
    try:
        yield Path(to)
    except OSError as error:
        raise Unwritable(f"{option} {to} cannot be written ({error.strerror})") from None
